// Texts, times and files of a transcript.
// A segment is {start, end, heard, words}: words as they were heard, and as they were edited. A word is {word, start, end}.

// Han characters and kana: each is a word, and no spaces are between them. As in finetune/text/word_units.py.
const HAN = "\\u3005\\u3007\\u3041-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3134f}";
// Punctuation as wide as Han characters, and signs that it shares with other scripts.
const MARKS = "\\u3001-\\u3003\\u3008-\\u3011\\u3014-\\u301f\\uff01-\\uff0f\\uff1a-\\uff20\\uff3b-\\uff40\\uff5b-\\uff65";
const SHARED = "\\u2018\\u2019\\u201c\\u201d\\u2026";
const WORDS = new RegExp(`[${HAN}]|[^\\s${HAN}]+`, "gu");
const NEEDLESS_SPACE = new RegExp(
  `(?<=[${HAN}])\\s+(?=[${HAN}${SHARED}])|(?<=[${SHARED}])\\s+(?=[${HAN}])|(?<=[${MARKS}])\\s+|\\s+(?=[${MARKS}])`, "gu");

// As in finetune/inference/subtitles.py: 42 characters fill a line, or 16 wide ones, and some never begin or end one.
const LINE_COLUMNS = 42, WIDE_COLUMNS = LINE_COLUMNS / 16, CUE_SECONDS = 7;
const WIDE = new RegExp(`[${HAN}${MARKS}\\u1100-\\u115f\\u2e80-\\u303e\\u3100-\\u33ff\\uac00-\\ud7a3\\uffe0-\\uffe6]`, "u");
const WITHOUT_WIDTH = /[\p{Mn}\p{Me}\p{Cf}]/gu, NEVER_LAST = /[\p{Ps}\p{Pi}]$/u;
const NEVER_FIRST = /^[々ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ\p{M}\p{Pe}\p{Pf}\p{Po}\p{Pd}\p{Pc}]/u;

export const splitWords = (text) => text.match(WORDS) ?? [];
export const joinWords = (words) => words.join(" ").replace(NEEDLESS_SPACE, "");
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

/** Cues of at most two lines; a single word can be longer than a line. */
function makeCues(segments) {
  const cues = [];
  for (const { words } of segments) {
    let pieces = [];
    for (const piece of makePieces(words)) {
      const more = [...pieces, piece];
      const fits = breakLines(more).every((line) => measure(line) <= LINE_COLUMNS);
      if (pieces.length && fits && piece.end - pieces[0].start <= CUE_SECONDS) pieces.push(piece);
      else cues.push((pieces = [piece]));
    }
  }
  return cues.map((pieces) => ({
    start: pieces[0].start,
    end: pieces.at(-1).end,
    text: breakLines(pieces).map((line) => joinWords(line.map((each) => each.text))).join("\n"),
  }));
}

/** Words with their widths; a sign that belongs to a word without a space before it is a part of it. */
function makePieces(words) {
  const pieces = [];
  for (const { word, start, end } of words) {
    const text = joinWords(splitWords(word)), before = pieces.at(-1); // A blank line would end the cue.
    const spaced = !before || joinWords([before.text, text]).includes(" ", before.text.length);
    if (!spaced && (NEVER_FIRST.test(text) || NEVER_LAST.test(before.text))) Object.assign(before, { text: before.text + text, end });
    else if (text) pieces.push({ text, start, end, spaced });
  }
  for (const piece of pieces)
    piece.columns = [...piece.text.replace(WITHOUT_WIDTH, "")].reduce((sum, each) => sum + (WIDE.test(each) ? WIDE_COLUMNS : 1), 0);
  return pieces;
}

const measure = (pieces) => pieces.reduce((sum, { columns, spaced }, i) => sum + columns + (i && spaced ? 1 : 0), 0);

/** The pieces of a line, or of two lines that are as short as can be. */
function breakLines(pieces) {
  const whole = measure(pieces);
  let upper = 0, place = 0, least = Infinity;
  for (let i = 1; i < pieces.length && whole > LINE_COLUMNS; i++) {
    upper = upper + pieces[i - 1].columns + (i > 1 && pieces[i - 1].spaced ? 1 : 0);
    const longest = Math.max(upper, whole - upper - (pieces[i].spaced ? 1 : 0));
    if (longest < least) [least, place] = [longest, i];
  }
  return place ? [pieces.slice(0, place), pieces.slice(place)] : [pieces];
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
