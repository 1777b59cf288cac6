// Ask: a caption of a photo, and answers to questions about it.

import { bars, el, items } from "../dom.js";
import { checkModel, current, onModelChange } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { errorMessage } from "../translation.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

export class Ask extends Panel {
  constructor(root) {
    super(root);
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.find(".caption").addEventListener("click", () => this.run((signal) => this.caption(signal)));
    this.form.addEventListener("submit", () => this.run((signal) => this.ask(signal)));
    onModelChange(() => this.enable(checkModel(this.notice, "ask")));
  }

  /** The chosen photo. Throws if there is none. */
  photo() {
    if (!this.photos.first) throw new Error(t("no_photo"));
    this.sentPhotos = { image: [this.photos.first] };
    return this.photos.first;
  }

  async caption(signal) {
    const photo = this.photo();
    const answer = await post("/v1/caption", { model: current().id, images: [await photo.inRequest()] }, signal);
    const [record] = answer.data;
    if (record.error) throw new Error(errorMessage(record.error.message));
    this.addWarnings(answer.warnings);
    this.addReply(photo, t("caption_fact"), record.caption);
  }

  async ask(signal) {
    const photo = this.photo();
    const field = this.field("question");
    const question = field.value.trim();
    const choices = items(this.field("answers"));
    if (!question) throw new Error(t("no_question"));
    const answer = await post("/v1/ask", {
      model: current().id, image: await photo.inRequest(), question, ...(choices.length && { answers: choices }),
    }, signal);
    this.addWarnings(answer.warnings);
    this.addReply(photo, question, answer.declined === undefined ? answer.answer : t("declined"), answer);
    field.select();
  }

  /** Adds a question and its answer, above the earlier ones. */
  addReply(photo, question, answer, { probability = null, answers = [] } = {}) {
    const certainty = probability === null ? "" : ` (${percent(probability)})`;
    const rows = answers.map((choice) => ({
      label: choice.answer, share: choice.probability, text: percent(choice.probability),
    }));
    this.find(".talk").prepend(el("li", {},
      photo.image(true), el("p", { class: "asked" }, question), el("p", { class: "answer" }, answer + certainty),
      rows.length ? bars(rows) : null));
  }
}
