// Where: maps, boxes and masks of texts on a photo.

import { el, lines, slider } from "../dom.js";
import { checkModel, current, onModelChange, whyNot } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { COLOURS, loadPicture, Stage } from "../stage.js";
import { number, percent, percentBeside, t } from "../words.js";

const JOBS = { heatmap: "heatmap", boxes: "locate", masks: "segment" }; // checkbox -> job

export class Where extends Panel {
  constructor(root) {
    super(root);
    this.stage = new Stage(this.find(".stage"));
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.texts = this.find(".texts");
    this.opacity = slider(this.field("opacity"), (value) => percent(value, 0), (value) => {
      this.stage.opacity = value;
      this.stage.draw();
    });
    this.form.addEventListener("submit", () => this.run((signal) => this.showWhere(signal)));
    this.field("method").addEventListener("change", () => this.offerLayers());
    onModelChange(() => this.offerJobs());
  }

  /** Offers the jobs, methods and layers of the chosen model. */
  offerJobs() {
    const able = checkModel(this.notice, "heatmap");
    this.enable(able);
    if (!able) return;
    const methods = Object.keys(current().heatmaps);
    this.field("method").replaceChildren(
      ...methods.map((name) => el("option", { value: name }, name === "auto" ? t("best_method") : name)));
    this.offerLayers();
    for (const [name, job] of Object.entries(JOBS)) {
      const can = current().can.includes(job);
      this.field(name).disabled = !can;
      this.field(name).closest("label").title = whyNot(current(), job);
      if (!can) this.field(name).checked = false;
    }
  }

  /** Offers the layers of the chosen method. */
  offerLayers() {
    const count = current().heatmaps[this.field("method").value];
    this.field("layer").replaceChildren(
      el("option", { value: "" }, t("usual_layer")),
      ...Array.from({ length: count }, (_, layer) => el("option", { value: layer }, String(layer))));
    this.field("layer").disabled = count === 0;
  }

  async showWhere(signal) {
    const photo = this.photos.first;
    const texts = lines(this.field("texts"));
    if (!photo) throw new Error(t("no_photo"));
    if (!texts.length) throw new Error(t("no_texts"));
    if (!Object.keys(JOBS).some((name) => this.field(name).checked)) throw new Error(t("nothing_drawn"));
    this.sentPhotos = { image: [photo] };
    const body = { model: current().id, image: await photo.inRequest() };
    signal.throwIfAborted();
    this.texts.replaceChildren();
    this.find(".legend").replaceChildren();
    await this.stage.show(photo, Number(this.opacity.value), signal);
    const work = [];
    if (this.field("heatmap").checked) work.push(this.heatmap(body, texts, signal));
    if (this.field("boxes").checked) work.push(this.boxes(body, texts, signal));
    if (this.field("masks").checked) work.push(this.masks(body, texts, signal));
    // An error of one leaves the others.
    for (const result of await Promise.allSettled(work)) {
      if (result.status === "rejected" && result.reason.name === "AbortError") throw result.reason;
      if (result.status === "rejected") this.addError(result.reason.message);
    }
  }

  async heatmap(body, texts, signal) {
    const method = this.field("method").value;
    const layer = this.field("layer").value;
    const answer = await post("/v1/heatmap", {
      ...body, texts, method, format: "numbers", ...(layer !== "" && { layer: Number(layer) }),
    }, signal);
    this.addWarnings(answer.warnings);
    const buttons = answer.maps.map((map) => {
      const probability = map.probability === null ? "" : ` ${percentBeside(map.probability, answer.least)}`;
      const notFound = map.found ? "" : ` (${t("not_found")})`;
      return el("button", { type: "button", "aria-pressed": "false", onclick: () => show(map) }, map.text + probability + notFound);
    });
    const show = (map) => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(answer.maps[i] === map)));
      this.stage.showMap(map, answer.size, t(map.found ? "map_by" : "no_map", { text: map.text, method: answer.method }));
    };
    this.texts.replaceChildren(...buttons);
    show(answer.maps.find((map) => map.found) ?? answer.maps[0]);
  }

  async boxes(body, texts, signal) {
    const answer = await post("/v1/locate", { ...body, texts }, signal);
    this.addWarnings(answer.warnings);
    signal.throwIfAborted();
    answer.data.forEach(({ text, found, regions }, i) => {
      const colour = COLOURS[i % COLOURS.length];
      if (!found) {
        this.addLegend(colour, t("no_region", { text }));
        return;
      }
      for (const { box, score } of regions) {
        this.stage.boxes.push({ box, colour, label: text });
        this.addLegend(colour, t("region", { text, score: number(score), box: box.map((edge) => Math.round(edge)).join(", ") }));
      }
    });
    this.stage.draw(answer.size);
  }

  async masks(body, texts, signal) {
    const answer = await post("/v1/segment", { ...body, labels: texts }, signal);
    this.addWarnings(answer.warnings);
    this.stage.mask = await loadPicture(answer.png, signal);
    for (const { label, colour, share, present } of answer.legend) {
      const name = label === "background" ? t("background") : label;
      if (share) this.addLegend(colour, t("share", { label: name, share: percent(share) }));
      else if (present === null || present >= answer.least) this.addLegend(colour, t("no_pixels", { label: name }));
      else this.addLegend(colour, t("not_present", { label: name, present: percentBeside(present, answer.least), least: percent(answer.least, 4) }));
    }
    this.stage.draw(answer.size);
  }

  addLegend(colour, text) {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colour;
    this.find(".legend").append(el("li", {}, swatch, text));
  }
}
