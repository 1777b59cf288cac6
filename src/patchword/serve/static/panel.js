// The base of all tabs: one request at a time, its progress, errors and warnings.

import { el } from "./dom.js";
import { errorMessage, translated } from "./translation.js";
import { t } from "./words.js";

export class Panel {
  /** root: an element with .status, .errors and .warnings. */
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.notice = root.querySelector(".cannot");
    this.running = null;
    this.sentPhotos = {}; // kind -> photos of the request; the server calls one "image 2", a kind and a number
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  field(name) {
    return this.form.elements.namedItem(name);
  }

  /** Takes a photo from another tab. */
  receive(photo) {
    this.photos.add([photo]);
  }

  /** Enables or disables the fields. */
  enable(enabled) {
    for (const field of this.form.elements) field.disabled = !enabled;
  }

  clear() {
    this.find(".status").textContent = "";
    this.find(".errors").replaceChildren();
    this.find(".warnings").replaceChildren();
  }

  setStatus(text) {
    this.find(".status").textContent = text;
  }

  addError(sentence) {
    this.find(".errors").append(el("p", {}, sentence));
  }

  /** A sentence of the server in the page's language, with the names of photos instead of numbers. */
  translate(sentence) {
    return translated(sentence).replace(/\b(image|good photo) (\d+)/g, (match, kind, number) =>
      this.sentPhotos[kind]?.[number - 1]?.name ?? match);
  }

  /** Shows the error of one of several photos. Returns its message. */
  addPhotoError(photo, error) {
    const message = errorMessage(error.message);
    this.addError(`${photo.name}: ${message}`);
    return message;
  }

  /** Shows the warnings of an answer, each once. */
  addWarnings(warnings = []) {
    const list = this.find(".warnings");
    const shown = new Set([...list.children].map((item) => item.textContent));
    for (const text of warnings.map((warning) => this.translate(warning))) {
      if (!shown.has(text)) list.append(el("li", {}, text));
      shown.add(text);
    }
  }

  /**
   * Runs `work(signal)` after aborting the panel's previous work. Shows the text that it returns, or
   * its error. keep: leave the status and warnings of the previous work.
   */
  async run(work, { keep = false } = {}) {
    this.running?.abort();
    const controller = new AbortController();
    this.running = controller;
    if (!keep) this.clear();
    this.find(".errors").replaceChildren();
    this.root.setAttribute("aria-busy", "true");
    this.setStatus(t("working"));
    try {
      const text = await work(controller.signal);
      if (this.running === controller) this.setStatus(text ?? "");
    } catch (error) {
      if (error.name === "AbortError" || this.running !== controller) return;
      this.setStatus("");
      this.addError(error.message);
    } finally {
      if (this.running === controller) this.root.removeAttribute("aria-busy");
    }
  }
}
