// Elements. Texts only ever become text nodes and attributes: nothing is parsed as HTML.

/** A new element; a function among the attributes listens, `onclick: f`; false and null are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Lines of a text field that say something. */
export const lines = (field) => field.value.split("\n").map((line) => line.trim()).filter(Boolean);

/** What was typed between commas, also Chinese ones. */
export const items = (field) => field.value.split(/[,，;；\n]/).map((item) => item.trim()).filter(Boolean);

/** A list of bars: rows of {label, share (0 to 1), said}. */
export function bars(rows) {
  const list = el("ul", { class: "bars" });
  for (const { label, share, said } of rows) {
    const filled = el("i");
    filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    list.append(
      el("li", {}, el("span", {}, label), el("span", { class: "number" }, said), el("div", { class: "bar", "aria-hidden": "true" }, filled)),
    );
  }
  return list;
}

/** Sliders show their value beside them, by `said`, and call `moved` when they are. */
export function slider(form, name, said, moved = () => {}) {
  const input = form.elements.namedItem(name);
  const output = input.closest("label").querySelector("output");
  const show = () => {
    output.textContent = said(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    moved(Number(input.value));
  });
  show();
  return input;
}

/** A function that waits until it was not called for some milliseconds. */
export function settled(wait, work) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), wait);
  };
}
