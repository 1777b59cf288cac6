// The page starts here: it opens tabs, and gives each its panel.

import { el } from "./dom.js";
import { HitDialog } from "./hit.js";
import { load } from "./models.js";
import { get } from "./server.js";
import { Ask } from "./tabs/ask.js";
import { Classify } from "./tabs/classify.js";
import { Compare } from "./tabs/compare.js";
import { Explore } from "./tabs/explore.js";
import { Inspect } from "./tabs/inspect.js";
import { Search } from "./tabs/search.js";
import { Where } from "./tabs/where.js";
import { t } from "./words.js";

const TABS = { search: Search, classify: Classify, where: Where, ask: Ask, compare: Compare, inspect: Inspect, explore: Explore };
const NEED_INDEX = new Set(["search", "explore"]);
const panels = {};

function openTab(name, focus = false) {
  const method = openTabName() ? "pushState" : "replaceState"; // "back" goes to the previous tab
  for (const tab of Object.keys(TABS)) {
    const button = document.getElementById(`tab-${tab}`);
    const chosen = tab === name;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    document.getElementById(`panel-${tab}`).hidden = !chosen;
    if (chosen && focus) button.focus();
  }
  if (location.hash !== `#${name}`) history[method](null, "", `#${name}`);
  document.getElementById("other-language").hash = name;
}

const openTabName = () => Object.keys(TABS).find((name) => !document.getElementById(`panel-${name}`).hidden);

/** The tab that the address names; null if it names none. */
function tabInAddress() {
  const name = location.hash.slice(1);
  return Object.hasOwn(TABS, name) ? name : null;
}

/** Clicks, and keys: arrows move between tabs as in the WAI-ARIA pattern; "/" opens the search. */
function addListeners() {
  const names = Object.keys(TABS);
  for (const name of names) document.getElementById(`tab-${name}`).addEventListener("click", () => openTab(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const here = names.indexOf(openTabName());
    const place = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: names.length - 1 }[event.key];
    if (place === undefined) return;
    event.preventDefault();
    openTab(names[(place + names.length) % names.length], true);
  });
  addEventListener("hashchange", () => {
    const name = tabInAddress(); // none for "Skip to the content"
    if (name) openTab(name);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    openTab("search");
    document.querySelector("#panel-search [type=search]").focus();
  });
}

/** Photos that are pasted, or dropped beside a field, go to the first field of the open tab. */
function receiveFiles() {
  const take = (event, files) => {
    const field = panels[openTabName()]?.photos;
    if (!files.length || !field || field.input.disabled) return;
    event.preventDefault();
    field.addFiles(files);
  };
  document.addEventListener("paste", (event) => take(event, event.clipboardData.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser would leave the page for the photo
    take(event, event.dataTransfer.files);
  });
}

/** Explains in a tab that needs an index how to make one. */
function explainNoIndex(name) {
  const panel = document.getElementById(`panel-${name}`);
  const notice = panel.querySelector(".cannot");
  notice.replaceChildren(
    el("p", {}, t("no_index")), el("p", {}, t("make_index")),
    el("p", {}, el("code", {}, "patchword index FOLDER --into photos.index")),
    el("p", {}, el("code", {}, "patchword serve photos.index")));
  notice.hidden = false;
  for (const field of panel.querySelector("form").elements) field.disabled = true;
}

async function openIndex() {
  try {
    return await get("/v1/index");
  } catch (error) {
    if (error.code !== "no_index") throw error;
    for (const name of NEED_INDEX) explainNoIndex(name);
    return null;
  }
}

async function start() {
  addListeners();
  openTab(tabInAddress() ?? "search");
  for (const form of document.querySelectorAll("[role=tabpanel] form")) form.addEventListener("submit", (event) => event.preventDefault());
  const opening = document.getElementById("opening");
  opening.hidden = false; // large models take a while
  try {
    await load();
    const index = await openIndex();
    const send = (name, photo) => {
      openTab(name, true);
      panels[name].receive(photo);
    };
    const dialog = index && new HitDialog(index, send);
    const openHit = (hits, place, text) => dialog.open(hits, place, text);
    for (const [name, Tab] of Object.entries(TABS)) {
      if (index || !NEED_INDEX.has(name)) panels[name] = new Tab(document.getElementById(`panel-${name}`), { index, openHit });
    }
    receiveFiles();
    document.body.dataset.ready = "";
  } catch (error) {
    const problem = document.getElementById("problem");
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    opening.hidden = true;
  }
}

start();
