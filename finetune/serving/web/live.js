// A live session: the microphone in, texts out.

import { UNREACHABLE, askKey, readKey } from "./service.js";

const RATE = 16000, TRANSCRIPTION = "conversation.item.input_audio_transcription";
const MAX_WAITING_BYTES = 1e6; // More that is not sent, about 20 s of audio, ends a recording.
const MICROPHONE = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the settings of the browser.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "The microphone can't be used: another program may have it.",
};

/**
 * Record until `stop()` of what is returned, which waits for the last texts, or `abort()`.
 * In the end, also after an error, `onEnd(error, audio)` is called, with null for no error.
 * `onPartial(stable, rest)` gets the text of the segment so far, `onFinal({start, end, text}, words)` its last form.
 */
export async function record(model, { onPartial, onFinal, onEnd }) {
  if (!navigator.mediaDevices) throw new Error("The browser gives the microphone only to pages at localhost or with HTTPS.");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  }).catch((error) => { throw new Error(MICROPHONE[error.name] ?? `The microphone can't be used: ${error.message}.`); });
  const context = new AudioContext(), blocks = [];
  let socket, node, resolveEnd, ended = false, stopping = false, start = 0, end = 0, partial = "";
  const atEnd = new Promise((resolve) => (resolveEnd = resolve));

  function close() {
    ended = true;
    stream.getTracks().forEach((track) => track.stop());
    context.close();
    socket?.close();
  }

  function finish(error) {
    if (ended) return;
    close();
    if (partial) onFinal({ start, end: blocks.reduce((sum, block) => sum + block.length, 0) / RATE, text: partial });
    onEnd(error, makeWav(blocks));
    resolveEnd();
  }

  function take(event) {
    if (event.type === "input_audio_buffer.speech_started") start = event.audio_start_ms / 1000;
    if (event.type === "input_audio_buffer.speech_stopped") end = event.audio_end_ms / 1000;
    if (event.type === `${TRANSCRIPTION}.partial`) {
      partial = event.text;
      onPartial(event.stable, event.text.slice(event.stable.length));
    }
    if (event.type === `${TRANSCRIPTION}.completed`) {
      partial = "";
      onFinal({ start, end, text: event.transcript }, event.words);
    }
    if (event.type === "input_audio_buffer.cleared") finish(null);
    if (event.type === "error" && !(stopping && event.error.code === "input_audio_buffer_commit_empty"))
      finish(new Error(event.error.message));
  }

  const send = (event) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(event));

  function takeAudio({ data }) {
    if (data?.length) {
      blocks.push(data);
      send({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...new Uint8Array(data.buffer))) });
      if (socket.bufferedAmount > MAX_WAITING_BYTES) finish(new Error("The connection is too slow for live text."));
    } else if (!data) { // The end: the answer to "clear" comes after all texts.
      send({ type: "input_audio_buffer.commit" });
      send({ type: "input_audio_buffer.clear" });
    }
  }

  try {
    socket = await connect(model, take);
    socket.onclose = ({ reason }) => finish(new Error(`The service has ended the connection${reason && `: ${reason}`}.`));
    await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    await context.resume();
    node = new AudioWorkletNode(context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = takeAudio;
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);
    stream.getTracks()[0].onended = () => finish(new Error("The microphone was disconnected."));
    if (ended) throw new Error(UNREACHABLE);
  } catch (error) {
    if (!ended) close();
    throw error;
  }
  return {
    abort: () => finish(null),
    stop() {
      stopping = true;
      node.port.postMessage("stop");
      return atEnd;
    },
  };
}

/** An open socket whose session has its settings. */
async function connect(model, take) {
  for (;;) {
    const used = readKey();
    try {
      return await open(model, take);
    } catch (error) {
      if (error.code !== "invalid_api_key" || !(await askKey(used))) throw error;
    }
  }
}

function open(model, take) {
  return new Promise((resolve, reject) => {
    const url = new URL("v1/realtime?intent=transcription", location.href), key = readKey();
    url.protocol = url.protocol.replace("http", "ws");
    if (model) url.searchParams.set("model", model);
    const socket = new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
    const session = {
      type: "transcription",
      audio: { input: { format: { type: "audio/pcm", rate: RATE }, turn_detection: { type: "server_vad" } } },
      include: ["item.input_audio_transcription.partial"],
    };
    socket.onopen = () => socket.send(JSON.stringify({ type: "session.update", session }));
    socket.onclose = () => reject(new Error(UNREACHABLE));
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "error") {
        reject(Object.assign(new Error(event.error.message), { code: event.error.code }));
        socket.close();
      } else if (event.type === "session.updated") {
        socket.onmessage = (message) => take(JSON.parse(message.data));
        resolve(socket);
      }
    };
  });
}

/** Blocks of 16-bit samples as a WAV file; null without any. The numbers in hexadecimal are RIFF, WAVE, "fmt " and data. */
function makeWav(blocks) {
  const size = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const form = [16, 1 + (1 << 16), RATE, 2 * RATE, 2 + (16 << 16)];
  const header = Uint32Array.of(0x46464952, 36 + size, 0x45564157, 0x20746d66, ...form, 0x61746164, size);
  return size ? new Blob([header, ...blocks], { type: "audio/wav" }) : null;
}
