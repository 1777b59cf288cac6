// What all tabs share: one request at a time, its progress, its errors and warnings.

import { el } from "./dom.js";
import { t } from "./words.js";

// What the server warns of, which it does in English, where the page has words for it.
const SAID = {
  unknown_words: /^(?<model>\S+) does not know (?<words>.+)\. It knows (?<known>.+), in English; for others load a public checkpoint$/,
  unlike_training: /^(?<some>\d+) of (?<all>\d+) [a-z ]+? looks? unlike what (?<model>\S+) was trained on: (?<names>[^;]+)\. It knows (?<known>.+?)(, in English; for others load a public checkpoint)?$/,
  unlike_alone: /^the [a-z ]+? looks unlike what (?<model>\S+) was trained on: (?<names>[^;]+)\. It knows (?<known>.+?)(, in English; for others load a public checkpoint)?$/,
  unlike_questions: /^(?<model>\S+) was not trained on questions like (['"])(?<question>.+?)\2( \(the words? .+ (is|are) unknown to it\))?, but on such as (['"])(?<nearest>.+?)\6\. It knows (?<known>.+), in English; for others load a public checkpoint$/,
  labels_alike: /^the model reads '(?<first>.+)' and '(?<second>.+)' as the same, and scores them alike: leave one out, or say it in other words$/,
  compared_in_part: /^(?<done>\d+) of (?<all>\d+) images were compared with all others in (?<seconds>\d+) seconds; copies among the rest are not found: `patchword dedupe` takes its time$/,
  seen_in_part: /^(the photo is|\d+ of \d+ photos (is|are)) seen in part, (?<names>.+) is cropped away: a square part of it is seen whole$/,
  seen_small: /^(the photo is|\d+ of \d+ photos (is|are)) seen very small, (?<names>.+): a part of it is seen closer$/,
  defects_small: /^photos were seen at (?<scale>1:\d+): defects smaller than about (?<pixels>\d+) pixels may be missed; a part of it is seen closer$/,
  text_cut: /^(the text exceeds|\d+ of \d+ texts exceeds?) (?<most>\d+) tokens; (it|the longest) loses (?<lost>\d+) of (?<all>\d+)$/,
  hardly_placed: /^(?<model>\S+) hardly knows where (?<things>.+) is in a photo, for it never learned that: what it shows of (?<texts>.+) says little\. It knows .+, in English; for others load a public checkpoint$/,
  one_colour: /^(\d+ of \d+ photos ha(s|ve)|the photo has) one colour alone, about which no answer means anything: (?<names>.+)$/,
};
const SAY = {
  unknown_words: (found) => t("unknown_words", found),
  unlike_training: (found) => t("unlike_training", found),
  unlike_alone: (found) => t("unlike_alone", found),
  unlike_questions: (found) => t("unlike_questions", found),
  labels_alike: (found) => t("labels_alike", found),
  compared_in_part: (found) => t("compared_in_part", found),
  seen_in_part: ({ names }) => t("seen_in_part", { names: names.replace(/(\d+%) of (image \d+)/g, "$2 $1") }),
  seen_small: ({ names }) => t("seen_small", { names: names.replaceAll(" at 1:", " 1:") }),
  defects_small: (found) => t("defects_small", found),
  text_cut: (found) => t("text_cut", found),
  hardly_placed: (found) => t("hardly_placed", found),
  one_colour: (found) => t("one_colour", found),
};

// The sentences of what verdicts guarantee, likewise.
const GUARANTEED = {
  no_good_left: /There is no verdict: no good photo was left to compare scores with\. Two good photos are enough for a rough threshold\./,
  not_calibrated: /The threshold is not calibrated: it is the highest score that the (?<count>\d+) good photos reached when each was scored after learning from others\. No rate of false alarms is guaranteed, and no p-value is given\./,
  highest_of: /It is that of (?<name>.+?): make sure that it shows no defect\./,
  rejected_in_mean: /At most (?<rate>[\d.]+%) of good photos like the (?<count>\d+) of the calibration are rejected, in the mean over all calibrations that might have been drawn\./,
  rejected_by_this: /With this one it is at most (?<rate>[\d.]+%), with 95% confidence\./,
  photos_needed: /A rate of (?<rate>\S+) takes (?<count>\d+) good photos that nothing is learned from, beside those for learning\./,
  holds_while: /It says nothing about defects that are missed, and it holds only while product, light and camera stay as they were in the good photos\./,
};
const GUARANTEE = {
  no_good_left: (found) => t("no_good_left", found),
  not_calibrated: (found) => t("not_calibrated", found),
  highest_of: (found) => t("highest_of", found),
  rejected_in_mean: (found) => t("rejected_in_mean", found),
  rejected_by_this: (found) => t("rejected_by_this", found),
  photos_needed: (found) => t("photos_needed", found),
  holds_while: (found) => t("holds_while", found),
};

/** What verdicts guarantee, in the page's language. */
export function guaranteed(note) {
  return Object.entries(GUARANTEED).reduce((said, [key, sentence]) => {
    const found = sentence.exec(said);
    return found ? said.replace(found[0], () => GUARANTEE[key](found.groups)) : said;
  }, note);
}

/** A warning in the page's language; one that it has no words for as it was said. */
function told(warning) {
  for (const [key, sentence] of Object.entries(SAID)) {
    const found = sentence.exec(warning);
    if (found) return SAY[key](found.groups);
  }
  return t("as_said", { warning });
}

export class Panel {
  /** Of an element with .status, .errors and .warnings. */
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.notice = root.querySelector(".cannot");
    this.running = null;
    this.form?.addEventListener("submit", (event) => event.preventDefault());
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  /** Whether its fields can be used. */
  enable(able) {
    for (const field of this.form.elements) field.disabled = !able;
  }

  clear() {
    this.find(".status").textContent = "";
    this.find(".errors").replaceChildren();
    this.find(".warnings").replaceChildren();
  }

  say(text) {
    this.find(".status").textContent = text;
  }

  fail(sentence) {
    this.find(".errors").append(el("p", {}, sentence));
  }

  /** Warnings that came with an answer, each once. */
  warn(warnings = [], about = "") {
    const list = this.find(".warnings");
    const shown = new Set([...list.children].map((item) => item.textContent));
    for (const warning of warnings) {
      const text = about ? `${about}: ${told(warning)}` : told(warning);
      if (!shown.has(text)) list.append(el("li", {}, text));
      shown.add(text);
    }
  }

  /** Do `work(signal)`; what still runs for this panel is given up. Says what goes wrong. */
  async run(work, { keep = false } = {}) {
    this.running?.abort();
    const mine = (this.running = new AbortController());
    if (!keep) this.clear();
    this.find(".errors").replaceChildren();
    this.root.setAttribute("aria-busy", "true");
    this.say(t("working"));
    try {
      const said = await work(mine.signal);
      if (this.running === mine) this.say(said ?? "");
    } catch (error) {
      if (error.name === "AbortError" || this.running !== mine) return;
      this.say("");
      this.fail(error.message);
    } finally {
      if (this.running === mine) this.root.removeAttribute("aria-busy");
    }
  }
}
