// Classify: which of the typed labels fits each photo.

import { bars, el, items } from "../dom.js";
import { checkModel, current, onModelChange } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

export class Classify extends Panel {
  constructor(root) {
    super(root);
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.form.addEventListener("submit", () => this.run((signal) => this.classify(signal)));
    onModelChange(() => this.enable(checkModel(this.notice, "classify")));
  }

  async classify(signal) {
    const labels = items(this.field("labels"));
    const photos = this.photos.photos;
    if (!photos.length) throw new Error(t("no_photo"));
    if (!labels.length) throw new Error(t("no_labels"));
    this.sentPhotos = { image: photos };
    const answer = await post("/v1/classify", {
      model: current().id,
      images: await this.photos.inRequest(),
      labels,
      multi_label: this.field("multi").checked,
    }, signal);
    this.addWarnings(answer.warnings);
    this.find(".cards").replaceChildren(...answer.data.map((record) => this.card(photos[record.index], record)));
  }

  card(photo, { labels = [], error }) {
    const sorted = [...labels].sort((a, b) => b.probability - a.probability);
    const rows = sorted.map(({ label, probability }) => ({ label, share: probability, text: percent(probability) }));
    const result = error ? el("p", { class: "error" }, this.addPhotoError(photo, error)) : bars(rows);
    return el("article", { class: "card" }, photo.image(), el("h3", {}, photo.name), result);
  }
}
