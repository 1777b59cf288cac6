// A photo with what is drawn on it: a map, masks, boxes. Places are pixels of the photo of `size`.

import { coloured } from "./heat.js";

export const COLOURS = ["#e6550d", "#1f9ede", "#31a354", "#c44fc9", "#e0b400", "#5b6ee1", "#d6336c", "#14a098"];
const SIDE = 768; // pixels, the longer one of what is drawn: small photos are shown larger than they are

/** A picture of an answer, ready to be drawn; throws where the answer is not wanted any more. */
export async function pictureOf(address, signal) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  signal.throwIfAborted();
  return picture;
}

export class Stage {
  constructor(root) {
    this.root = root;
    this.image = root.querySelector("img");
    this.canvas = root.querySelector("canvas");
    this.caption = root.querySelector("figcaption");
    this.clear();
  }

  /** Nothing is drawn. */
  clear() {
    this.size = null;
    this.map = null; // {grid, box, peak}
    this.mask = null; // an image of the whole photo
    this.boxes = []; // {box, colour, label}
    this.opacity = 0.6;
    this.painted = null;
    this.canvas.width = 1;
    this.canvas.height = 1;
    this.caption.replaceChildren();
  }

  /** Throws where the photo is not wanted any more. */
  async show(photo, opacity, signal) {
    this.clear();
    this.opacity = opacity;
    this.root.hidden = false;
    await photo.fill(this.image);
    await this.image.decode().catch(() => {});
    signal.throwIfAborted();
    if (this.image.naturalWidth) this.shape(this.image.naturalWidth, this.image.naturalHeight);
  }

  /** Its sides: a small photo is shown larger than it is. */
  shape(width, height) {
    this.root.querySelector(".layers").style.setProperty("--aspect", String(width / height));
  }

  /** A map: its grid covers `box` of the photo. */
  setMap(map) {
    this.map = map;
    this.painted = null;
  }

  /** Draw again; `size` is the photo's [width, height]. */
  draw(size = this.size) {
    if (!size) return;
    this.size = size;
    this.shape(...size);
    const factor = SIDE / Math.max(...size);
    this.canvas.width = Math.max(1, Math.round(size[0] * factor));
    this.canvas.height = Math.max(1, Math.round(size[1] * factor));
    const context = this.canvas.getContext("2d");
    context.globalAlpha = this.opacity;
    if (this.mask) context.drawImage(this.mask, 0, 0, this.canvas.width, this.canvas.height);
    if (this.map) this.drawMap(context, factor);
    context.globalAlpha = 1;
    for (const each of this.boxes) this.drawBox(context, each, factor);
  }

  /** How many of the canvas's pixels one of the screen is. */
  pixel() {
    return this.canvas.width / (this.canvas.clientWidth || this.canvas.width);
  }

  drawMap(context, factor) {
    const [x1, y1, x2, y2] = this.map.box.map((edge) => edge * factor);
    this.painted ??= coloured(this.map.grid, x2 - x1, y2 - y1);
    context.drawImage(this.painted, x1, y1, x2 - x1, y2 - y1);
    if (!this.map.peak) return;
    const [x, y] = this.map.peak.map((edge) => edge * factor);
    const pixel = this.pixel();
    context.globalAlpha = 1;
    for (const [width, colour] of [[4, "#000000"], [2, "#ffffff"]]) {
      context.beginPath();
      context.arc(x, y, 8 * pixel, 0, 2 * Math.PI);
      context.lineWidth = width * pixel;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  drawBox(context, { box, colour, label }, factor) {
    const [x1, y1, x2, y2] = box.map((edge) => edge * factor);
    const pixel = this.pixel();
    for (const [width, stroke] of [[5, "#000000"], [2.5, colour]]) {
      context.lineWidth = width * pixel;
      context.strokeStyle = stroke;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    if (!label) return;
    const size = 13 * pixel;
    context.font = `bold ${size}px system-ui, sans-serif`;
    const wide = context.measureText(label).width + 8 * pixel;
    const left = Math.max(0, Math.min(x1, this.canvas.width - wide));
    const top = Math.max(0, y1 - size * 1.4);
    context.fillStyle = "#000000";
    context.fillRect(left, top, wide, size * 1.4);
    context.fillStyle = "#ffffff";
    context.fillText(label, left + 4 * pixel, top + size * 1.05);
  }
}
