// The page starts here: which tab is open, and what each needs.

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
const OF_INDEX = new Set(["search", "explore"]);
const panels = {};

function open(name, focus = false) {
  const change = opened() ? "pushState" : "replaceState"; // so that "back" goes to the tab before
  for (const tab of Object.keys(TABS)) {
    const button = document.getElementById(`tab-${tab}`);
    const chosen = tab === name;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    document.getElementById(`panel-${tab}`).hidden = !chosen;
    if (chosen && focus) button.focus();
  }
  if (location.hash !== `#${name}`) history[change](null, "", `#${name}`);
  document.getElementById("other-language").hash = name;
}

const opened = () => Object.keys(TABS).find((name) => !document.getElementById(`panel-${name}`).hidden);
const named = () => (Object.hasOwn(TABS, location.hash.slice(1)) ? location.hash.slice(1) : null);

/** Arrow keys move between tabs, as the WAI-ARIA pattern has it. */
function listen() {
  const names = Object.keys(TABS);
  for (const name of names) document.getElementById(`tab-${name}`).addEventListener("click", () => open(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const here = names.indexOf(opened());
    const place = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: names.length - 1 }[event.key];
    if (place === undefined) return;
    event.preventDefault();
    open(names[(place + names.length) % names.length], true);
  });
  addEventListener("hashchange", () => named() && open(named())); // not for "Skip to the content"
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    open("search");
    document.querySelector("#panel-search [type=search]").focus();
  });
}

/** A photo that is pasted, or dropped beside a field, goes to the first field of the open tab. */
function receiveFiles() {
  const take = (event, files) => {
    const field = panels[opened()]?.photos;
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

/** Search and Explore say how to make an index. */
function withoutIndex(name, sentence) {
  const panel = document.getElementById(`panel-${name}`);
  const notice = panel.querySelector(".cannot");
  notice.replaceChildren(
    el("p", {}, sentence), el("p", {}, t("make_index")),
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
    for (const name of OF_INDEX) withoutIndex(name, t("no_index"));
    return null;
  }
}

async function start() {
  listen();
  open(named() ?? "search");
  for (const form of document.querySelectorAll("[role=tabpanel] form")) form.addEventListener("submit", (event) => event.preventDefault());
  const opening = document.getElementById("opening");
  opening.hidden = false; // large models take a while
  try {
    await load();
    const index = await openIndex();
    const send = (name, photo) => {
      open(name, true);
      panels[name].receive(photo);
    };
    const dialog = index && new HitDialog(index, send);
    const openHit = (hits, place, text) => dialog.open(hits, place, text);
    for (const [name, Tab] of Object.entries(TABS)) {
      if (index || !OF_INDEX.has(name)) panels[name] = new Tab(document.getElementById(`panel-${name}`), { index, openHit });
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
