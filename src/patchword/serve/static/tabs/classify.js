// Classify: which of the typed labels each photo is.

import { bars, el, items } from "../dom.js";
import { current, explain, onModel } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

export class Classify extends Panel {
  constructor(root) {
    super(root);
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.form.addEventListener("submit", () => this.run((signal) => this.classify(signal)));
    onModel(() => this.enable(explain(this.notice, "classify")));
  }

  async classify(signal) {
    const labels = items(this.form.elements.namedItem("labels"));
    const photos = this.photos.photos;
    if (!photos.length) throw new Error(t("no_photo"));
    if (!labels.length) throw new Error(t("no_labels"));
    this.sent = { image: photos };
    const answer = await post("/v1/classify", {
      model: current().id,
      images: await this.photos.inRequest(),
      labels,
      multi_label: this.form.elements.namedItem("multi").checked,
    }, signal);
    this.warn(answer.warnings);
    this.find(".cards").replaceChildren(...answer.data.map((one) => this.card(photos[one.index], one)));
  }

  card(photo, one) {
    const why = one.error && this.failed(photo, one.error);
    const labels = [...(one.labels ?? [])].sort((a, b) => b.probability - a.probability);
    return el("article", { class: "card" }, photo.image(), el("h3", {}, photo.name),
      why ? el("p", { class: "error" }, why)
        : bars(labels.map(({ label, probability }) => ({ label, share: probability, said: percent(probability) }))));
  }

  receive(photo) {
    this.photos.add([photo]);
  }
}
