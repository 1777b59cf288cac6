// Explore: groups of photos that are alike, and photos that are nearly the same.

import { el, slider } from "../dom.js";
import { addArrowKeys, appendHits } from "../gallery.js";
import { Panel } from "../panel.js";
import { clusterName } from "../translation.js";
import { post } from "../server.js";
import { percent, t } from "../words.js";

const FIRST = 12; // photos of a group that are shown at first
const EXAMPLES = 48; // of a cluster, at most

export class Explore extends Panel {
  constructor(root, { openHit }) {
    super(root);
    this.openHit = openHit;
    this.groups = this.find(".groups");
    this.threshold = slider(this.field("threshold"), (value) => percent(value, 0));
    this.form.addEventListener("submit", () => this.run((signal) => this.clusters(signal)));
    this.find(".duplicates").addEventListener("click", () => this.run((signal) => this.duplicates({}, signal)));
    this.find(".alike").addEventListener("click", () =>
      this.run((signal) => this.duplicates({ threshold: Number(this.threshold.value) }, signal)),
    );
  }

  async clusters(signal) {
    this.groups.replaceChildren();
    const count = Number(this.field("clusters").value);
    const { clusters, warnings } = await post("/v1/explore", { ...(count && { clusters: count }), examples: EXAMPLES }, signal);
    this.addWarnings(warnings);
    for (const cluster of clusters) {
      this.addGroup(t("cluster", { name: clusterName(cluster.name), photos: cluster.count }), cluster.photos);
    }
    return t("clusters_found", { clusters: clusters.length });
  }

  /** Copies of one photo; with a threshold in `body`, photos that the model finds so much alike. */
  async duplicates(body, signal) {
    this.groups.replaceChildren();
    const { groups, warnings } = await post("/v1/duplicates", body, signal);
    this.addWarnings(warnings);
    groups.forEach(({ keep, others }, i) => {
      const photos = [{ ...keep, score: undefined }, ...others];
      this.addGroup(t("duplicate", { number: i + 1, photos: photos.length }), photos, t("keep"));
    });
    return groups.length ? t("groups_found", { groups: groups.length }) : t("no_groups");
  }

  /** A heading and the photos of a group; `firstNote` is written under the first photo. */
  addGroup(name, photos, firstNote = "") {
    const list = el("ul", { class: "gallery small", "aria-label": name });
    const open = (place) => this.openHit(photos, place);
    appendHits(list, photos.slice(0, FIRST), open);
    if (firstNote) list.querySelector(".hit").lastChild.textContent = firstNote;
    addArrowKeys(list);
    const more = el("button", { type: "button", hidden: photos.length <= FIRST, onclick: () => {
      appendHits(list, photos.slice(FIRST), open);
      more.remove();
      list.children[FIRST].querySelector("button").focus(); // it was on the removed button
    } }, t("all_of_group", { photos: photos.length }));
    this.groups.append(el("section", { class: "group" }, el("h2", {}, name), list, more));
  }
}
