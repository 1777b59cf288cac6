// Fields for the columns of an index, and the condition that they make.

import { el } from "./dom.js";
import { t } from "./words.js";

const LABELS = { path: "path_has", caption: "caption_has", tags: "tags_have", modified: "modified", width: "width", height: "height", size: "size" };
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
// A backslash escapes %, _ and itself in LIKE.
const contains = (text) => quoted(`%${text.replace(/[\\%_]/g, "\\$&")}%`);

// The start of a day: in local time for files, whose times are shown so; in UTC for other columns.
const startOfDay = (name, day) =>
  name === "modified" ? `timestamp ${quoted(new Date(`${day}T00:00:00`).toISOString())}` : `date ${quoted(day)}`;

// A column's name in a condition.
const columnName = (name) => (/^[A-Za-z_]\w*$/.test(name) ? name : `\`${name}\``);
const HIDDEN = new Set(["id", "hash"]); // of no use in a search

function field(column, part, type, suffix) {
  const label = [LABELS[column.name] ? t(LABELS[column.name]) : column.name, suffix].filter(Boolean).join(" ");
  return el("label", {}, label, " ", el("input", { type, name: `filter:${column.name}:${part}`, step: "any", autocomplete: "off" }));
}

/** Fields for the columns that can be filtered. */
export function fields(columns) {
  return columns.filter(({ name }) => !HIDDEN.has(name)).flatMap((column) => {
    if (column.type === "text") return [field(column, "has", "text")];
    if (column.type === "list") return [field(column, "holds", "text")];
    const type = { number: "number", time: "date" }[column.type];
    return type ? [field(column, "from", type, t("from")), field(column, "to", type, t("to"))] : [];
  });
}

/** The condition of all fields that are filled in, and of `own`, which the user wrote; "" for none. */
export function condition(form, own) {
  const parts = own ? [`(${own})`] : [];
  for (const input of form.querySelectorAll("[name^='filter:']")) {
    const value = input.value.trim();
    if (!value) continue;
    const [, name, part] = input.name.match(/^filter:(.*):(\w+)$/s);
    const column = columnName(name);
    if (part === "has") parts.push(`${column} ILIKE ${contains(value)}`);
    else if (part === "holds") parts.push(`array_has(${column}, ${quoted(value)})`);
    else if (input.type === "date") parts.push(part === "from" ? `${column} >= ${startOfDay(name, value)}` : `${column} < ${startOfDay(name, dayAfter(value))}`);
    else parts.push(`${column} ${part === "from" ? ">=" : "<="} ${Number(value)}`);
  }
  return parts.join(" AND ");
}

/** The next day, as yyyy-mm-dd: "until Monday" includes Monday. */
function dayAfter(day) {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + 1);
  return date.toISOString().slice(0, 10);
}
