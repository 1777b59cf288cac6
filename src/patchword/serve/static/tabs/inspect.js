// Inspect: what is unlike good photos, and what a verdict guarantees.

import { el, settled, slider } from "../dom.js";
import { current, onModel, explain } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { pictureOf, Stage } from "../stage.js";
import { number, percent, t } from "../words.js";

const sent = (photos) => Promise.all(photos.map((photo) => photo.inRequest()));

export class Inspect extends Panel {
  constructor(root) {
    super(root);
    this.good = new PhotoField(this.find("[data-photos='good']"), () => { this.fitted = null; });
    this.photos = new PhotoField(this.find("[data-photos='parts']"));
    const judge = settled(150, () => {
      if (this.fitted && this.answer) this.run((signal) => this.judge(signal), { keep: true });
    });
    this.falseAlarms = slider(this.form, "false_alarms", (value) => percent(value, 0), judge);
    this.opacity = slider(this.form, "opacity", (value) => percent(value, 0), (value) => this.fade(value));
    this.form.addEventListener("submit", () => this.run((signal) => this.inspect(signal)));
    onModel(() => {
      this.fitted = null; // another model learned nothing yet
      this.enable(explain(this.notice, "inspect"));
    });
  }

  /** Good photos are sent once: the server keeps what it learned from them. */
  async inspect(signal) {
    const good = this.good.photos;
    const photos = this.photos.photos;
    const model = current().id;
    const rate = Number(this.falseAlarms.value);
    if (!good.length) throw new Error(t("no_good"));
    if (!photos.length) throw new Error(t("no_parts"));
    this.sent = { image: photos, "good photo": good };
    this.answer = null; // until it is there, the slider judges nothing
    const answer = await this.asked({ model, false_alarms: rate }, good, photos, signal);
    this.warn(answer.warnings);
    // Of good photos and a model that were changed meanwhile, nothing is learned.
    this.fitted = good === this.good.photos && model === current().id ? answer.fitted : null;
    for (const one of answer.good ?? []) this.failed(good[one.index], one.error);
    const found = answer.data.filter((one) => !one.error).sort((a, b) => b.score - a.score);
    for (const one of answer.data) {
      if (one.error) this.failed(photos[one.index], one.error);
    }
    const cards = await Promise.all(found.map((one) => this.card(photos[one.index], one, signal)));
    this.cards = cards;
    this.answer = answer;
    this.find(".cards").replaceChildren(...cards.map(({ root }) => root));
    const said = this.verdicts(answer);
    return this.fitted && rate !== Number(this.falseAlarms.value) ? this.judge(signal) : said;
  }

  async asked(how, good, photos, signal) {
    const learned = this.fitted ? { fitted: this.fitted } : { good: await sent(good) };
    try {
      return await post("/v1/inspect", { ...how, ...learned, images: await sent(photos) }, signal);
    } catch (error) {
      if (error.code !== "not_fitted") throw error;
      this.fitted = null; // the server has forgotten it: it learns again
      return this.asked(how, good, photos, signal);
    }
  }

  /** Another rate of false alarms: nothing is looked at again. */
  async judge(signal) {
    const asked = { model: current().id, fitted: this.fitted, images: [], false_alarms: Number(this.falseAlarms.value) };
    try {
      return this.verdicts(await post("/v1/inspect", asked, signal));
    } catch (error) {
      if (error.code !== "not_fitted") throw error;
      this.fitted = null;
      return this.inspect(signal);
    }
  }

  verdicts({ threshold, note }) {
    const sentences = note.split(/(?<=\.) (?=[A-Z])/);
    this.find(".note").textContent = sentences.map((sentence) => this.told(sentence)).join(" ");
    let rejected = 0;
    for (const { one, verdict } of this.cards) {
      const bad = threshold === null ? null : one.score > threshold;
      rejected += bad === true;
      const unknown = bad === false && one.outside; // no reason to call it good
      verdict.className = `verdict ${bad === null || unknown ? "" : bad ? "bad" : "good"}`;
      verdict.textContent = unknown ? t("not_rejected", { model: current().id })
        : bad === null ? t("no_verdict") : bad ? `✗ ${t("rejected")}` : `✓ ${t("passed")}`;
    }
    if (threshold === null) return t("without_threshold");
    return t("rejected_of", { rejected, all: this.cards.length, threshold: number(threshold) });
  }

  async card(photo, one, signal) {
    const figure = el("figure", { class: "stage" },
      el("div", { class: "layers" }, el("img"), el("canvas", { "aria-hidden": "true" })), el("figcaption"));
    const stage = new Stage(figure);
    await stage.show(photo, Number(this.opacity.value), signal);
    stage.mask = await pictureOf(one.map, signal); // the photo under its map and boxes
    stage.draw([stage.mask.naturalWidth, stage.mask.naturalHeight]);
    const verdict = el("p", { class: "verdict" });
    const p = one.p_value === null ? t("no_p") : t("p_value", { p: number(one.p_value) });
    const said = t("card_said", { score: number(one.score), p, places: t("places", { places: one.boxes.length }) });
    return { root: el("article", { class: "card" }, figure, el("h3", {}, photo.name), verdict, el("p", {}, said)), one, verdict, stage };
  }

  fade(opacity) {
    for (const { stage } of this.cards ?? []) {
      stage.opacity = opacity;
      stage.draw();
    }
  }
}
