// A hit, large: where the query is on it, what is known of it, and photos like it.

import { el, slider } from "./dom.js";
import { append, arrows } from "./gallery.js";
import { scale } from "./heat.js";
import { current, named } from "./models.js";
import { Panel } from "./panel.js";
import { Photo } from "./photos.js";
import { get, post } from "./server.js";
import { Stage } from "./stage.js";
import { kilobytes, number, percent, t, time } from "./words.js";

const SIMILAR = 12;
const HIDDEN = new Set(["id", "path", "modified", "width", "height", "caption", "tags", "size", "hash"]);

export class HitDialog {
  /** `send(tab, photo)` takes a photo to another tab; `index` is what /v1/index says. */
  constructor(index, send) {
    this.index = index;
    this.send = send;
    this.dialog = document.getElementById("hit");
    this.panel = new Panel(this.dialog);
    this.stage = new Stage(this.dialog.querySelector(".stage"));
    this.heat = this.dialog.querySelector(".heat");
    this.similar = this.dialog.querySelector(".gallery");
    const moved = (opacity) => {
      this.stage.opacity = opacity;
      this.stage.draw();
    };
    const input = this.heat.querySelector("input");
    this.opacity = slider({ elements: { namedItem: () => input } }, "opacity", (value) => percent(value, 0), moved);
    arrows(this.similar);
    this.listen();
  }

  listen() {
    const press = (name, work) => this.dialog.querySelector(name).addEventListener("click", work);
    press(".close", () => this.dialog.close());
    press(".previous", () => this.step(-1));
    press(".next", () => this.step(1));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside it
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input") || event.target.closest(".gallery")) return;
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("close", () => this.panel.running?.abort());
  }

  /** Open one of the hits; `text` is what was searched for. */
  open(hits, place, text) {
    this.hits = hits;
    this.place = place;
    this.text = text;
    const [previous, next] = [".previous", ".next"].map((name) => this.dialog.querySelector(name));
    const focused = document.activeElement;
    previous.disabled = place === 0;
    next.disabled = place === hits.length - 1;
    // Arrow keys are heard within the dialog alone: the focus stays there.
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
    this.facts(hit);
    this.actions(photo);
    this.panel.run(async (signal) => {
      await this.stage.show(photo, Number(this.opacity.value), signal);
      await Promise.all([this.known(hit, signal), this.showSimilar(hit, signal), this.showHeat(photo, signal)]);
    });
  }

  /** What the index knows beyond what a search gives: the caller's own columns. */
  async known(hit, signal) {
    hit.row ??= await get(`/v1/images/${hit.id}/info`, signal);
    this.facts(hit);
  }

  facts(hit) {
    const row = hit.row ?? {}; // whose columns may be called as anything, also "score"
    const { caption, tags, width, height, modified } = { ...hit, ...row };
    const facts = [
      [t("score"), hit.score === undefined ? null : number(hit.score)],
      [t("caption_fact"), caption],
      [t("tags"), Array.isArray(tags) ? tags.join(", ") : tags],
      [t("place"), el("code", {}, hit.path)],
      [t("pixels"), width ? `${width} × ${height}` : null],
      [t("size"), row.size && kilobytes(row.size)],
      [t("modified"), Date.parse(modified) && time(modified)], // 0: of a file that was not there
      ...Object.entries(row).filter(([key]) => !HIDDEN.has(key)).map(([key, value]) => [key, value === null ? null : String(value)]),
    ];
    this.dialog.querySelector(".facts").replaceChildren(
      ...facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    );
  }

  actions(photo) {
    const go = (tab) => () => {
      this.dialog.close();
      this.send(tab, photo);
    };
    this.dialog.querySelector(".actions").replaceChildren(
      ...["search", "classify", "where", "ask", "compare"].map((tab) =>
        el("button", { type: "button", onclick: go(tab) }, t(`send_${tab}`))),
    );
  }

  async showSimilar(hit, signal) {
    const { hits } = await post("/v1/search", { image: { id: hit.id }, k: SIMILAR + 1 }, signal);
    const others = hits.filter((each) => each.id !== hit.id).slice(0, SIMILAR);
    append(this.similar, others, (_, place) => this.open(others, place, this.text));
  }

  /** The map of the query, by the index's model where it is one of those that answer. */
  async showHeat(photo, signal) {
    const model = named(this.index.model) ?? current();
    if (!this.text || !model?.can.includes("heatmap")) return;
    const answer = await post("/v1/heatmap",
      { model: model.id, image: await photo.inRequest(), texts: [this.text], format: "numbers" }, signal);
    this.panel.sent = { image: [photo] };
    this.panel.warn(answer.warnings);
    const map = answer.maps[0];
    const found = map.found !== false;
    this.stage.setMap(found ? map : null);
    this.stage.draw(answer.size);
    this.stage.caption.replaceChildren(
      t(found ? "map_of" : "no_map", { text: this.text }), ...(found ? [scale(...map.scale.map((end) => number(end)))] : []));
    this.heat.hidden = !found;
  }
}
