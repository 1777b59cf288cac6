// The server's English texts in the page's language (`chinese.json`).

import { language, t } from "./words.js";

const tables = JSON.parse(document.getElementById("translations").textContent);
for (const rows of Object.values(tables)) rows.forEach((row) => (row[1] = new RegExp(row[1], "s")));

/** The Chinese of a text by a table; null if no row of the table matches. See `translations` in page.py. */
function lookUp(text, kind) {
  for (const [fixedPiece, pattern, chinese] of tables[kind] ?? []) {
    const match = text.includes(fixedPiece) && pattern.exec(text);
    if (!match) continue;
    const innerKind = kind === "names" ? "names" : "parts";
    return chinese.replace(/\{(\w+)\}|\[(\w+)\]/g, (_, plain, inner) =>
      plain ? match.groups[plain] : translatedPart(match.groups[inner], innerKind));
  }
  return null;
}

/** A part of a sentence, or a cluster's name; unchanged if it has no translation. */
const translatedPart = (text, kind) => lookUp(text, kind) ?? text;

export const clusterName = (name) => translatedPart(name, "names");

/** A sentence; marked as English if it has no translation. */
export function translated(sentence) {
  if (language === "en") return sentence;
  return lookUp(sentence, "sentences") ?? t("untranslated", { sentence });
}

/** The translated message of an error, without the number of the photo: the page shows its name. */
export const errorMessage = (message) => translated(message.replace(/^(image|good photo) \d+: /, ""));
