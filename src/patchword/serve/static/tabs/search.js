// Search: words, a photo, or both; more hits as one scrolls.

import { slider } from "../dom.js";
import { condition, fields } from "../filters.js";
import { addArrowKeys, appendHits } from "../gallery.js";
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
    this.photos = new PhotoField(this.find("[data-photos]"), () => this.showBalance());
    this.text = this.field("text");
    this.balance = slider(this.field("balance"), (value) => t("balance_value", { words: percent(1 - value, 0), photo: percent(value, 0) }));
    this.text.addEventListener("input", () => this.showBalance());
    this.find(".filters").replaceChildren(...fields(index.where ? index.columns : []));
    this.form.addEventListener("submit", () => this.search());
    this.more.addEventListener("click", () => this.loadMore());
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && !this.root.hasAttribute("aria-busy")) this.loadMore();
    }, { rootMargin: "400px" }).observe(this.more);
    addArrowKeys(this.gallery);
    this.setStatus(t("index_holds", { images: index.images, name: index.name, model: index.model }));
  }

  /** Shows the slider between words and photo where both are given. */
  showBalance() {
    this.find(".both").hidden = !(this.text.value.trim() && this.photos.first);
  }

  async query() {
    const text = this.text.value.trim();
    const photo = this.photos.first;
    const without = this.field("without").value.trim();
    const where = condition(this.form, this.field("where").value.trim());
    if (!text && !photo) throw new Error(t("nothing_asked"));
    this.sentPhotos = { image: [photo] };
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
      const query = await this.query();
      signal.throwIfAborted();
      this.lastQuery = query;
      return this.load(signal);
    });
  }

  loadMore() {
    if (!this.more.hidden) this.run((signal) => this.load(signal), { keep: true });
  }

  /** Appends the next hits of the last query. */
  async load(signal) {
    const query = this.lastQuery;
    const answer = await post("/v1/search", { ...query, k: PAGE, offset: this.hits.length }, signal);
    this.hits.push(...answer.hits);
    appendHits(this.gallery, answer.hits, (place) => this.openHit(this.hits, place, query.text));
    this.more.hidden = answer.hits.length < PAGE || this.hits.length >= answer.total;
    this.addWarnings(answer.warnings);
    if (!answer.total) return t("none_shown");
    return t("shown", { shown: this.hits.length, total: answer.total });
  }

  receive(photo) {
    super.receive(photo);
    this.search();
  }
}
