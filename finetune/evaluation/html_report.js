"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const of = data.utterances; // A list for each property, by errors in descending order.
const total = of.name.length;
const ROWS = 50; // Rows of a page of the table.
const FEW = 10; // Bars or errors in a panel that is not expanded.

// Names and transcripts are untrusted: they become text nodes and attribute values, never markup.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const find = (selector) => document.querySelector(selector);
const percent = (rate) => (rate === null ? "–" : (100 * rate).toFixed(1) + " %");
const grouped = (number) => number.toLocaleString("en");
const fixed = (number) => (number === null ? "–" : number.toFixed(1));
const plural = (number, noun) => grouped(number) + " " + noun + (number === 1 ? "" : "s");

// Differences, shown by sign and by colour.

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;

function difference(reference, hypothesis) {
  if (!hypothesis) return make("del", {}, "−", make("bdi", {}, reference));
  if (!reference) return make("ins", {}, "+", make("bdi", {}, hypothesis));
  const arrow = RIGHT_TO_LEFT.test(reference + hypothesis) ? "←" : "→";
  return make("mark", {}, make("s", {}, make("bdi", {}, reference)), arrow, make("b", {}, make("bdi", {}, hypothesis)));
}

function transcript(row) {
  const text = make("p", { dir: "auto" });
  for (const piece of of.aligned[row]) {
    text.append(typeof piece === "string" ? piece : difference(...piece), " ");
  }
  return text;
}

// Slices and errors: the table shows the utterances of those that are selected.

const picks = new Map();

function choice(kind, label, rows, title, ...children) {
  const button = make("button", { type: "button", class: "choice " + kind, "aria-pressed": "false", title }, ...children);
  button.addEventListener("click", () => {
    if (picks.has(button)) picks.delete(button);
    else picks.set(button, { label, rows: new Set(rows) });
    showPicks();
    update();
    if (picks.has(button)) find("#utterances").scrollIntoView();
  });
  return button;
}

function showPicks() {
  for (const button of document.querySelectorAll(".choice")) button.setAttribute("aria-pressed", picks.has(button));
  find("#picks").replaceChildren(
    ...[...picks].map(([button, pick]) => {
      const chip = make("button", { type: "button", class: "pick", "aria-label": "Remove: " + pick.label });
      chip.append("✕ ", make("bdi", {}, pick.label));
      chip.addEventListener("click", () => {
        button.click();
        find("#utterances").focus({ preventScroll: true }); // The focused chip is removed.
      });
      return chip;
    }),
  );
}

function panel(title, choices) {
  const list = make("ul", {}, ...choices.map((each) => make("li", {}, each)));
  const section = make("section", { class: "panel" }, make("h3", {}, title), list);
  const rest = [...list.children].slice(choices.length > FEW + 2 ? FEW : choices.length);
  if (rest.length) {
    const more = make("button", { type: "button", class: "more", "aria-expanded": "false" });
    const toggle = (open) => {
      for (const item of rest) item.hidden = !open;
      more.textContent = open ? "Show fewer" : "Show " + rest.length + " more";
      more.setAttribute("aria-expanded", open);
    };
    more.addEventListener("click", () => toggle(rest[0].hidden));
    toggle(false);
    section.append(more);
  }
  return section;
}

