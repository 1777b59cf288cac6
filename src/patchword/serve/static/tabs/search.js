// Search: words, a photo, or both; more hits as one scrolls.

import { slider } from "../dom.js";
import { condition, fields } from "../filters.js";
import { append, arrows } from "../gallery.js";
import { PhotoField } from "../photos.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";
import { Panel } from "../panel.js";

const PAGE = 24;

export class Search extends Panel {
  constructor(root, { index, openHit }) {
    super(root);
    this.openHit = openHit;
    this.gallery = this.find(".gallery");
    this.more = this.find(".more");
    this.photos = new PhotoField(this.find("[data-photos]"), () => this.queried());
    this.text = this.form.elements.namedItem("text");
    this.balance = slider(this.form, "balance", (value) => t("balance_said", { words: percent(1 - value, 0), photo: percent(value, 0) }));
    this.text.addEventListener("input", () => this.queried());
    this.find(".filters").replaceChildren(...fields(index.where ? index.columns : []));
    this.form.addEventListener("submit", () => this.search());
    this.more.addEventListener("click", () => this.next());
    new IntersectionObserver((seen) => {
      if (seen.some((each) => each.isIntersecting) && !this.root.hasAttribute("aria-busy")) this.next();
    }, { rootMargin: "400px" }).observe(this.more);
    arrows(this.gallery);
    this.say(t("index_holds", { images: index.images, name: index.name, model: index.model }));
  }

  /** Words and a photo are weighed against each other only where both are given. */
  queried() {
    this.find(".both").hidden = !(this.text.value.trim() && this.photos.first);
  }

  async query() {
    const values = this.form.elements;
    const text = this.text.value.trim();
    const photo = this.photos.first;
    const without = values.namedItem("without").value.trim();
    const where = condition(this.form, values.namedItem("where").value.trim());
    if (!text && !photo) throw new Error(t("nothing_asked"));
    this.sent = { image: [photo] };
    const share = Number(this.balance.value);
    return {
      ...(text && { text }),
      ...(photo && { image: await photo.inRequest() }),
      ...(text && photo && { weights: { text: 1 - share, image: share } }),
      ...(without && { without }),
      ...(where && { where }),
    };
  }

  search() {
    this.hits = [];
    this.more.hidden = true;
    return this.run(async (signal) => {
      this.gallery.replaceChildren();
      const asked = await this.query();
      signal.throwIfAborted();
      this.asked = asked;
      return this.load(signal);
    });
  }

  next() {
    if (!this.more.hidden) this.run((signal) => this.load(signal), { keep: true });
  }

  async load(signal) {
    const asked = this.asked;
    const answer = await post("/v1/search", { ...asked, k: PAGE, offset: this.hits.length }, signal);
    this.hits.push(...answer.hits);
    append(this.gallery, answer.hits, (_, place) => this.openHit(this.hits, place, asked.text));
    this.more.hidden = answer.hits.length < PAGE || this.hits.length >= answer.total;
    this.warn(answer.warnings);
    if (!answer.total) return t("none_shown");
    return t("shown", { shown: this.hits.length, total: answer.total });
  }

  receive(photo) {
    this.photos.add([photo]);
    this.search();
  }
}
