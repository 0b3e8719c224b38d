// The page: its models, recordings and files.

import { record } from "./live.js";
import { listModels, transcribe } from "./service.js";
import { Transcript } from "./transcript.js";

const AT_ONCE = 3; // uploads; the others wait
const $ = (selector) => document.querySelector(selector);
const choice = $("#models select"), button = $("#record");
const waiting = [];
let active = 0, live = null;

const say = (text) => ($("#message").textContent = text);

async function showModels() {
  try {
    const names = await listModels();
    choice.replaceChildren(...names.map((name) => new Option(name)));
    $("#models").hidden = names.length < 2;
  } catch (error) {
    say(error.message);
  }
}

function addTranscript(title) {
  const transcript = new Transcript(title);
  $("#transcripts").prepend(transcript.root);
  return transcript;
}

/** Take a transcript away; the focus goes to the next one, or to the button of recordings. */
function remove(transcript) {
  const next = transcript.root.nextElementSibling?.querySelector(".remove") ?? button;
  transcript.remove();
  next.focus();
}

async function startRecording() {
  say("");
  button.disabled = true;
  let transcript = null;
  try {
    live = await record(choice.value, {
      onPartial: (stable, rest) => transcript.showPartial(stable, rest),
      onFinal: (segment) => {
        transcript.showPartial("", "");
        if (segment.text) transcript.add(segment);
      },
      onEnd: (error, audio) => {
        transcript.finish(audio);
        transcript.root.classList.remove("recording");
        transcript.show(error ? error.message : transcript.empty ? "No speech was heard." : "Recorded.");
        showRecording(false);
      },
    });
    transcript = addTranscript(`Recording ${new Date().toLocaleTimeString()}`);
    transcript.root.classList.add("recording");
    transcript.$lines.setAttribute("role", "log");
    transcript.show("Recording");
    transcript.$remove.onclick = () => {
      live?.abort();
      remove(transcript);
    };
    showRecording(true);
  } catch (error) {
    say(error.message);
    button.disabled = false;
  }
}

function showRecording(on) {
  if (!on) live = null;
  button.disabled = false;
  button.ariaPressed = String(on);
  button.textContent = on ? "Stop" : "Record";
}

button.onclick = () => {
  if (!live) return startRecording();
  button.disabled = true;
  live.stop();
};

function addFiles(files) {
  for (const file of files) {
    const transcript = addTranscript(file.name), controller = new AbortController();
    transcript.show("Waiting for the other files");
    transcript.$remove.onclick = () => {
      controller.abort();
      remove(transcript);
    };
    waiting.push(() => transcribeFile(file, transcript, controller.signal));
  }
  startWaiting();
}

function startWaiting() {
  while (active < AT_ONCE && waiting.length) {
    active++;
    waiting.shift()().finally(() => {
      active--;
      startWaiting();
    });
  }
}

async function transcribeFile(file, transcript, signal) {
  if (signal.aborted) return;
  try {
    const { segments, words, duration } = await transcribe(file, choice.value, signal, (...what) => transcript.show(...what));
    let next = 0;
    for (const segment of segments) {
      const end = words.findIndex((word, i) => i >= next && word.start > segment.end);
      transcript.add(segment, words.slice(next, (next = end < 0 ? words.length : end)));
    }
    transcript.finish(file);
    transcript.show(words.length ? `${words.length} words in ${Math.round(duration)} s` : "No speech was found.");
  } catch (error) {
    if (!signal.aborted) transcript.show(error.message);
  }
}

$("#files").onchange = ({ target }) => {
  addFiles(target.files);
  target.value = "";
};
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  addFiles(event.dataTransfer.files);
});
showModels();