// A bar from 0 to `value`, its interval, and a dashed line at the value of the whole set; `scale` is the width.
function plot(value, scale, low, high, all) {
  const x = (rate) => 100 * Math.min(rate / scale, 1);
  const svg = draw("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
  const line = (x1, y1, x2, y2, kind) => svg.append(draw("line", { x1, y1, x2, y2, class: kind }));
  svg.append(draw("rect", { x: 0, y: 1.5, width: x(value), height: 9 }));
  if (all !== null) line(x(all), -1, x(all), 13, "all");
  if (high !== null) {
    line(x(low), 6, x(high), 6, "interval");
    line(x(low), 3.5, x(low), 8.5, "interval");
    if (high <= scale) line(x(high), 3.5, x(high), 8.5, "interval");
  }
  return svg;
}

function slicePanel(slice) {
  const rates = slice.bars.map((bar) => bar.wer || 0);
  const highest = Math.max(...rates, data.wer || 0) || 1;
  // The interval of a few utterances can be much wider than all bars.
  const scale = Math.min(Math.max(highest, ...slice.bars.map((bar) => bar.high || 0)), 2 * highest);
  const choices = slice.bars.map((bar) => {
    const between = bar.high === null ? "" : ", 95 % interval " + percent(bar.low) + " to " + percent(bar.high);
    const title = bar.label + ": WER " + percent(bar.wer) + between + "; " + plural(bar.words, "word") + " in " +
      plural(bar.rows.length, "utterance");
    return choice(
      "bar", slice.title + ": " + bar.label, bar.rows, title,
      make("span", { class: "label", dir: "auto" }, bar.label),
      plot(bar.wer || 0, scale, bar.low, bar.high, data.wer),
      make("span", { class: "value" }, percent(bar.wer)),
      make("small", { title: "utterances" }, "n " + grouped(bar.rows.length)),
    );
  });
  return panel(slice.title, choices);
}

function histogramPanel() {
  const names = ["0 %", "0–10 %", "10–20 %", "20–30 %", "30–40 %", "40–50 %", "50–75 %", "75–100 %", "above 100 %",
    "no reference words"];
  const ends = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, Infinity];
  const bins = names.map(() => []);
  for (let row = 0; row < total; row++) {
    const wer = of.wer[row];
    bins[wer === null ? names.length - 1 : ends.findIndex((end) => wer <= end)].push(row);
  }
  const scale = Math.max(...bins.map((rows) => rows.length));
  const choices = names.flatMap((name, bin) => {
    const rows = bins[bin];
    if (!rows.length && bin >= ends.length - 1) return [];
    return choice(
      "bar", "WER " + name, rows, "WER " + name + ": " + plural(rows.length, "utterance"),
      make("span", { class: "label" }, name),
      plot(rows.length, scale, null, null, null),
      make("span", { class: "value" }, percent(rows.length / total)),
      make("small", { title: "utterances" }, "n " + grouped(rows.length)),
    );
  });
  return panel("Utterances by their WER", choices);
}

// A space is shown as a word, and a combining mark on a circle.
const visible = (text) => text.replace(" ", "space").replace(/^\p{M}/u, "◌$&");

function errorPanel(kind) {
  const show = kind.characters ? visible : (text) => text;
  const choices = kind.errors.map((error) => {
    const [reference, hypothesis] = [show(error.reference), show(error.hypothesis)];
    const label = make("span", { class: "label" }, difference(reference, hypothesis));
    const times = grouped(error.count) + (error.of ? " of " + grouped(error.of) : "");
    const title = times + (error.of ? " times not recognised" : " times") + ", in " + plural(error.rows.length, "utterance");
    return choice("error", kind.title + ": " + label.textContent, error.rows, title, label,
      make("span", { class: "value" }, times));
  });
  return panel(kind.title, choices);
}

// The table.

const collator = new Intl.Collator("en", { numeric: true });
const columns = [
  { title: "Errors", key: "errors", kind: "number", falls: true, cell: errorsCell },
  { title: "WER", key: "wer", kind: "number", falls: true, cell: (row) => percent(of.wer[row]) },
  { title: "CER", key: "cer", kind: "number", falls: true, cell: (row) => percent(of.cer[row]) },
  { title: "Transcript", key: "reference", kind: "transcript", cell: transcriptCell },
  { title: "Name", key: "name", kind: "name", cell: nameCell },
  { title: "Speaker", key: "speaker", kind: "speaker", cell: (row) => make("bdi", {}, of.speaker[row] || "–") },
  { title: "Seconds", key: "seconds", kind: "number", falls: true, cell: (row) => fixed(of.seconds[row]) },
  { title: "Char./s", key: "rate", kind: "number", falls: true, cell: (row) => fixed(of.rate[row]) },
  { title: "SNR/dB", key: "snr", kind: "number", falls: true, cell: (row) => fixed(of.snr[row]) },
  { title: "Unseen", key: "unseen", kind: "number", falls: true, cell: (row) => String(of.unseen[row] ?? "–") },
].filter((column) => of[column.key].some((value) => value !== null));

function errorsCell(row) {
  const cell = document.createDocumentFragment();
  cell.append(of.errors[row] + " ", make("small", {}, "of " + of.words[row]));
  return cell;
}

