// Photos of the index, by id, and files that were dropped, pasted or chosen.

import { el } from "./dom.js";
import { pictureAddress } from "./server.js";
import { t } from "./words.js";

const fileName = (path) => path.split(/[/\\]/).pop();
const shownPhotos = new WeakMap(); // <img> -> the last photo that it was asked to show

/** Shows a photo's address in an <img>, unless that has been asked to show another photo since. */
function showAddress(image, photo, address) {
  const release = () => address.startsWith("blob:") && URL.revokeObjectURL(address);
  if (shownPhotos.get(image) !== photo) {
    release();
    return;
  }
  for (const done of ["load", "error"]) image.addEventListener(done, release, { once: true });
  image.src = address;
}

export class Photo {
  /** From a file, or from a photo of the index: {id, path}. */
  constructor({ file = null, id = null, path = "" }) {
    this.file = file;
    this.id = id;
    this.name = file ? file.name || t("pasted") : fileName(path);
    this.dataUri = null; // a promise, once it is needed
  }

  /** The photo in a request: {"id": 12}, or the file as a data URI. */
  async inRequest() {
    if (this.id !== null) return { id: this.id };
    this.dataUri ??= new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error(t("unreadable", { name: this.name })));
      reader.readAsDataURL(this.file);
    });
    return this.dataUri;
  }

  /** Shows the photo in an <img>. The server converts files that the browser cannot open (TIFF, DICOM). */
  async showIn(image, small = false) {
    shownPhotos.set(image, this);
    image.alt = this.name;
    image.removeAttribute("src"); // the previous photo
    image.onerror = null;
    if (this.id !== null) {
      showAddress(image, this, await pictureAddress(`/v1/images/${this.id}${small ? "/thumbnail" : ""}`));
      return;
    }
    image.onerror = async () => {
      image.onerror = null;
      try {
        showAddress(image, this, await pictureAddress("/v1/preview", { image: await this.inRequest() }));
      } catch {
        // The name stays; the answer to the request will say what is wrong with the file.
        if (shownPhotos.get(image) === this) image.removeAttribute("src");
      }
    };
    this.url ??= URL.createObjectURL(this.file);
    image.src = this.url;
  }

  /** A new <img> of the photo. */
  image(small = false) {
    const image = el("img", { loading: "lazy" });
    this.showIn(image, small).catch(() => {});
    return image;
  }
}

/** A field for photos. `changed` is called after each change of `photos`. */
export class PhotoField {
  constructor(root, changed = () => {}) {
    this.root = root;
    this.changed = changed;
    this.photos = [];
    this.input = root.querySelector("input");
    this.input.setAttribute("aria-label", `${root.querySelector("legend").textContent}: ${root.querySelector(".drop span").textContent}`);
    this.input.addEventListener("change", () => {
      this.addFiles(this.input.files);
      this.input.value = ""; // the same file may be chosen again
    });
    root.addEventListener("dragover", (event) => {
      event.preventDefault();
      root.classList.add("over");
    });
    root.addEventListener("dragleave", () => root.classList.remove("over"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      root.classList.remove("over");
      this.addFiles(event.dataTransfer.files);
      root.querySelector(".error").hidden = event.dataTransfer.files.length > 0;
    });
  }

  get first() {
    return this.photos[0] ?? null;
  }

  addFiles(files) {
    this.add([...files].map((file) => new Photo({ file })));
  }

  add(photos) {
    if (!photos.length) return;
    this.photos = this.input.multiple ? [...this.photos, ...photos] : photos.slice(0, 1);
    this.show();
  }

  remove(photo) {
    this.photos = this.photos.filter((other) => other !== photo);
    this.show();
    this.input.focus();
  }

  show() {
    this.root.querySelector(".error").hidden = true;
    this.root.querySelector(".chosen").replaceChildren(
      ...this.photos.map((photo) =>
        el("li", {}, photo.image(true),
          el("button", { type: "button", "aria-label": t("remove", { name: photo.name }), onclick: () => this.remove(photo) }, "×"))),
    );
    this.changed();
  }

  inRequest() {
    return Promise.all(this.photos.map((photo) => photo.inRequest()));
  }
}
