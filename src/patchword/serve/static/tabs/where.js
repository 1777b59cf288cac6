// Where: maps, boxes and masks of texts on a photo.

import { el, lines, slider } from "../dom.js";
import { scale } from "../heat.js";
import { current, explain, onModel, whyNot } from "../models.js";
import { Panel } from "../panel.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { COLOURS, pictureOf, Stage } from "../stage.js";
import { number, percent, t } from "../words.js";

const JOBS = { heatmap: "heatmap", boxes: "locate", masks: "segment" };

export class Where extends Panel {
  constructor(root) {
    super(root);
    this.stage = new Stage(this.find(".stage"));
    this.photos = new PhotoField(this.find("[data-photos]"));
    this.texts = this.find(".texts");
    this.opacity = slider(this.form, "opacity", (value) => percent(value, 0), (value) => {
      this.stage.opacity = value;
      this.stage.draw();
    });
    this.form.addEventListener("submit", () => this.run((signal) => this.look(signal)));
    this.field("method").addEventListener("change", () => this.offerLayers());
    onModel(() => this.offer());
  }

  field(name) {
    return this.form.elements.namedItem(name);
  }

  /** What the chosen model can do: its methods and layers. */
  offer() {
    const able = explain(this.notice, "heatmap");
    this.enable(able);
    if (!able) return;
    const methods = current().heatmaps;
    this.field("method").replaceChildren(
      ...Object.keys(methods).map((name) => el("option", { value: name }, name === "auto" ? t("best_method") : name)));
    this.offerLayers();
    for (const [name, job] of Object.entries(JOBS)) {
      const can = current().can.includes(job);
      this.field(name).disabled = !can;
      this.field(name).closest("label").title = whyNot(current(), job);
      if (!can) this.field(name).checked = false;
    }
  }

  /** The layers that the chosen method has. */
  offerLayers() {
    const count = current().heatmaps[this.field("method").value];
    this.field("layer").replaceChildren(
      el("option", { value: "" }, t("usual_layer")),
      ...Array.from({ length: count }, (_, layer) => el("option", { value: layer }, String(layer))));
    this.field("layer").disabled = count === 0;
  }

  async look(signal) {
    const photo = this.photos.first;
    const texts = lines(this.field("texts"));
    if (!photo) throw new Error(t("no_photo"));
    if (!texts.length) throw new Error(t("no_texts"));
    if (!Object.keys(JOBS).some((name) => this.field(name).checked)) throw new Error(t("nothing_drawn"));
    this.sent = { image: [photo] };
    const asked = { model: current().id, image: await photo.inRequest() };
    signal.throwIfAborted();
    this.texts.replaceChildren();
    this.find(".found").replaceChildren();
    await this.stage.show(photo, Number(this.opacity.value), signal);
    const work = [];
    if (this.field("heatmap").checked) work.push(this.heatmap(asked, texts, signal));
    if (this.field("boxes").checked) work.push(this.boxes(asked, texts, signal));
    if (this.field("masks").checked) work.push(this.masks(asked, texts, signal));
    // One that fails says so and keeps the others.
    for (const result of await Promise.allSettled(work)) {
      if (result.status === "rejected" && result.reason.name === "AbortError") throw result.reason;
      if (result.status === "rejected") this.fail(result.reason.message);
    }
  }

  async heatmap(asked, texts, signal) {
    const method = this.field("method").value;
    const layer = this.field("layer").value;
    const answer = await post("/v1/heatmap", {
      ...asked, texts, method, format: "numbers", ...(layer !== "" && { layer: Number(layer) }),
    }, signal);
    this.warn(answer.warnings);
    const buttons = answer.maps.map((map) => {
      const said = map.probability === undefined || map.probability === null ? "" : ` ${percent(map.probability)}`;
      return el("button", { type: "button", "aria-pressed": "false", onclick: () => show(map) },
        map.text + said + (map.found === false ? ` (${t("not_found")})` : ""));
    });
    const show = (map) => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(answer.maps[i] === map)));
      const found = map.found !== false;
      this.stage.setMap(found ? map : null);
      this.stage.draw(answer.size);
      this.stage.caption.replaceChildren(
        t(found ? "map_by" : "no_map", { text: map.text, method: answer.method }), ...(found ? [scale(...map.scale.map((end) => number(end)))] : []));
    };
    this.texts.replaceChildren(...buttons);
    show(answer.maps.find((map) => map.found !== false) ?? answer.maps[0]);
  }

  async boxes(asked, texts, signal) {
    const answer = await post("/v1/locate", { ...asked, texts }, signal);
    this.warn(answer.warnings);
    answer.data.forEach(({ text, found, regions }, i) => {
      const colour = COLOURS[i % COLOURS.length];
      if (!found) this.list(colour, t("no_region", { text }));
      regions.forEach(({ box, score }) => {
        this.stage.boxes.push({ box, colour, label: text });
        this.list(colour, t("region", { text, score: number(score), box: box.map((edge) => Math.round(edge)).join(", ") }));
      });
    });
    this.stage.draw(answer.size);
  }

  async masks(asked, texts, signal) {
    const answer = await post("/v1/segment", { ...asked, labels: texts }, signal);
    this.warn(answer.warnings);
    this.stage.mask = await pictureOf(answer.png, signal);
    for (const { label, colour, share } of answer.legend) this.list(colour, t("share", { label: label === "background" ? t("background") : label, share: percent(share) }));
    this.stage.draw(answer.size);
  }

  list(colour, text) {
    const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colour;
    this.find(".found").append(el("li", {}, swatch, text));
  }

  receive(photo) {
    this.photos.add([photo]);
  }
}
