// The microphone as 16-bit PCM at 16 kHz, in blocks of 100 ms: a windowed sinc for the rate that the browser has.

const RATE = 16000, BLOCK = RATE / 10, CROSSINGS = 16, ROLL_OFF = 0.93;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    let [divisor, rest] = [sampleRate, RATE];
    while (rest) [divisor, rest] = [rest, divisor % rest];
    [this.step, this.parts] = [sampleRate / divisor, RATE / divisor]; // An output is step / parts inputs after the last.
    const stretch = Math.max(1, sampleRate / RATE) / ROLL_OFF;
    this.half = Math.ceil(CROSSINGS * stretch);
    this.filters = Array.from({ length: this.parts }, (_, part) =>
      Float32Array.from({ length: 2 * this.half }, (_, i) => weigh((i - this.half + 1 - part / this.parts) / stretch) / stretch));
    this.history = new Float32Array(2 * this.half + 4096);
    this.seen = this.place = this.part = this.filled = 0;
    this.block = new Int16Array(BLOCK);
    this.port.onmessage = () => {
      this.post();
      this.port.postMessage(null);
      this.ended = true;
    };
  }

  process([[samples]]) {
    if (samples && !this.ended) {
      const { history, half } = this;
      history.copyWithin(0, samples.length);
      history.set(samples, history.length - samples.length);
      this.seen += samples.length;
      while (this.place + half < this.seen) {
        const first = this.place - half + 1 - this.seen + history.length;
        this.put(this.filters[this.part].reduce((sum, weight, i) => sum + weight * history[first + i], 0));
        this.part += this.step;
        this.place += Math.floor(this.part / this.parts);
        this.part %= this.parts;
      }
    }
    return !this.ended;
  }

  put(sample) {
    this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
    if (this.filled === BLOCK) this.post();
  }

  post() {
    this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }
}

function weigh(x) { // a sinc in a Hann window of CROSSINGS on each side
  if (Math.abs(x) >= CROSSINGS) return 0;
  const window = Math.cos(Math.PI * x / CROSSINGS / 2) ** 2;
  return x === 0 ? 1 : window * Math.sin(Math.PI * x) / (Math.PI * x);
}

registerProcessor("microphone", Microphone);
