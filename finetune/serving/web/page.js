// The page: its models, recordings and files.

import { record } from "./live.js";
import { request } from "./service.js";
import { Transcript } from "./transcript.js";

const AT_ONCE = 3; // uploads; the others wait
const $ = (selector) => document.querySelector(selector);
const choice = $("#models select"), button = $("#record");
const lanes = Array(AT_ONCE).fill(Promise.resolve());
let numFiles = 0, stop = null; // stop() ends the recording, if there is one.

const say = (text) => ($("#message").textContent = text);

async function showModels() {
  try {
    const names = (await request("v1/models", say)).data.map((each) => each.id);
    choice.replaceChildren(...names.map((name) => new Option(name)));
    $("#models").hidden = names.length < 2;
    say("");
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
  const transcript = addTranscript(`Recording ${new Date().toLocaleTimeString()}`);
  say("");
  transcript.show("Waiting for the microphone");
  transcript.$remove.hidden = true;
  transcript.$lines.role = "log";
  transcript.root.scrollIntoView({ block: "nearest" });
  try {
    const session = await record(choice.value, {
      onPartial: (stable, rest) => transcript.showPartial(stable, rest),
      onFinal: (segment, words) => {
        transcript.showPartial("", "");
        if (segment.text) transcript.add(segment, words);
      },
      onEnd: (error, audio) => {
        transcript.finish(audio);
        transcript.root.classList.remove("recording");
        transcript.show(error ? error.message : transcript.empty ? "No speech was heard." : "Recorded");
        showStop(null);
      },
    });
    transcript.root.classList.add("recording");
    transcript.show("Recording");
    transcript.$remove.hidden = false;
    transcript.$remove.onclick = () => {
      session.abort();
      remove(transcript);
    };
    showStop(() => {
      transcript.show("Finishing");
      return session.stop();
    });
  } catch (error) {
    transcript.remove();
    say(error.message);
  }
}

function showStop(given) {
  stop = given;
  button.classList.toggle("stop", Boolean(stop));
  button.textContent = stop ? "Stop" : "Record";
}

/** Start or stop; the button stays enabled meanwhile, so that it keeps the focus. */
button.onclick = async () => {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  await (stop ?? startRecording)();
  button.ariaDisabled = "false";
};

function addFiles(files) {
  for (const file of files) {
    const transcript = addTranscript(file.name), controller = new AbortController(), lane = numFiles++ % AT_ONCE;
    transcript.show("Waiting for other files");
    transcript.$remove.onclick = () => {
      controller.abort();
      remove(transcript);
    };
    lanes[lane] = lanes[lane].then(() => transcribeFile(file, transcript, controller.signal));
  }
}

async function transcribeFile(file, transcript, signal) {
  if (signal.aborted) return;
  const form = new FormData();
  if (choice.value) form.append("model", choice.value);
  form.append("response_format", "verbose_json");
  for (const each of ["word", "segment"]) form.append("timestamp_granularities[]", each);
  form.append("file", file);
  try {
    const show = (text, part) => transcript.show(text, part);
    const { segments, words, duration } = await request("v1/audio/transcriptions", show, form, signal);
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
