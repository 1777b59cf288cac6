// What all tabs share: one request at a time, its progress, its errors and warnings.

import { el } from "./dom.js";
import { t } from "./words.js";

// What the server warns of, which it does in English, where the page has words for it.
const SAID = {
  unknown_words: /^(?<model>\S+) does not know (?<words>.+)\. It knows (?<known>.+), in English; for others load a public checkpoint$/,
  unlike_training: /^(?<some>\d+) of (?<all>\d+) [a-z ]+? looks? unlike what (?<model>\S+) was trained on: (?<names>[^;]+)\. It knows (?<known>.+?)(, in English; for others load a public checkpoint)?$/,
  unlike_alone: /^the [a-z ]+? looks unlike what (?<model>\S+) was trained on: (?<names>[^;]+)\. It knows (?<known>.+?)(, in English; for others load a public checkpoint)?$/,
  one_colour: /^(\d+ of \d+ photos ha(s|ve)|the photo has) one colour alone, about which no answer means anything: (?<names>.+)$/,
};
const SAY = {
  unknown_words: (found) => t("unknown_words", found),
  unlike_training: (found) => t("unlike_training", found),
  unlike_alone: (found) => t("unlike_alone", found),
  one_colour: (found) => t("one_colour", found),
};

/** A warning in the page's language; one that it has no words for as it was said. */
function told(warning) {
  for (const [key, sentence] of Object.entries(SAID)) {
    const found = sentence.exec(warning);
    if (found) return SAY[key](found.groups);
  }
  return t("as_said", { warning });
}

export class Panel {
  /** Of an element with .status, .errors and .warnings. */
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.notice = root.querySelector(".cannot");
    this.running = null;
    this.form?.addEventListener("submit", (event) => event.preventDefault());
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

  /** Warnings that came with an answer, each once. */
  warn(warnings = [], about = "") {
    const list = this.find(".warnings");
    const shown = new Set([...list.children].map((item) => item.textContent));
    for (const warning of warnings) {
      const text = about ? `${about}: ${told(warning)}` : told(warning);
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
