// The page's texts in its language (`words.json`).

const words = JSON.parse(document.getElementById("words").textContent);
export const language = document.documentElement.lang;

const wholeNumber = new Intl.NumberFormat(language);

/** The text of a key; {name} in it is replaced by values.name. */
export function t(key, values = {}) {
  if (!(key in words)) throw new Error(`no words for ${key}`);
  return words[key].replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? wholeNumber.format(values[name]) : String(values[name]));
}

export const percent = (share, digits = 1) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(share);

export const number = (value, digits = 3) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

/** A percentage with as many digits as it needs to be below a limit exactly if it is: 64.98%, not 65%. */
export function percentBeside(share, limit) {
  let digits = 1;
  while (digits < 15 && (Number(share.toFixed(digits + 2)) < limit) !== (share < limit)) digits += 1;
  return percent(share, digits);
}

/** How many decimals values and a limit need, so that each value is shown above the limit exactly if it is. */
export function decimalsBeside(values, limit) {
  const tells = (value, digits) => (Number(value.toFixed(digits)) > Number(limit.toFixed(digits))) === (value > limit);
  let digits = 3;
  while (digits < 15 && !values.every((value) => tells(value, digits))) digits += 1;
  return digits;
}

/** A date and time in the page's language. */
export function time(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return String(text);
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(date);
}

/** A file size. */
export const kilobytes = (bytes) =>
  new Intl.NumberFormat(language, { style: "unit", unit: "kilobyte", maximumFractionDigits: 1 }).format(bytes / 1000);
