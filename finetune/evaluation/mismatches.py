"""Utterances whose transcript does not match their audio, found by forced alignment with a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from finetune.audio.waveforms import Waveform
from finetune.data.corpus import Split, Utterance
from finetune.data.split_reader import compute_each, read_batches
from finetune.data.validation_report import Finding
from finetune.inference.aligner import measure_mismatches
from finetune.inference.recogniser import Recogniser

# An utterance's transcript is a mismatch if it is so much less likely than the recognised text (difference of natural
# logarithms per character). Measured on 300 sentences of the quickstart recipe by voices that the model never heard,
# and 130 of AN4: with correct transcripts none is above 1.6, with another utterance's 99 of 100 are above 2.1. In noise
# in which two of five words are wrong 1 of 100 is above 1.9, and with another utterance's transcript 99 are above 2.8.
# Of AN4's 104 held-out utterances none is above 1.6, with another's transcript all are, and with half of it 81 of 82.
_MISMATCH = 2.0
_BATCH_SECONDS = 40.0


def find_mismatches(recogniser: Recogniser, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """The utterances of splits, by role, whose transcript does not match the audio, the worst first.

    The model's own normalisation and preprocessing are used. Utterances that cannot be read or aligned are a separate
    finding.
    """

    def measure(read: Sequence[tuple[Utterance, Waveform]]) -> list[float | None]:
        texts = [utterance.raw_transcript for utterance, _ in read]
        return measure_mismatches(recogniser, [waveform for _, waveform in read], texts)

    for role, split in splits.items():
        aligned: list[tuple[float | None, Utterance]] = []
        reasons: list[str] = []
        heard = replace(split, preprocessing=recogniser.preprocessing)
        for read, unreadable in read_batches(heard, _BATCH_SECONDS, recogniser.sampling_rate):
            measured, failed = compute_each(heard, read, measure) if read else ([], [])
            aligned += [(value, utterance) for utterance, _, value in measured]
            reasons += [rejection.reason for rejection in (*unreadable, *failed)]
        if reasons:
            rows = {utterance.row for _, utterance in aligned}
            sentence = f"{len(reasons)} utterances of {role} cannot be aligned: {', '.join(dict.fromkeys(reasons))}"
            lost = tuple((u.row, u.name) for u in split.utterances if u.row not in rows)
            yield Finding("not aligned", role, sentence, lost)
        mismatches = [(value, utterance) for value, utterance in aligned if value is not None]
        found = sorted((each for each in mismatches if each[0] > _MISMATCH), key=lambda each: -each[0])
        if not found:
            continue
        sentence = f"{len(found)} utterances of {role} have a transcript that does not match their audio"
        if len(found) > len(mismatches) / 2:
            sentence += (
                ": most of them, so transcripts may belong to other audio, or the model does not fit this speech"
            )
        yield Finding("text mismatch", role, sentence, tuple((u.row, u.name) for _, u in found))
