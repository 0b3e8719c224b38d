// A recording with its waveform: what is drawn is decoded here, and can be played from any place.

import { formatTime } from "./formats.js";

const PLACES = 1000; // of the waveform, each with the least and the largest sample

export class Recording {
  #player = new Audio();
  #peaks = [];
  #frame = 0;
  #url = null;

  /** `onTime(seconds)` is called while it plays and after a jump. */
  constructor(canvas, button, time, onTime, onProblem) {
    [this.canvas, this.button, this.time, this.onTime] = [canvas, button, time, onTime];
    this.#player.onplay = this.#player.onpause = this.#player.onseeked = this.#player.onended = () => this.#follow();
    this.#player.ondurationchange = () => this.#follow();
    this.#player.onerror = () => this.#url && onProblem("This browser can't play the recording.");
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    canvas.onclick = (event) => this.seek((event.offsetX / canvas.clientWidth) * this.#length);
    button.onclick = () => this.toggle();
  }

  get #length() {
    return this.#player.duration || 0;
  }

  get playing() {
    return !this.#player.paused;
  }

  /** Show the audio {buffer, type}, whose `peaks` were computed by `decode`. */
  load({ blob, peaks }) {
    this.clear();
    this.#peaks = peaks;
    this.#url = URL.createObjectURL(blob);
    this.#player.src = this.#url;
    this.#follow();
  }

  /** Stop, and free what the browser keeps of it. */
  clear() {
    this.#player.pause();
    if (this.#url) URL.revokeObjectURL(this.#url);
    [this.#url, this.#peaks] = [null, []];
    this.#player.removeAttribute("src");
    this.#draw();
  }

  toggle() {
    if (this.#player.paused) this.#player.play().catch(() => {}); // Its event "error" says why.
    else this.#player.pause();
  }

  seek(seconds) {
    this.#player.currentTime = Math.min(Math.max(0, seconds), this.#length || seconds);
  }

  /** Go so many seconds on, or back. */
  move(seconds) {
    this.seek(this.#player.currentTime + seconds);
  }

  playFrom(seconds) {
    this.seek(seconds);
    if (this.#player.paused) this.toggle();
  }

  #follow() {
    const now = this.#player.currentTime;
    this.button.textContent = this.playing ? "Pause" : "Play";
    this.time.textContent = `${formatTime(now)} of ${formatTime(this.#length)}`;
    this.onTime(now);
    this.#draw();
    cancelAnimationFrame(this.#frame);
    if (this.playing) this.#frame = requestAnimationFrame(() => this.#follow());
  }

  #draw() {
    const { canvas } = this, scale = devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d"), middle = height / 2;
    context.clearRect(0, 0, width, height);
    context.fillStyle = getComputedStyle(canvas).color;
    const step = width / (this.#peaks.length || 1);
    this.#peaks.forEach(([low, high], i) => {
      context.fillRect(i * step, middle * (1 - high), Math.max(step, 1), Math.max((high - low) * middle, scale));
    });
    if (this.#length) context.fillRect((this.#player.currentTime / this.#length) * width, 0, 2 * scale, height);
  }
}

/** A file {buffer, type} as a blob to play and peaks to draw; no peaks where the browser can't decode it. */
export async function decode({ buffer, type }) {
  const blob = new Blob([buffer], { type });
  try {
    const context = new OfflineAudioContext(1, 1, 16000);
    return { blob, peaks: measurePeaks((await context.decodeAudioData(buffer)).getChannelData(0)) };
  } catch {
    return { blob, peaks: [] };
  }
}

/** The least and the largest sample of each place, on a scale on which the loudest one is 1. */
function measurePeaks(samples) {
  const size = Math.max(1, Math.ceil(samples.length / PLACES)), peaks = [];
  let loudest = 1e-3;
  for (let first = 0; first < samples.length; first += size) {
    let low = 0, high = 0;
    for (let i = first; i < Math.min(first + size, samples.length); i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    loudest = Math.max(loudest, high, -low);
    peaks.push([low, high]);
  }
  return peaks.map(([low, high]) => [low / loudest, high / loudest]);
}
