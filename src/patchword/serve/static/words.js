// The page's words, in the language that the server chose (`words.json`).

const words = JSON.parse(document.getElementById("words").textContent);
export const language = document.documentElement.lang;

const whole = new Intl.NumberFormat(language);

/** The text of a key; {name} in it becomes values.name. */
export function t(key, values = {}) {
  if (!(key in words)) throw new Error(`no words for ${key}`);
  return words[key].replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? whole.format(values[name]) : String(values[name]));
}

export const percent = (share, digits = 1) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(share);

export const number = (value, digits = 3) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

/** A time as people of the page's language write it. */
export function time(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return String(text);
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(moment);
}

/** The size of a file. */
export const kilobytes = (bytes) =>
  new Intl.NumberFormat(language, { style: "unit", unit: "kilobyte", maximumFractionDigits: 1 }).format(bytes / 1000);
