// Texts, times and files of a transcript.
// A segment is {start, end, heard, words}: words as they were heard, and as they were edited. A word is {word, start, end}.

// Han characters and kana: each is a word, and no spaces are between them. As in finetune/text/word_units.py.
const HAN = "\\u3005\\u3007\\u3041-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3134f}";
const WORDS = new RegExp(`[${HAN}]|[^\\s${HAN}]+`, "gu"), BETWEEN_HAN = new RegExp(`(?<=[${HAN}])\\s+(?=[${HAN}])`, "gu");
const CUE_CHARACTERS = 84, LINE_CHARACTERS = 42, CUE_SECONDS = 7;

export const splitWords = (text) => text.match(WORDS) ?? [];
export const joinWords = (words) => words.join(" ").replace(BETWEEN_HAN, "");
export const textOf = (segment) => joinWords(segment.words.map((each) => each.word));

/** The words of an edited text. Those before and after the changes keep their times, the others share the time between. */
export function retime({ start, end, heard }, text) {
  const words = splitWords(text), most = Math.min(words.length, heard.length);
  let head = 0, tail = 0;
  while (head < most && words[head] === heard[head].word) head++;
  while (tail < most - head && words.at(-1 - tail) === heard.at(-1 - tail).word) tail++;
  const before = heard.slice(0, head), replaced = heard.slice(head, heard.length - tail);
  const after = heard.slice(heard.length - tail), changed = words.slice(head, words.length - tail);
  const first = replaced[0]?.start ?? before.at(-1)?.end ?? start;
  const last = replaced.at(-1)?.end ?? after[0]?.start ?? end;
  return [...before, ...spread(changed, first, last), ...after];
}

/** Words with times by their numbers of characters. */
function spread(words, start, end) {
  const pace = (end - start) / words.join("").length;
  return words.map((word) => ({ word, start, end: (start += pace * word.length), estimated: true }));
}

/** A time as 1:02 or 1:00:02. */
export function formatTime(seconds) {
  const hours = Math.floor(seconds / 3600);
  const [minutes, rest] = new Date(1000 * Math.floor(seconds)).toISOString().slice(14, 19).split(":");
  return hours ? `${hours}:${minutes}:${rest}` : `${Number(minutes)}:${rest}`;
}

const milliseconds = (seconds) => Math.round(1000 * seconds) / 1000;

/** A time as 01:00:02.345; a Date begins again after 24 hours. */
function stamp(seconds) {
  const rounded = Math.round(1000 * seconds), hours = Math.floor(rounded / 3_600_000);
  return `${String(hours).padStart(2, "0")}:${new Date(rounded).toISOString().slice(14, 23)}`;
}

const spoken = (segments) => segments.filter((each) => each.words.length);

function makeCues(segments) {
  const cues = [];
  for (const { words } of segments) {
    let cue = null;
    for (const { word, start, end } of words) {
      const text = cue && joinWords([cue.text, word]);
      if (cue && text.length <= CUE_CHARACTERS && end - cue.start <= CUE_SECONDS) Object.assign(cue, { text, end });
      else cues.push((cue = { text: word, start, end }));
    }
  }
  // A blank line would end the cue.
  return cues.map((cue) => ({ ...cue, text: breakLine(joinWords(splitWords(cue.text))) }));
}

/** A long text as two lines, broken at the space that is nearest to its middle. */
function breakLine(text) {
  if (text.length <= LINE_CHARACTERS) return text;
  const middle = text.length / 2, before = text.lastIndexOf(" ", middle), behind = text.indexOf(" ", middle);
  const place = behind < 0 || (before > 0 && middle - before < behind - middle) ? before : behind;
  return place > 0 ? `${text.slice(0, place)}\n${text.slice(place + 1)}` : text;
}

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const FORMATS = {
  txt: (segments) => spoken(segments).map((each) => `${textOf(each)}\n`).join(""),
  srt: (segments) => makeCues(segments).map(({ start, end, text }, i) =>
    `${i + 1}\n${stamp(start)} --> ${stamp(end)}\n`.replaceAll(".", ",") + `${text.replaceAll("-->", "→")}\n\n`).join(""),
  vtt: (segments) => "WEBVTT\n\n" + makeCues(segments).map(({ start, end, text }) =>
    `${stamp(start)} --> ${stamp(end)}\n${escape(text)}\n\n`).join(""),
  json: (segments) => JSON.stringify({
    text: joinWords(spoken(segments).map(textOf)),
    segments: spoken(segments).map((each) =>
      ({ start: milliseconds(each.words[0].start), end: milliseconds(each.words.at(-1).end), text: textOf(each) })),
    words: segments.flatMap((each) => each.words).map((each) =>
      ({ ...each, start: milliseconds(each.start), end: milliseconds(each.end) })),
  }, null, 2) + "\n",
};
