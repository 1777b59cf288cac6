// The models that answer: which one is chosen, what it can do, and why not.

import { el } from "./dom.js";
import { translated } from "./translation.js";
import { get } from "./server.js";
import { t } from "./words.js";

const select = document.getElementById("model");
let models = [];

export const current = () => models.find((model) => model.id === select.value) ?? null;
/** Why a model cannot do a job; "" if it can. */
export const whyNot = (model, job) => {
  const reason = model?.why_not?.[job];
  return reason ? translated(reason) : "";
};
export const named = (id) => models.find((model) => model.id === id) ?? null;

/** Calls `work` now and whenever another model is chosen. */
export function onModel(work) {
  select.addEventListener("change", work);
  work();
}

export function choose(id) {
  select.value = id;
  select.dispatchEvent(new Event("change"));
}

export async function load() {
  models = (await get("/v1/models")).data;
  select.replaceChildren(...models.map((model) => el("option", { value: model.id }, model.id)));
}

/** Show in a panel's notice why the model cannot do a job, and which other can. True if it can. */
export function explain(notice, job, model = current()) {
  const can = model !== null && model.can.includes(job);
  notice.hidden = can;
  if (can) return true;
  const others = models.filter((each) => each.can.includes(job));
  notice.replaceChildren(
    el("p", {}, model ? whyNot(model, job) || t("cannot", { model: model.id }) : t("no_model")),
    ...others.map((other) =>
      el("button", { type: "button", onclick: () => choose(other.id) }, t("use_model", { model: other.id }))),
    ...(others.length ? [] : [el("p", {}, t("start_with_model"), " ", el("code", {}, "patchword serve -m MODEL"))]),
  );
  return false;
}
