// Compare: a matrix of photos and texts.

import { el, lines } from "../dom.js";
import { shade } from "../heat.js";
import { checkModel, current, onModelChange, whyNot } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { number, percent, t } from "../words.js";

export class Compare extends Panel {
  constructor(root) {
    super(root);
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.matrix = this.find(".matrix");
    this.form.addEventListener("submit", () => this.run((signal) => this.compare(signal)));
    onModelChange(() => this.enableMeasures());
  }

  /** Enables the measures that the chosen model has. */
  enableMeasures() {
    const able = checkModel(this.notice, "similarity");
    this.enable(able);
    const [cosine, match] = this.field("measure");
    match.disabled = !able || !current().can.includes("match");
    match.closest("label").title = whyNot(current(), "match");
    if (match.disabled) cosine.checked = true;
  }

  async compare(signal) {
    const photos = this.photos.photos;
    const texts = lines(this.field("texts"));
    const match = this.field("measure").value === "match";
    if (!photos.length) throw new Error(t("no_photo"));
    if (!texts.length) throw new Error(t("no_texts"));
    this.sentPhotos = { image: photos };
    const body = { model: current().id, images: await this.photos.inRequest(), texts };
    const answer = await post(match ? "/v1/match" : "/v1/similarity", body, signal);
    this.addWarnings(answer.warnings);
    const rows = match ? photos.map(() => null) : answer.cosines; // null: an error
    for (const { index, error, probabilities } of answer.data) {
      if (error) this.addPhotoError(photos[index], error);
      else rows[index] = probabilities;
    }
    this.draw(photos, texts, rows, match);
  }

  /** Cosines are coloured between the lowest and the highest, probabilities between 0 and 1. */
  draw(photos, texts, rows, match) {
    const values = rows.filter(Boolean).flat();
    const [low, high] = match ? [0, 1] : [Math.min(...values), Math.max(...values)];
    const cell = (value, best) => {
      const { background, text } = shade(high > low ? (value - low) / (high - low) : 0.5);
      const element = el("td", { class: best && "best", title: best && t("best_of_row") }, match ? percent(value) : number(value));
      element.style.background = background;
      element.style.color = text;
      return element;
    };
    const line = (photo, row) => el("tr", {},
      el("th", { scope: "row" }, photo.image(true), el("span", { title: photo.name }, photo.name)),
      ...(row ? row.map((value) => cell(value, value === Math.max(...row))) : [el("td", { colspan: texts.length }, t("failed"))]));
    this.matrix.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("photo")), ...texts.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...photos.map((photo, i) => line(photo, rows[i])))));
    this.matrix.hidden = false;
  }
}
