// A transcript on the page: what happens, lines, a player whose words can be clicked, editing and downloads.

import { FORMATS, formatTime, joinWords, retime, textOf } from "./formats.js";

const TYPES = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };
const KEEP_MILLISECONDS = 60_000; // so long a download may take

export class Transcript {
  #segments = [];
  #words = []; // {button, segment, start} of all that can be clicked
  #chosen = 0;
  #frame = 0;
  static #count = 0;

  constructor(title) {
    this.root = document.querySelector("#card").content.firstElementChild.cloneNode(true);
    this.title = title;
    for (const name of ["status", "lines", "partial", "stable", "unstable", "tools", "edit", "remove"])
      this[`$${name}`] = this.root.querySelector(`.${name}`);
    [this.$progress, this.$player] = [this.root.querySelector("progress"), this.root.querySelector("audio")];
    const heading = this.root.querySelector("h2");
    heading.textContent = title;
    heading.id = `title-${Transcript.#count++}`;
    this.root.setAttribute("aria-labelledby", heading.id);
    this.$progress.ariaLabel = `Upload of ${title}`;
    this.$player.ariaLabel = `Recording ${title}`;
    this.$remove.ariaLabel = `Remove ${title}`;
    this.$edit.onclick = () => this.#edit(this.$edit.ariaPressed !== "true");
    this.$lines.onkeydown = (event) => this.#move(event);
    this.$player.onplay = this.$player.onseeked = () => this.#follow();
    this.$player.onerror = () => this.show("This browser can't play the recording.");
    for (const button of this.root.querySelectorAll("[data-form]")) button.onclick = () => this.#download(button.dataset.form);
  }

  /** Whether it has no text. */
  get empty() {
    return !this.#segments.length;
  }

  /** Show what happens in a sentence, and the part of an upload that is done. */
  show(text, part) {
    if (this.$status.textContent !== text) this.$status.textContent = text;
    this.$progress.hidden = part === undefined;
    this.$progress.value = part ?? 0;
  }

  /** Show the text of the segment that is spoken: what stays, and what can change. */
  showPartial(stable, rest) {
    [this.$stable.textContent, this.$unstable.textContent] = [stable, rest];
  }

  /** Add a segment {start, end, text}, with its words if they have times. */
  add({ start, end, text }, heard = []) {
    const segment = { start, end, heard }, live = this.$lines.role === "log";
    const follow = live && this.$partial.getBoundingClientRect().top < innerHeight; // unless the user has scrolled up
    segment.words = heard.length ? heard : retime(segment, text);
    this.#segments.push(segment);
    this.$lines.append(this.#makeLine(segment));
    if (follow) this.$partial.scrollIntoView({ block: "nearest" });
  }

  /** Show the whole, with a player if there is audio, and what can be done with it. */
  finish(audio) {
    this.$partial.hidden = true;
    this.$lines.role = "group";
    this.$lines.ariaLabel = audio ? "Words: Enter plays from one, and arrow keys lead to the others" : "Words";
    if (audio) this.$player.src = URL.createObjectURL(audio);
    this.$player.hidden = !audio;
    this.$tools.hidden = this.empty;
    this.#render();
  }

  /** Free what the browser keeps of it. */
  remove() {
    URL.revokeObjectURL(this.$player.src);
    this.root.remove();
  }

  #render(editing = false) {
    this.#words = [];
    this.$lines.replaceChildren(...this.#segments.map((each) => this.#makeLine(each, editing)));
    this.#choose(Math.min(this.#chosen, this.#words.length - 1));
  }

  #makeLine(segment, editing = false) {
    const line = make(editing ? "label" : "div", "line"), time = make("span", "time", formatTime(segment.start));
    line.append(time, editing ? this.#makeField(segment) : this.#makeText(segment));
    return line;
  }

  #makeField(segment) {
    const field = make("textarea", "", textOf(segment));
    [field.dir, field.rows] = ["auto", 1];
    field.ariaLabel = `Text at ${formatTime(segment.start)}`;
    field.oninput = () => (segment.words = retime(segment, field.value));
    return field;
  }

  #makeText(segment) {
    const text = make("div", "text"), { words } = segment;
    text.dir = "auto";
    words.forEach(({ word, start }, i) => {
      const shown = make(this.$player.hidden ? "span" : "button", "word", word);
      if (i && joinWords([words[i - 1].word, word]).includes(" ")) text.append(" ");
      text.append(shown);
      if (this.$player.hidden) return;
      const place = this.#words.push({ button: shown, segment, start }) - 1;
      [shown.type, shown.tabIndex] = ["button", -1];
      shown.onclick = () => this.#play(place);
    });
    return text;
  }

  #choose(place) {
    if (this.#words[this.#chosen]) this.#words[this.#chosen].button.tabIndex = -1;
    this.#chosen = Math.max(0, place);
    if (this.#words[this.#chosen]) this.#words[this.#chosen].button.tabIndex = 0;
  }

  #play(place) {
    this.#choose(place);
    this.$player.currentTime = this.#words[place].start;
    this.$player.play().catch(() => {}); // Its event "error" says why.
  }

  /** One word is in the order of Tab; arrows, Home and End lead to the others. */
  #move(event) {
    const words = this.#words, { segment } = words[this.#chosen] ?? {};
    const previous = words[words.findIndex((each) => each.segment === segment) - 1]?.segment;
    const right = event.target.matches(":dir(rtl)") ? -1 : 1;
    const place = {
      ArrowRight: () => this.#chosen + right,
      ArrowLeft: () => this.#chosen - right,
      ArrowDown: () => words.findLastIndex((each) => each.segment === segment) + 1,
      ArrowUp: () => words.findIndex((each) => each.segment === previous),
      Home: () => 0,
      End: () => words.length - 1,
    }[event.key]?.();
    if (place === undefined || !event.target.matches(".word")) return;
    event.preventDefault();
    if (!words[place]) return;
    this.#choose(place);
    words[place].button.focus();
  }

  /** Mark the word that is heard, as long as the player plays. */
  #follow() {
    const now = this.$player.currentTime + 0.01;
    const heard = this.#words[this.#words.findLastIndex((each) => each.start <= now)]?.button;
    const marked = this.$lines.querySelector("[aria-current]");
    if (marked !== heard) {
      marked?.removeAttribute("aria-current");
      heard?.setAttribute("aria-current", "true");
    }
    cancelAnimationFrame(this.#frame);
    if (!this.$player.paused) this.#frame = requestAnimationFrame(() => this.#follow());
  }

  #edit(editing) {
    this.$edit.ariaPressed = String(editing);
    this.#render(editing);
    if (editing) this.$lines.querySelector("textarea").focus();
  }

  #download(form) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([FORMATS[form](this.#segments)], { type: `${TYPES[form]};charset=utf-8` }));
    link.download = `${this.title.replace(/\.\w+$/, "")}.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), KEEP_MILLISECONDS);
  }
}

function make(kind, className, text = "") {
  const element = document.createElement(kind);
  [element.className, element.textContent] = [className, text];
  return element;
}
