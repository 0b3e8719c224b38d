// The review page: one utterance after another, decided with buttons or keys.

import { Recording } from "./recording.js";
import { Words, describeFacts, describeReasons, describeStats, gatherTexts, makeChoices } from "./review_item.js";
import { Queue, isGone } from "./review_queue.js";
import { readName, request } from "./service.js";

const JUMP_SECONDS = 2;
const DONE = { accept: "accepted", edit: "corrected", skip: "skipped", reject: "rejected" };
const $ = (selector) => document.querySelector(selector);
const item = $("#item"), field = $("#correction"), why = $("#why"), reason = why.querySelector("input");
const words = new Words($("#words"), (seconds) => recording.playFrom(seconds));
const recording = new Recording($("#wave"), $("#play"), $("#time"), (seconds) => words.mark(seconds), (text) => say(text));
let queue = new Queue(say), current = null, choices = [], busy = false;

function say(text) {
  if ($("#message").textContent !== text) $("#message").textContent = text;
}

// What is typed stays in this tab until it is sent: it is personal data, and must not stay on a disk.
const draftOf = ({ id }) => `draft:${id}`;
const hypothesisOf = ({ hypotheses }) => hypotheses.at(-1) ?? { text: "", words: [] };

function setBusy(value) {
  busy = value;
  item.setAttribute("aria-busy", String(value));
  for (const button of item.querySelectorAll(".actions button")) button.ariaDisabled = String(value);
}

/** Show the next utterance, or that none waits. */
async function advance() {
  setBusy(true);
  $("#again").hidden = true;
  try {
    const next = await queue.take();
    if (next) show(next);
    else {
      hideItem();
      say(`${$("#message").textContent} Nothing more waits for you.`.trim());
    }
  } catch (error) {
    hideItem();
    say(error.message);
  } finally {
    setBusy(false);
  }
}

function hideItem() {
  current = null;
  recording.clear();
  item.hidden = true;
  $("#again").hidden = false;
  $("#again").focus();
}

function show(utterance) {
  const hypothesis = hypothesisOf(utterance), draft = sessionStorage.getItem(draftOf(utterance));
  current = utterance;
  choices = utterance.status === "conflict" ? gatherTexts(utterance.reviews) : [];
  $("#title").textContent = `Utterance ${utterance.id}`;
  $("#facts").textContent = describeFacts(utterance);
  $("#reasons").replaceChildren(...describeReasons(utterance).map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
  words.show(hypothesis.text || hypothesis.words.length ? hypothesis : { text: "No model has written anything of it.", words: [] });
  $("#choices").replaceChildren(...makeChoices(choices, choose));
  $("#choices").hidden = !choices.length;
  reason.value = "";
  item.hidden = false;
  setEditing(draft !== null, draft ?? hypothesis.text);
  if (draft === null) $("#title").focus();
  loadAudio(utterance);
}

async function loadAudio(utterance) {
  recording.clear();
  try {
    const audio = await queue.audio(utterance.id);
    if (current !== utterance) return;
    recording.load(audio);
    if (!audio.peaks.length) say("This browser can't draw the recording.");
  } catch (error) {
    if (current === utterance) say(error.message);
  }
  queue.prefetch().catch(() => {}); // It is fetched again when it is needed, and its error shown then.
}

function setEditing(editing, text = field.value) {
  field.value = text;
  $("#editor").hidden = !editing;
  $("#edit").ariaPressed = String(editing);
  $("#accept").textContent = editing ? "Send correction" : "Accept";
  if (editing) field.focus();
}

function toggleEditing() {
  if (!current) return;
  setEditing($("#editor").hidden);
  if ($("#editor").hidden) $("#title").focus();
}

/** Send what was decided; true if the service has taken it. */
async function send(action, given = {}) {
  if (!current || busy) return false;
  const utterance = current;
  setBusy(true);
  say("");
  try {
    const { note, status } = await request(`v1/feedback/${utterance.id}/review`, say, { action, ...given });
    queue.finish(utterance, status);
    say(`Utterance ${utterance.id} is ${DONE[action]}.${note ? ` ${note}` : ""}`);
  } catch (error) {
    setBusy(false);
    say(error.message);
    if (action !== "skip" || !isGone(error)) return false;
  }
  sessionStorage.removeItem(draftOf(utterance));
  why.close();
  showStats();
  await advance();
  return true;
}

/** Accept the text of the model or, while it is edited, send the correction. */
function accept() {
  if (!current) return;
  const { text } = hypothesisOf(current), given = $("#editor").hidden ? text : field.value.trim();
  send(given === text ? "accept" : "edit", { text: given });
}

function choose({ text, reason: given }) {
  if (text === null) send("reject", { reason: given ?? "as another reviewer" });
  else send("edit", { text });
}

function askReason() {
  if (!current || busy) return;
  $("#why-problem").textContent = "";
  why.showModal();
}

why.querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  if (!(await send("reject", { reason: reason.value.trim() }))) $("#why-problem").textContent = $("#message").textContent;
};
why.querySelector(".cancel").onclick = () => why.close();

