// Inspect: what is unlike good photos, and what a verdict guarantees.

import { debounce, el, slider } from "../dom.js";
import { checkModel, current, onModelChange } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { loadPicture, Stage } from "../stage.js";
import { decimalsBeside, number, percent, t } from "../words.js";

const inRequest = (photos) => Promise.all(photos.map((photo) => photo.inRequest()));

export class Inspect extends Panel {
  constructor(root) {
    super(root);
    this.good = new PhotoField(this.find("[data-photos='good']"), () => { this.fitted = null; });
    this.photos = new PhotoField(this.find("[data-photos='parts']"));
    const judge = debounce(150, () => {
      if (this.fitted && this.answer) this.run((signal) => this.judge(signal), { keep: true });
    });
    this.falseAlarms = slider(this.field("false_alarms"), (value) => percent(value, 0), judge);
    this.opacity = slider(this.field("opacity"), (value) => percent(value, 0), (value) => this.fade(value));
    this.form.addEventListener("submit", () => this.run((signal) => this.inspect(signal)));
    onModelChange(() => {
      this.fitted = null; // the new model has not seen the good photos
      this.enable(checkModel(this.notice, "inspect"));
    });
  }

  /** Good photos are sent once: the server keeps the fitted inspector under a name. */
  async inspect(signal) {
    const good = this.good.photos;
    const photos = this.photos.photos;
    const model = current().id;
    const rate = Number(this.falseAlarms.value);
    if (!good.length) throw new Error(t("no_good"));
    if (!photos.length) throw new Error(t("no_parts"));
    this.sentPhotos = { image: photos, "good photo": good };
    this.answer = null; // until it is there, the slider judges nothing
    const answer = await this.requestInspection({ model, false_alarms: rate }, good, photos, signal);
    this.addWarnings(answer.warnings);
    // Not to be used again if the good photos or the model were changed meanwhile.
    this.fitted = good === this.good.photos && model === current().id ? answer.fitted : null;
    for (const { index, error } of answer.good ?? []) this.addPhotoError(good[index], error);
    for (const { index, error } of answer.data) {
      if (error) this.addPhotoError(photos[index], error);
    }
    const results = answer.data.filter((result) => !result.error).sort((a, b) => b.score - a.score);
    const cards = await Promise.all(results.map((result) => this.card(photos[result.index], result, signal)));
    this.cards = cards;
    this.answer = answer;
    this.find(".cards").replaceChildren(...cards.map(({ root }) => root));
    const summary = this.showVerdicts(answer);
    return this.fitted && rate !== Number(this.falseAlarms.value) ? this.judge(signal) : summary;
  }

  async requestInspection(options, good, photos, signal) {
    const learned = this.fitted ? { fitted: this.fitted } : { good: await inRequest(good) };
    try {
      return await post("/v1/inspect", { ...options, ...learned, images: await inRequest(photos) }, signal);
    } catch (error) {
      if (error.code !== "not_fitted") throw error;
      this.fitted = null; // the server has forgotten the inspector: fit another
      return this.requestInspection(options, good, photos, signal);
    }
  }

  /** Judges the same scores with another rate of false alarms. */
  async judge(signal) {
    const body = { model: current().id, fitted: this.fitted, images: [], false_alarms: Number(this.falseAlarms.value) };
    try {
      return this.showVerdicts(await post("/v1/inspect", body, signal));
    } catch (error) {
      if (error.code !== "not_fitted") throw error;
      this.fitted = null;
      return this.inspect(signal);
    }
  }

  /** Writes the verdict on each card. Returns a summary. */
  showVerdicts({ threshold, note }) {
    const sentences = note.split(/(?<=\.) (?=[A-Z])/);
    this.find(".note").textContent = sentences.map((sentence) => this.translate(sentence)).join(" ");
    let rejected = 0;
    const scores = this.cards.map(({ result }) => result.score);
    const digits = threshold === null ? 3 : decimalsBeside(scores, threshold);
    for (const { result, verdict, facts } of this.cards) {
      let [kind, text] = ["good", `✓ ${t("passed")}`];
      if (threshold === null) {
        [kind, text] = ["", t("no_verdict")];
      } else if (result.score > threshold) {
        rejected += 1;
        [kind, text] = ["bad", `✗ ${t("rejected")}`];
      } else if (result.outside) { // no reason to call it good
        [kind, text] = ["", t("not_rejected", { model: current().id })];
      }
      verdict.className = `verdict ${kind}`;
      verdict.textContent = text;
      const p = result.p_value === null ? t("no_p") : t("p_value", { p: number(result.p_value) });
      const places = t("places", { places: result.boxes.length });
      facts.textContent = t("card_score", { score: number(result.score, digits), p, places });
    }
    if (threshold === null) return t("without_threshold");
    return t("rejected_of", { rejected, all: this.cards.length, threshold: number(threshold, digits) });
  }

  async card(photo, result, signal) {
    const figure = el("figure", { class: "stage" },
      el("div", { class: "layers" }, el("img"), el("canvas", { "aria-hidden": "true" })), el("figcaption"));
    const stage = new Stage(figure);
    await stage.show(photo, Number(this.opacity.value), signal);
    stage.mask = await loadPicture(result.map, signal); // the photo under its map and boxes
    stage.draw([stage.mask.naturalWidth, stage.mask.naturalHeight]);
    const verdict = el("p", { class: "verdict" });
    const facts = el("p");
    const root = el("article", { class: "card" }, figure, el("h3", {}, photo.name), verdict, facts);
    return { root, result, verdict, facts, stage };
  }

  fade(opacity) {
    for (const { stage } of this.cards ?? []) {
      stage.opacity = opacity;
      stage.draw();
    }
  }
}
