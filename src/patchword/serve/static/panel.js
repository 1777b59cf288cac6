// What all tabs share: one request at a time, its progress, its errors and warnings.

import { el } from "./dom.js";
import { reason, translated } from "./translation.js";
import { t } from "./words.js";

export class Panel {
  /** Of an element with .status, .errors and .warnings. */
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.notice = root.querySelector(".cannot");
    this.running = null;
    this.sent = {}; // the photos that were asked about, by what the server calls one: "image 2"
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  /** Whether its fields can be used. */
  enable(able) {
    for (const field of this.form.elements) field.disabled = !able;
  }

  clear() {
    this.find(".status").textContent = "";
    this.find(".errors").replaceChildren();
    this.find(".warnings").replaceChildren();
  }

  say(text) {
    this.find(".status").textContent = text;
  }

  fail(sentence) {
    this.find(".errors").append(el("p", {}, sentence));
  }

  /** What the server says, in the page's language, with the names of photos for their numbers. */
  told(sentence) {
    return translated(sentence).replace(/\b(image|good photo) (\d+)/g, (number, kind, n) => this.sent[kind]?.[n - 1]?.name ?? number);
  }

  /** Why one of several photos has no answer. Returns the reason. */
  failed(photo, { message }) {
    const why = reason(message);
    this.fail(`${photo.name}: ${why}`);
    return why;
  }

  /** Warnings that came with an answer, each once. */
  warn(warnings = []) {
    const list = this.find(".warnings");
    const shown = new Set([...list.children].map((item) => item.textContent));
    for (const text of warnings.map((warning) => this.told(warning))) {
      if (!shown.has(text)) list.append(el("li", {}, text));
      shown.add(text);
    }
  }

  /** Do `work(signal)`; what still runs for this panel is given up. Says what goes wrong. */
  async run(work, { keep = false } = {}) {
    this.running?.abort();
    const mine = (this.running = new AbortController());
    if (!keep) this.clear();
    this.find(".errors").replaceChildren();
    this.root.setAttribute("aria-busy", "true");
    this.say(t("working"));
    try {
      const said = await work(mine.signal);
      if (this.running === mine) this.say(said ?? "");
    } catch (error) {
      if (error.name === "AbortError" || this.running !== mine) return;
      this.say("");
      this.fail(error.message);
    } finally {
      if (this.running === mine) this.root.removeAttribute("aria-busy");
    }
  }
}
