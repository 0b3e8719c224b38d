// What the page shows of an utterance: facts and reasons as sentences, its words, and the texts that were given.

import { joinWords } from "./formats.js";

const percent = (share) => `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`;

const REASONS = {
  "low confidence": (value) => `The model is not sure: its confidence is ${percent(1 - value)}.`,
  disagreement: (value) => `Two models wrote different texts: ${percent(value)} of the words differ.`,
  drift: () => "It comes from a time when recordings were unlike those of the training.",
  "new words": (value) => `Words are new to the model: ${percent(value)}.`,
};

/** Why an utterance is worth a person's time, in sentences, the weightiest first. */
export const describeReasons = ({ reasons }) =>
  Object.entries(reasons).filter(([, value]) => value > 0).sort(([, a], [, b]) => b - a)
    .map(([name, value]) => REASONS[name]?.(value) ?? `${name}: ${value}`);

/** What is known of an utterance. */
export function describeFacts({ status, seconds, speaker, domain, reviewers_wanted: wanted, num_reviewers: answered }) {
  const facts = [`${seconds.toFixed(1)} s, ${speaker ? `speaker ${speaker}, ` : ""}domain ${domain}.`];
  if (status === "conflict") facts.push("Reviewers gave different texts: choose one of them, or edit.");
  else if (wanted > 1) facts.push(`${wanted} reviewers are asked for each utterance; ${answered} answered this one so far.`);
  return facts.join(" ");
}

/** What the store has, and how far reviewers agree, as two sentences. */
export function describeStats({ counts, agreement, reviewers_wanted: wanted }) {
  const of = (status) => counts[status]?.utterances ?? 0;
  const done = `Waiting: ${of("open") + of("conflict")}, of these with different texts: ${of("conflict")}. ` +
    `Corrected: ${of("corrected")}. Rejected: ${of("rejected")}.`;
  const asked = wanted > 1 ? `${wanted} reviewers are asked for each utterance. ` : "";
  if (!agreement.utterances) return [done, `${asked}No utterance has two reviewers yet, so their agreement is not known.`];
  const { same, utterances, share, word_error_rate: rate } = agreement;
  const differ = rate === null ? "" : ` Between two reviewers the word error rate is ${percent(rate)}.`;
  return [done, `${asked}Reviewers agree on ${same} of ${utterances} utterances (${percent(share)}).${differ}`];
}

/** The last texts that reviewers gave, each {text, reason, reviewers}; the text of a rejection is null. */
export function gatherTexts(reviews) {
  const last = new Map(), found = new Map();
  for (const each of reviews) if (each.action !== "skip") last.set(each.reviewer, each);
  for (const { reviewer, action, text, reason } of last.values()) {
    const shown = action === "reject" ? null : text, known = found.get(shown);
    if (known) known.reviewers.push(reviewer);
    else found.set(shown, { text: shown, reason, reviewers: [reviewer] });
  }
  return [...found.values()];
}

/** A button for each text; `choose(given)` gets the one that was chosen. */
export function makeChoices(texts, choose) {
  return texts.map((given, i) => {
    const button = document.createElement("button"), text = document.createElement("span"), by = document.createElement("span");
    button.type = "button";
    text.dir = "auto";
    text.textContent = given.text ?? `Rejected: ${given.reason ?? "without a reason"}`;
    by.textContent = `Key ${i + 1}: given by ${given.reviewers.join(", ")}`;
    button.append(text, by);
    button.onclick = () => choose(given);
    return button;
  });
}

/** The words of a hypothesis: one is in the order of Tab, and arrow keys lead to the others. */
export class Words {
  #words = [];
  #buttons = [];

  /** `play(seconds)` is called for the word that was chosen. */
  constructor(root, play) {
    [this.root, this.play] = [root, play];
    root.onkeydown = (event) => this.#move(event);
  }

  /** Show words with times or, where there are none, the text. */
  show({ words, text }) {
    this.#words = words;
    this.#buttons = words.map(({ word, start }, i) => {
      const button = document.createElement("button");
      [button.type, button.className, button.textContent, button.tabIndex] = ["button", "word", word, i ? -1 : 0];
      button.onclick = () => this.play(start);
      return button;
    });
    this.root.replaceChildren(...(words.length ? this.#buttons : [text]));
    for (let i = 1; i < words.length; i++)
      if (joinWords([words[i - 1].word, words[i].word]).includes(" ")) this.#buttons[i].before(" ");
  }

  /** Mark the word that is heard. */
  mark(seconds) {
    const heard = this.#buttons[this.#words.findLastIndex(({ start }) => start <= seconds + 0.01)];
    const marked = this.root.querySelector("[aria-current]");
    if (marked === heard) return;
    marked?.removeAttribute("aria-current");
    heard?.setAttribute("aria-current", "true");
  }

  #move(event) {
    const place = this.#buttons.indexOf(event.target), step = event.target.matches(":dir(rtl)") ? -1 : 1;
    const next = { ArrowRight: place + step, ArrowLeft: place - step, Home: 0, End: this.#buttons.length - 1 }[event.key];
    if (place < 0 || next === undefined) return;
    event.preventDefault();
    if (!this.#buttons[next]) return;
    event.target.tabIndex = -1;
    this.#buttons[next].tabIndex = 0;
    this.#buttons[next].focus();
  }
}
