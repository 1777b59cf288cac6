// A hit, large: where the query is in it, what the index knows of it, and similar photos.

import { el, slider } from "./dom.js";
import { addArrowKeys, appendHits } from "./gallery.js";
import { current, modelById } from "./models.js";
import { Panel } from "./panel.js";
import { Photo } from "./photos.js";
import { get, post } from "./server.js";
import { Stage } from "./stage.js";
import { kilobytes, number, percent, t, time } from "./words.js";

const SIMILAR = 12;
const HIDDEN = new Set(["id", "path", "modified", "width", "height", "caption", "tags", "size", "hash"]);

export class HitDialog {
  /** `index` is the answer of /v1/index; `send(tab, photo)` gives a photo to another tab. */
  constructor(index, send) {
    this.index = index;
    this.send = send;
    this.dialog = document.getElementById("hit");
    this.panel = new Panel(this.dialog);
    this.stage = new Stage(this.dialog.querySelector(".stage"));
    this.heat = this.dialog.querySelector(".heat");
    this.similar = this.dialog.querySelector(".gallery");
    this.opacity = slider(this.heat.querySelector("input"), (value) => percent(value, 0), (value) => {
      this.stage.opacity = value;
      this.stage.draw();
    });
    addArrowKeys(this.similar);
    this.listen();
  }

  listen() {
    const onClick = (selector, work) => this.dialog.querySelector(selector).addEventListener("click", work);
    onClick(".close", () => this.dialog.close());
    onClick(".previous", () => this.step(-1));
    onClick(".next", () => this.step(1));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // a click beside it
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input") || event.target.closest(".gallery")) return;
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("close", () => this.panel.running?.abort());
  }

  /** Opens the hit at a place of a list; `text` is the query's. */
  open(hits, place, text) {
    this.hits = hits;
    this.place = place;
    this.text = text;
    const focused = document.activeElement;
    this.dialog.querySelector(".previous").disabled = place === 0;
    this.dialog.querySelector(".next").disabled = place === hits.length - 1;
    // Keep the focus in the dialog, which listens for arrow keys.
    if (focused.disabled || this.similar.contains(focused)) this.dialog.querySelector(".close").focus();
    if (!this.dialog.open) this.dialog.showModal();
    this.show(hits[place]);
  }

  step(by) {
    const place = this.place + by;
    if (place >= 0 && place < this.hits.length) this.open(this.hits, place, this.text);
  }

  show(hit) {
    const photo = new Photo(hit);
    this.dialog.querySelector("#hit-name").textContent = photo.name;
    this.heat.hidden = true;
    this.similar.replaceChildren();
    this.showFacts(hit);
    this.showActions(photo);
    this.panel.run(async (signal) => {
      await this.stage.show(photo, Number(this.opacity.value), signal);
      await Promise.all([this.loadRow(hit, signal), this.showSimilar(hit, signal), this.showHeat(photo, signal)]);
    });
  }

  /** Loads all columns of the index; a search gives only some. */
  async loadRow(hit, signal) {
    hit.row ??= await get(`/v1/images/${hit.id}/info`, signal);
    this.showFacts(hit);
  }

  showFacts(hit) {
    const row = hit.row ?? {}; // the user's columns may have any name, also "score"
    const { caption, tags, width, height, modified } = { ...hit, ...row };
    const facts = [
      [t("score"), hit.score === undefined ? null : number(hit.score)],
      [t("caption_fact"), caption],
      [t("tags"), Array.isArray(tags) ? tags.join(", ") : tags],
      [t("place"), el("code", {}, hit.path)],
      [t("pixels"), width ? `${width} × ${height}` : null],
      [t("size"), row.size && kilobytes(row.size)],
      [t("modified"), Date.parse(modified) && time(modified)], // 0: the file was not there
      ...Object.entries(row).filter(([key]) => !HIDDEN.has(key)).map(([key, value]) => [key, value === null ? null : String(value)]),
    ];
    this.dialog.querySelector(".facts").replaceChildren(
      ...facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    );
  }

  showActions(photo) {
    const sendTo = (tab) => () => {
      this.dialog.close();
      this.send(tab, photo);
    };
    this.dialog.querySelector(".actions").replaceChildren(
      ...["search", "classify", "where", "ask", "compare"].map((tab) =>
        el("button", { type: "button", onclick: sendTo(tab) }, t(`send_${tab}`))),
    );
  }

  async showSimilar(hit, signal) {
    const { hits } = await post("/v1/search", { image: { id: hit.id }, k: SIMILAR + 1 }, signal);
    const others = hits.filter((other) => other.id !== hit.id).slice(0, SIMILAR);
    appendHits(this.similar, others, (place) => this.open(others, place, this.text));
  }

  /** Shows the map of the query, by the index's model if the server has it. */
  async showHeat(photo, signal) {
    const model = modelById(this.index.model) ?? current();
    if (!this.text || !model?.can.includes("heatmap")) return;
    const answer = await post("/v1/heatmap",
      { model: model.id, image: await photo.inRequest(), texts: [this.text], format: "numbers" }, signal);
    this.panel.sentPhotos = { image: [photo] };
    this.panel.addWarnings(answer.warnings);
    const [map] = answer.maps;
    this.stage.showMap(map, answer.size, t(map.found ? "map_of" : "no_map", { text: this.text }));
    this.heat.hidden = !map.found;
  }
}
