// The utterances that wait for a person; the next one and its audio are fetched ahead.

import { decode } from "./recording.js";
import { request } from "./service.js";

const PAGE = 10;
const GONE = [404, 410];
const WAITING = ["open", "conflict"];

export class Queue {
  #waiting = [];
  #seen = new Set(); // ids that were shown in this tab
  #audio = new Map(); // promises by id

  /** `show(text)` gets what happens, such as a wait for the service. */
  constructor(show) {
    this.show = show;
  }

  /** The next utterance as it is now, or null. */
  async take() {
    for (;;) {
      if (!this.#waiting.length) await this.#fetch();
      const next = this.#waiting[0];
      if (!next) return null;
      const utterance = await this.#read(next.id); // Meanwhile others may have decided.
      this.#waiting.shift();
      this.#seen.add(next.id);
      if (utterance && WAITING.includes(utterance.status)) return utterance;
    }
  }

  /** Fetch what comes after the one that is shown. */
  async prefetch() {
    if (!this.#waiting.length) await this.#fetch();
    if (this.#waiting.length) await this.audio(this.#waiting[0].id);
  }

  /** The audio of an utterance {blob, peaks}. */
  audio(id) {
    if (!this.#audio.has(id)) {
      const path = `v1/feedback/${id}/audio`;
      const fetched = request(path, this.show, null, new AbortController().signal, true).then(decode);
      fetched.catch(() => this.#audio.delete(id));
      this.#audio.set(id, fetched);
    }
    return this.#audio.get(id);
  }

  /** An utterance has been decided; one that became a conflict by that comes again, with all texts. */
  finish(utterance, status) {
    this.#audio.delete(utterance.id);
    if (status === "conflict" && utterance.status !== "conflict") this.#seen.delete(utterance.id);
  }

  async #read(id) {
    try {
      return await request(`v1/feedback/${id}`, this.show);
    } catch (error) {
      if (GONE.includes(error.status)) return null;
      throw error;
    }
  }

  async #fetch() {
    for (let after = ""; after !== null && !this.#waiting.length; ) {
      const page = await request(`v1/feedback/queue?limit=${PAGE}&after=${encodeURIComponent(after)}`, this.show);
      this.#waiting = page.data.filter((each) => !this.#seen.has(each.id));
      after = page.after;
    }
  }
}

/** Whether an error says that an utterance is not there any more. */
export const isGone = (error) => GONE.includes(error.status);
