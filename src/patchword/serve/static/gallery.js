// Hits as a grid of buttons, which arrow keys move in.

import { el } from "./dom.js";
import { Photo } from "./photos.js";
import { number, t } from "./words.js";

/** A button for each hit; `open(hit, place)` is called for the one that is pressed. */
export function append(list, hits, open) {
  const before = list.children.length;
  list.append(
    ...hits.map((hit, i) => {
      const photo = new Photo(hit);
      const button = el("button", { type: "button", class: "hit", title: hit.path, onclick: () => open(hit, before + i) },
        photo.image(true),
        el("span", {}, hit.gone ? t("gone", { name: photo.name }) : photo.name),
        el("span", {}, hit.score === undefined ? "" : number(hit.score)));
      button.querySelector("img").alt = ""; // the name stands below it
      return el("li", {}, button);
    }),
  );
}

/** Arrow keys move through the buttons of a grid; Home and End to its ends. */
export function arrows(list) {
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
