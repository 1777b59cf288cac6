// A photo with a map, masks and boxes drawn over it. Coordinates are pixels of the photo.

import { colourBar, drawGrid } from "./heat.js";
import { number } from "./words.js";

export const COLOURS = ["#e6550d", "#1f9ede", "#31a354", "#c44fc9", "#e0b400", "#5b6ee1", "#d6336c", "#14a098"];
const SIDE = 768; // longer side of the canvas, pixels: small photos are enlarged

/** A picture by its address, ready to be drawn. Throws if the request was aborted. */
export async function loadPicture(address, signal) {
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

  /** Removes everything that is drawn. */
  clear() {
    this.size = null; // [width, height] of the photo
    this.map = null; // {grid, box, peak}
    this.mask = null; // a picture of the whole photo
    this.boxes = []; // {box, colour, label}
    this.opacity = 0.6;
    this.mapCanvas = null; // the coloured map, once it is drawn
    this.canvas.width = 1;
    this.canvas.height = 1;
    this.caption.replaceChildren();
  }

  /** Shows a photo. Throws if the request was aborted. */
  async show(photo, opacity, signal) {
    this.clear();
    this.opacity = opacity;
    this.root.hidden = false;
    await photo.showIn(this.image);
    await this.image.decode().catch(() => {});
    signal.throwIfAborted();
    if (this.image.naturalWidth) this.setAspect(this.image.naturalWidth, this.image.naturalHeight);
  }

  /** The aspect ratio, by which CSS enlarges small photos. */
  setAspect(width, height) {
    this.root.querySelector(".layers").style.setProperty("--aspect", String(width / height));
  }

  /** Draws a map of /v1/heatmap, if its text was found, on a photo of `size`, with a caption. */
  showMap(map, size, caption) {
    this.map = map.found ? map : null;
    this.mapCanvas = null;
    this.draw(size);
    this.caption.replaceChildren(caption);
    if (map.found) this.caption.append(colourBar(...map.scale.map((end) => number(end))));
  }

  /** Draws everything again; `size` is the photo's [width, height]. */
  draw(size = this.size) {
    if (!size) return;
    this.size = size;
    this.setAspect(...size);
    const factor = SIDE / Math.max(...size);
    this.canvas.width = Math.max(1, Math.round(size[0] * factor));
    this.canvas.height = Math.max(1, Math.round(size[1] * factor));
    const context = this.canvas.getContext("2d");
    context.globalAlpha = this.opacity;
    if (this.mask) context.drawImage(this.mask, 0, 0, this.canvas.width, this.canvas.height);
    if (this.map) this.drawMap(context, factor);
    context.globalAlpha = 1;
    for (const box of this.boxes) this.drawBox(context, box, factor);
  }

  /** Canvas pixels per screen pixel. */
  screenPixel() {
    return this.canvas.width / (this.canvas.clientWidth || this.canvas.width);
  }

  drawMap(context, factor) {
    const [x1, y1, x2, y2] = this.map.box.map((edge) => edge * factor);
    this.mapCanvas ??= drawGrid(this.map.grid, x2 - x1, y2 - y1);
    context.drawImage(this.mapCanvas, x1, y1, x2 - x1, y2 - y1);
    if (!this.map.peak) return;
    const [x, y] = this.map.peak.map((edge) => edge * factor);
    const pixel = this.screenPixel();
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
    const pixel = this.screenPixel();
    for (const [lineWidth, stroke] of [[5, "#000000"], [2.5, colour]]) {
      context.lineWidth = lineWidth * pixel;
      context.strokeStyle = stroke;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    if (!label) return;
    const size = 13 * pixel;
    context.font = `bold ${size}px system-ui, sans-serif`;
    const width = context.measureText(label).width + 8 * pixel;
    const left = Math.max(0, Math.min(x1, this.canvas.width - width));
    const top = Math.max(0, y1 - size * 1.4);
    context.fillStyle = "#000000";
    context.fillRect(left, top, width, size * 1.4);
    context.fillStyle = "#ffffff";
    context.fillText(label, left + 4 * pixel, top + size * 1.05);
  }
}
