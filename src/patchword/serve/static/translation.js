// What the server says, which it does in English, in the page's language (`chinese.json`).

import { language, t } from "./words.js";

const tables = JSON.parse(document.getElementById("translations").textContent);
for (const rows of Object.values(tables)) rows.forEach((row) => { row[1] = new RegExp(row[1], "s"); });

/** A text of the server by a table; null where that has no words for it. */
function found(text, kind) {
  for (const [words, pattern, chinese] of tables[kind] ?? []) {
    const match = text.includes(words) && pattern.exec(text);
    if (!match) continue;
    const inner = (part) => named(match.groups[part], kind === "names" ? kind : "parts");
    return chinese.replace(/\{(\w+)\}|\[(\w+)\]/g, (_, plain, part) => (plain ? match.groups[plain] : inner(part)));
  }
  return null;
}

/** A part of a sentence, or the name of a cluster; one that there are no words for as it is. */
export const named = (text, kind = "names") => found(text, kind) ?? text;

/** A sentence; one that there are no words for as it was said. */
export const translated = (sentence) => (language === "en" ? sentence : found(sentence, "sentences") ?? t("as_said", { sentence }));

/** Why something is refused, without the number of the photo, whose name is known here. */
export const reason = (message) => translated(message.replace(/^(image|good photo) \d+: /, ""));
