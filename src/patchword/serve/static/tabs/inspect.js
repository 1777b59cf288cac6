// Inspect: what is unlike good photos, and what a verdict guarantees.

import { el, settled, slider } from "../dom.js";
import { current, onModel, explain } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { pictureOf, Stage } from "../stage.js";
import { number, percent, t } from "../words.js";

export class Inspect extends Panel {
  constructor(root) {
    super(root);
    this.good = new PhotoField(this.find("[data-photos='good']"), () => { this.fitted = null; });
    this.photos = new PhotoField(this.find("[data-photos='parts']"));
    const judge = settled(150, () => this.run((signal) => this.judge(signal), { keep: true }));
    this.falseAlarms = slider(this.form, "false_alarms", (value) => percent(value, 0), () => this.fitted && this.answer && judge());
    this.opacity = slider(this.form, "opacity", (value) => percent(value, 0), (value) => this.fade(value));
    this.form.addEventListener("submit", () => this.run((signal) => this.inspect(signal)));
    onModel(() => {
      this.fitted = null; // another model learned nothing yet
      this.enable(explain(this.notice, "inspect"));
    });
  }

  /** Good photos are sent once: the server keeps what it learned from them. */
  async inspect(signal) {
    const photos = this.photos.photos;
    if (!this.good.photos.length) throw new Error(t("no_good"));
    if (!photos.length) throw new Error(t("no_parts"));
    const answer = await this.asked(signal);
    this.warn(answer.warnings);
    this.fitted = answer.fitted;
    this.answer = answer;
    for (const one of answer.good ?? []) this.fail(`${this.good.photos[one.index].name}: ${one.error.message}`);
    const found = answer.data.filter((one) => !one.error).sort((a, b) => b.score - a.score);
    for (const one of answer.data) {
      if (one.error) this.fail(`${photos[one.index].name}: ${one.error.message}`);
      else this.warn(one.warnings, photos[one.index].name);
    }
    this.cards = await Promise.all(found.map((one) => this.card(photos[one.index], one)));
    this.find(".cards").replaceChildren(...this.cards.map(({ root }) => root));
    return this.verdicts(answer);
  }

  async asked(signal) {
    const learned = this.fitted ? { fitted: this.fitted } : { good: await this.good.inRequest() };
    try {
      return await post("/v1/inspect", {
        model: current().id, ...learned, images: await this.photos.inRequest(), false_alarms: Number(this.falseAlarms.value),
      }, signal);
    } catch (error) {
      if (error.code !== "not_fitted") throw error;
      this.fitted = null; // the server has forgotten it: it learns again
      return this.asked(signal);
    }
  }

  /** Another rate of false alarms: nothing is looked at again. */
  async judge(signal) {
    const answer = await post("/v1/inspect",
      { model: current().id, fitted: this.fitted, images: [], false_alarms: Number(this.falseAlarms.value) }, signal);
    return this.verdicts(answer);
  }

  verdicts({ threshold, note }) {
    this.find(".note").textContent = note;
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

  async card(photo, one) {
    const figure = el("figure", { class: "stage" },
      el("div", { class: "layers" }, el("img"), el("canvas", { "aria-hidden": "true" })), el("figcaption"));
    const stage = new Stage(figure);
    await stage.show(photo, Number(this.opacity.value));
    stage.mask = await pictureOf(one.map); // the photo under its map and boxes
    stage.draw([stage.mask.naturalWidth, stage.mask.naturalHeight]);
    const verdict = el("p", { class: "verdict" });
    const p = one.p_value === null ? t("no_p") : t("p_value", { p: number(one.p_value) });
    const said = `${t("score")} ${number(one.score)}, ${p}, ${t("places", { places: one.boxes.length })}`;
    return { root: el("article", { class: "card" }, figure, el("h3", {}, photo.name), verdict, el("p", {}, said)), one, verdict, stage };
  }

  fade(opacity) {
    for (const { stage } of this.cards ?? []) {
      stage.opacity = opacity;
      stage.draw();
    }
  }
}
