// Fields for the columns of an index, and the condition that they make.

import { el } from "./dom.js";
import { t } from "./words.js";

const KNOWN = { path: "path_has", caption: "caption_has", tags: "tags_have", modified: "modified", width: "width", height: "height", size: "size" };
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
// In LIKE a backslash makes %, _ and itself mean themselves.
const holds = (text) => quoted(`%${text.replace(/[\\%_]/g, "\\$&")}%`);

// When a day begins: of files where the reader is, as their times are shown; of other columns in UTC.
const start = (name, day) =>
  name === "modified" ? `timestamp ${quoted(new Date(`${day}T00:00:00`).toISOString())}` : `date ${quoted(day)}`;

// A column as conditions name it.
const named = (name) => (/^[A-Za-z_]\w*$/.test(name) ? name : `\`${name}\``);
const HIDDEN = new Set(["id", "hash"]); // nobody searches by these

function field(column, part, type, said) {
  const label = [KNOWN[column.name] ? t(KNOWN[column.name]) : column.name, said].filter(Boolean).join(" ");
  return el("label", {}, label, " ", el("input", { type, name: `filter:${column.name}:${part}`, step: "any", autocomplete: "off" }));
}

/** Fields for those columns that can be filtered by. */
export function fields(columns) {
  return columns.filter(({ name }) => !HIDDEN.has(name)).flatMap((column) => {
    if (column.type === "text") return [field(column, "has", "text")];
    if (column.type === "list") return [field(column, "holds", "text")];
    const type = { number: "number", time: "date" }[column.type];
    return type ? [field(column, "from", type, t("from")), field(column, "to", type, t("to"))] : [];
  });
}

/** The condition of all fields that are filled in and of one that was written; "" for none. */
export function condition(form, own) {
  const parts = own ? [`(${own})`] : [];
  for (const input of form.querySelectorAll("[name^='filter:']")) {
    const value = input.value.trim();
    if (!value) continue;
    const [, name, part] = input.name.match(/^filter:(.*):(\w+)$/s);
    const column = named(name);
    if (part === "has") parts.push(`${column} ILIKE ${holds(value)}`);
    else if (part === "holds") parts.push(`array_has(${column}, ${quoted(value)})`);
    else if (input.type === "date") parts.push(part === "from" ? `${column} >= ${start(name, value)}` : `${column} < ${start(name, after(value))}`);
    else parts.push(`${column} ${part === "from" ? ">=" : "<="} ${Number(value)}`);
  }
  return parts.join(" AND ");
}

/** The day after, as yyyy-mm-dd: "until Monday" holds Monday. */
function after(day) {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + 1);
  return date.toISOString().slice(0, 10);
}