function transcriptCell(row) {
  const cell = document.createDocumentFragment();
  cell.append(transcript(row));
  const written = { "written ": of.raw_reference[row], "recognised ": of.raw_hypothesis[row] };
  for (const [what, text] of Object.entries(written)) {
    if (text !== null) cell.append(make("p", { class: "written" }, make("small", {}, what), make("bdi", {}, text)));
  }
  if (of.audio[row] !== null) cell.append(player(row));
  return cell;
}

function nameCell(row) {
  const cell = document.createDocumentFragment();
  cell.append(make("bdi", {}, of.name[row]));
  if (of.columns[row]) cell.append(make("small", { dir: "auto" }, of.columns[row]));
  return cell;
}

// Players are created on demand, as one for each row is slow; only one plays at a time.
function player(row) {
  const play = make("button", { type: "button", class: "play", "aria-label": "Play " + of.name[row] }, "▶ Play");
  play.addEventListener("click", () => {
    const audio = make("audio", { controls: "", src: of.audio[row] });
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    });
    play.replaceWith(audio);
    audio.focus();
    audio.play().catch(() => {}); // The player shows the error.
  });
  return make("div", {}, play);
}

let sorted = { key: "errors", falls: true };
let order = [...Array(total).keys()];
let shown = [];
let first = 0;
let texts = null;

function sort(key, falls) {
  sorted = { key, falls };
  const values = of[key];
  const sign = falls ? -1 : 1;
  const compare = typeof values.find((value) => value !== null) === "string" ? collator.compare : (a, b) => a - b;
  // Unknown values come last in both directions; ties are ordered by errors.
  order.sort((a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
    return sign * compare(values[a], values[b]) || a - b;
  });
}

const fold = (text) => text.normalize("NFC").toLowerCase();

function update() {
  texts ??= of.name.map((name, row) =>
    fold([name, of.reference[row], of.hypothesis[row] ?? "", of.raw_reference[row] ?? "", of.speaker[row] ?? "",
      of.columns[row] ?? ""].join("\n")));
  const wanted = fold(find("input[type=search]").value.trim());
  const wrong = find("#wrong").checked;
  const sets = [...picks.values()].map((pick) => pick.rows);
  shown = order.filter((row) =>
    (!wrong || of.errors[row] > 0) && sets.every((rows) => rows.has(row)) && (!wanted || texts[row].includes(wanted)));
  show(0);
}

function show(from) {
  first = from;
  const last = Math.min(first + ROWS, shown.length);
  find("tbody").replaceChildren(...shown.slice(first, last).map((row) =>
    make("tr", { "data-row": row }, ...columns.map((column) => {
      const cell = make("td", { class: column.kind }, column.cell(row));
      if (column.kind === "number" || column.kind === "speaker") cell.setAttribute("data-title", column.title);
      return cell;
    }))));
  const which = shown.length ? grouped(first + 1) + "–" + grouped(last) + " of " : "";
  const rest = shown.length < total ? " (of " + grouped(total) + ")" : "";
  find("#shown").textContent = which + plural(shown.length, "utterance") + rest;
  find("#previous").disabled = first === 0;
  find("#next").disabled = last === shown.length;
}

function turn(step) {
  show(first + step);
  find("#utterances").scrollIntoView();
}

function buildTable() {
  const headers = columns.map((column) => {
    const button = make("button", { type: "button" }, column.title);
    const header = make("th", { scope: "col", "aria-sort": column.key === sorted.key ? "descending" : "none" }, button);
    button.addEventListener("click", () => {
      const falls = sorted.key === column.key ? !sorted.falls : Boolean(column.falls);
      sort(column.key, falls);
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", falls ? "descending" : "ascending");
      update();
    });
    return header;
  });
  find("thead tr").append(...headers);
  find("#legend").append("In the transcripts: ", difference("reference", "recognised"), " ", difference("deleted", ""), " ",
    difference("", "inserted"), ". Smaller below, where it differs: the text before normalisation.");
  find("input[type=search]").addEventListener("input", update);
  find("#wrong").addEventListener("change", update);
  find("#previous").addEventListener("click", () => turn(-ROWS));
  find("#next").addEventListener("click", () => turn(ROWS));
}

find("#where .panels").append(histogramPanel(), ...data.slices.map(slicePanel));
find("#what .panels").append(...data.errors.filter((kind) => kind.errors.length).map(errorPanel));
find("#where").hidden = find("#utterances").hidden = false;
find("#what").hidden = !find("#what .panels").childElementCount;
buildTable();
update();
