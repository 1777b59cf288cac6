// The server's models: which one is chosen, and what it can do.

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

export const modelById = (id) => models.find((model) => model.id === id) ?? null;

/** Calls `work` now and whenever another model is chosen. */
export function onModelChange(work) {
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

/**
 * Whether the chosen model can do a job. If not, a panel's notice says why, and which other models
 * can.
 */
export function checkModel(notice, job) {
  const model = current();
  const can = model !== null && model.can.includes(job);
  notice.hidden = can;
  if (can) return true;
  const others = models.filter((other) => other.can.includes(job));
  notice.replaceChildren(
    el("p", {}, model ? whyNot(model, job) || t("cannot", { model: model.id }) : t("no_model")),
    ...others.map((other) =>
      el("button", { type: "button", onclick: () => choose(other.id) }, t("use_model", { model: other.id }))),
    ...(others.length ? [] : [el("p", {}, t("start_with_model"), " ", el("code", {}, "patchword serve -m MODEL"))]),
  );
  return false;
}