async function showStats() {
  try {
    [$("#counts").textContent, $("#agreement").textContent] = describeStats(await request("v1/feedback/stats", () => {}));
  } catch (error) {
    $("#counts").textContent = error.message;
  }
}

/** Ask who reviews; without a name it is anyone. */
function askName() {
  const dialog = $("#name"), { name } = dialog.querySelector("form").elements;
  name.value = readName() ?? "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    sessionStorage.setItem("reviewer", name.value.trim() || "anyone");
    resolve();
  }, { once: true }));
}

async function start() {
  queue = new Queue(say);
  say("");
  try {
    const { has_keys: hasKeys } = await request("v1/feedback/queue?limit=1", say);
    $("#change-name").hidden = hasKeys;
    if (!hasKeys && readName() === null) await askName();
  } catch (error) {
    hideItem();
    return say(error.message);
  }
  showStats();
  await advance();
}

const ACTIONS = {
  " ": () => current && recording.toggle(),
  ArrowLeft: () => recording.move(-JUMP_SECONDS),
  ArrowRight: () => recording.move(JUMP_SECONDS),
  Enter: accept,
  e: toggleEditing,
  s: () => send("skip"),
  r: askReason,
  "?": () => $("#keys").showModal(),
};

function onKey(event) {
  const { key, target } = event;
  if (event.defaultPrevented || event.isComposing || event.altKey || event.metaKey || $("dialog[open]")) return;
  let action = ACTIONS[key] ?? (choices[key - 1] && (() => choose(choices[key - 1])));
  if (target === field)
    action = event.ctrlKey ? { " ": ACTIONS[" "] }[key] : { Enter: event.shiftKey ? null : accept, Escape: toggleEditing }[key];
  else if (event.ctrlKey || !$("#use-keys").checked || (target.matches("button, a") && [" ", "Enter"].includes(key))) return;
  if (!action || (event.repeat && !key.startsWith("Arrow"))) return;
  event.preventDefault();
  action();
}

addEventListener("keydown", onKey);
// A click leaves the focus where it is, so that the keys go on to work.
item.addEventListener("mousedown", (event) => event.target.closest("button, canvas") && event.preventDefault());
field.oninput = () => current && sessionStorage.setItem(draftOf(current), field.value);
$("#accept").onclick = accept;
$("#edit").onclick = toggleEditing;
$("#skip").onclick = ACTIONS.s;
$("#reject").onclick = askReason;
$("#show-keys").onclick = ACTIONS["?"];
$("#change-name").onclick = () => askName().then(start);
$("#again").onclick = start;
$("#use-keys").checked = sessionStorage.getItem("keys") !== "off";
$("#use-keys").onchange = ({ target }) => sessionStorage.setItem("keys", target.checked ? "on" : "off");
start();
