// Explore: groups of photos that are alike, and photos that are nearly the same.

import { el, slider } from "../dom.js";
import { append, arrows } from "../gallery.js";
import { Panel } from "../panel.js";
import { named } from "../translation.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

const SHOWN = 12; // photos of a group at first
const EXAMPLES = 48; // of a cluster, at most

export class Explore extends Panel {
  constructor(root, { openHit }) {
    super(root);
    this.openHit = openHit;
    this.groups = this.find(".groups");
    this.threshold = slider(this.form, "threshold", (value) => percent(value, 0));
    this.form.addEventListener("submit", () => this.run((signal) => this.clusters(signal)));
    this.find(".duplicates").addEventListener("click", () => this.run((signal) => this.duplicates({}, signal)));
    this.find(".alike").addEventListener("click", () =>
      this.run((signal) => this.duplicates({ threshold: Number(this.threshold.value) }, signal)),
    );
  }

  async clusters(signal) {
    this.groups.replaceChildren();
    const count = Number(this.form.elements.namedItem("clusters").value);
    const { clusters, warnings } = await post("/v1/explore", { ...(count && { clusters: count }), examples: EXAMPLES }, signal);
    this.warn(warnings);
    for (const { name, count: all, photos } of clusters) this.group(t("cluster", { name: named(name), photos: all }), photos);
    return t("clusters_found", { clusters: clusters.length });
  }

  /** Copies of one photo; with a threshold, all that are so much alike. */
  async duplicates(asked, signal) {
    this.groups.replaceChildren();
    const { groups, warnings } = await post("/v1/duplicates", asked, signal);
    this.warn(warnings);
    groups.forEach(({ keep, others }, i) => {
      const photos = [{ id: keep.id, path: keep.path }, ...others];
      this.group(t("duplicate", { number: i + 1, photos: photos.length }), photos, t("keep"));
    });
    return groups.length ? t("groups_found", { groups: groups.length }) : t("no_groups");
  }

  /** A heading and the first photos of a group; `first` is written on the first of them. */
  group(name, photos, first = "") {
    const list = el("ul", { class: "gallery small", "aria-label": name });
    const open = (_, place) => this.openHit(photos, place);
    append(list, photos.slice(0, SHOWN), open);
    if (first) list.querySelector(".hit").lastChild.textContent = first;
    arrows(list);
    const more = el("button", { type: "button", hidden: photos.length <= SHOWN, onclick: () => {
      append(list, photos.slice(SHOWN), open);
      more.remove();
      list.children[SHOWN].querySelector("button").focus(); // it was on the one that is gone
    } }, t("all_of_group", { photos: photos.length }));
    this.groups.append(el("section", { class: "group" }, el("h2", {}, name), list, more));
  }
}
