// Hits as a grid of buttons with arrow keys.

import { el } from "./dom.js";
import { Photo } from "./photos.js";
import { number, t } from "./words.js";

/** Appends a button for each hit; `open(place)` is called when one is pressed. */
export function appendHits(list, hits, open) {
  const first = list.children.length;
  list.append(
    ...hits.map((hit, i) => {
      const photo = new Photo(hit);
      const button = el("button", { type: "button", class: "hit", title: hit.path, onclick: () => open(first + i) },
        photo.image(true),
        el("span", {}, hit.gone ? t("gone", { name: photo.name }) : photo.name),
        el("span", {}, hit.score === undefined ? "" : number(hit.score)));
      button.querySelector("img").alt = ""; // the name is below it
      return el("li", {}, button);
    }),
  );
}

/** Arrow keys move the focus through the buttons of a grid; Home and End to its ends. */
export function addArrowKeys(list) {
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    if (here < 0) return;
    const top = buttons[0].getBoundingClientRect().top;
    const columns = Math.max(1, buttons.filter((button) => button.getBoundingClientRect().top === top).length);
    const places = {
      ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + columns, ArrowUp: here - columns,
      Home: 0, End: buttons.length - 1,
    };
    const next = buttons[places[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}
