// Ask: a caption of a photo, and answers to questions about it.

import { bars, el, items } from "../dom.js";
import { current, explain, onModel } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { reason } from "../translation.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

export class Ask extends Panel {
  constructor(root) {
    super(root);
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.find(".caption").addEventListener("click", () => this.run((signal) => this.caption(signal)));
    this.form.addEventListener("submit", () => this.run((signal) => this.ask(signal)));
    onModel(() => this.enable(explain(this.notice, "ask")));
  }

  photo() {
    if (!this.photos.first) throw new Error(t("no_photo"));
    this.sent = { image: [this.photos.first] };
    return this.photos.first;
  }

  async caption(signal) {
    const photo = this.photo();
    const answer = await post("/v1/caption", { model: current().id, images: [await photo.inRequest()] }, signal);
    const [one] = answer.data;
    if (one.error) throw new Error(reason(one.error.message));
    this.warn(answer.warnings);
    this.add(photo, t("caption_fact"), one.caption);
  }

  async ask(signal) {
    const photo = this.photo();
    const field = this.form.elements.namedItem("question");
    const question = field.value.trim();
    const answers = items(this.form.elements.namedItem("answers"));
    if (!question) throw new Error(t("no_question"));
    const answer = await post("/v1/ask", {
      model: current().id, image: await photo.inRequest(), question, ...(answers.length && { answers }),
    }, signal);
    this.warn(answer.warnings);
    this.add(photo, question, answer.declined === undefined ? answer.answer : t("declined"), answer);
    field.select();
  }

  /** The newest on top. */
  add(photo, asked, said, { probability, answers } = {}) {
    const sure = probability === undefined || probability === null ? "" : ` (${percent(probability)})`;
    this.find(".talk").prepend(
      el("li", {}, photo.image(true), el("p", { class: "asked" }, asked), el("p", { class: "answer" }, said + sure),
        answers ? bars(answers.map((one) => ({ label: one.answer, share: one.probability, said: percent(one.probability) }))) : null));
  }

  receive(photo) {
    this.photos.add([photo]);
  }
}
