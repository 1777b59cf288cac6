// Helpers for elements. Texts become text nodes and attributes only: nothing is parsed as HTML.

/**
 * A new element. Attributes that are functions become listeners (`onclick: f`); false, null and
 * undefined are left out.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The lines of a text field that are not empty. */
export const lines = (field) => field.value.split("\n").map((line) => line.trim()).filter(Boolean);

/** The items of a text field, between commas, semicolons (also Chinese ones) or line breaks. */
export const items = (field) => field.value.split(/[,，;；\n]/).map((item) => item.trim()).filter(Boolean);

/** A list of bars; rows of {label, share, text}: share is the length, 0 to 1. */
export function bars(rows) {
  const list = el("ul", { class: "bars" });
  for (const { label, share, text } of rows) {
    const filled = el("i");
    filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    list.append(
      el("li", {}, el("span", {}, label), el("span", { class: "number" }, text), el("div", { class: "bar", "aria-hidden": "true" }, filled)),
    );
  }
  return list;
}

/** Shows a slider's value beside it, written by `format`; calls `moved(value)` on each change. */
export function slider(input, format, moved = () => {}) {
  const output = input.closest("label").querySelector("output");
  const show = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    moved(Number(input.value));
  });
  show();
  return input;
}

/** A function that calls `work` once it has not been called itself for some milliseconds. */
export function debounce(milliseconds, work) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
