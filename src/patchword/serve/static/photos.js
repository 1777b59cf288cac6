// Photos: of the index (an id), or files that were dropped, pasted or chosen.

import { el } from "./dom.js";
import { picture } from "./server.js";
import { t } from "./words.js";

const nameOf = (path) => path.split(/[/\\]/).pop();
const wanted = new WeakMap(); // of each <img> the photo that it was last asked to show

/** Let an <img> show an address, unless it shows another photo by now. */
function show(image, photo, address) {
  const release = () => address.startsWith("blob:") && URL.revokeObjectURL(address);
  if (wanted.get(image) !== photo) {
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
    this.name = file ? file.name || t("pasted") : nameOf(path);
    this.read = null;
  }

  /** As requests name it: {"id": 12}, or the file's bytes as a data URI. */
  async inRequest() {
    if (this.id !== null) return { id: this.id };
    this.read ??= new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error(t("unreadable", { name: this.name })));
      reader.readAsDataURL(this.file);
    });
    return this.read;
  }

  /** Fill an <img>. What the browser cannot open (TIFF, DICOM), the server draws. */
  async fill(image, small = false) {
    wanted.set(image, this);
    image.alt = this.name;
    image.removeAttribute("src"); // of the photo before
    image.onerror = null;
    if (this.id !== null) {
      show(image, this, await picture(`/v1/images/${this.id}${small ? "/thumbnail" : ""}`));
      return;
    }
    image.onerror = async () => {
      image.onerror = null;
      try {
        show(image, this, await picture("/v1/preview", { image: await this.inRequest() }));
      } catch {
        // The name stays; the answer says what is wrong with the file.
        if (wanted.get(image) === this) image.removeAttribute("src");
      }
    };
    this.url ??= URL.createObjectURL(this.file);
    image.src = this.url;
  }

  image(small = false) {
    const image = el("img", { loading: "lazy" });
    this.fill(image, small).catch(() => {});
    return image;
  }
}

/** A field for photos: `photos` is what it holds, `changed` is called when that changes. */
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
    this.photos = this.photos.filter((each) => each !== photo);
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
