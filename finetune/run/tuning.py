"""Tune the weights of a language model on a validation split, and save them with the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from finetune.audio.waveforms import Waveform
from finetune.data.corpus import SkippedUtterance, Split, Utterance, require_any
from finetune.data.sources import Source
from finetune.data.split_reader import compute_each, read_batches
from finetune.decoding.beam import BeamSearch, Weights
from finetune.decoding.decoder import build_search, load_language_model, restore_decoder, save_decoder
from finetune.errors import UserError
from finetune.evaluation.scores import Scores, count_errors, percent
from finetune.evaluation.scoring import BATCH_SECONDS, EvaluationOptions, build_hypothesis_normalizer, open_model
from finetune.inference.recogniser import Recogniser
from finetune.models.processors import require_one_language
from finetune.publishing.card import update_card
from finetune.resources.machine import choose_device
from finetune.text.transcripts import Transform

if TYPE_CHECKING:
    from finetune.decoding.hashed_ngram import HashedModel
    from finetune.decoding.ngram import NGramModel

# The grid that the search starts from: pairs of the language model's weight and the word bonus.
_ALPHAS, _BETAS = (0.25, 0.5, 1.0, 1.5, 2.0), (0.0, 1.5, 3.0)
# Then one of them changes by such a step at a time; the steps are halved so many times, when none is better.
_STEPS, _HALVINGS = {"alpha": 0.5, "beta": 1.0, "unk_score_offset": 5.0}, 2
# The beam widths that are tried: narrower ones, and multiples of the one that was asked for.
_NARROWER, _WIDER = (10, 30), (3,)


@dataclass(frozen=True)
class Tuning:
    """The chosen search, the errors without and with it, the number of trials, utterances left out, and a note."""

    search: BeamSearch
    greedy: Scores
    tuned: Scores
    trials: int
    rejected: tuple[SkippedUtterance, ...] = ()
    note: str | None = None

    def summary(self) -> list[str]:
        """Lines for the console."""
        weights = self.search.weights
        return [
            f"greedy: WER {percent(self.greedy.wer)}, CER {percent(self.greedy.cer)}",
            f"with the language model: WER {percent(self.tuned.wer)}, CER {percent(self.tuned.cer)}",
            f"alpha {weights.alpha:g}, beta {weights.beta:g}, unk_score_offset {weights.unk_score_offset:g}, beam "
            f"{self.search.beam_width}, chosen in {self.trials} trials on {self.tuned.utterances} utterances",
            *(f"left out: {each.name}: {each.reason}" for each in self.rejected),
            *([f"note: {self.note}"] if self.note else []),
        ]


@dataclass(frozen=True)
class _Utterances:
    """The logits of a split, each (frames, vocabulary), its normalised references, and the utterances left out."""

    logits: list[NDArray[np.float32]]
    references: list[str]
    seconds: float
    rejected: tuple[SkippedUtterance, ...]


def tune(
    model: str, language_model: str, source: Source, split: str | None, beam_width: int, hotwords: Mapping[str, float]
) -> Tuning:
    """Choose the weights with the fewest word errors on a split, and save them and the language model with the model.

    The split is `validation` unless named. The logits are computed once. The search starts from a grid of the language
    model's weight and the word bonus, and continues from the best point by smaller and smaller steps, which also change
    the offset of unknown words. Then the narrowest beam without more errors is chosen. Of equal ones the first wins.

    Raises UserError for a model that is not a local folder, and for files that cannot be read.
    """
    if not Path(model).is_dir():
        raise UserError(f"{model} is not a folder here: expected a run's model folder, to save the weights in.")
    require_one_language(
        Path(model),
        f"a language model is saved for one: decode with finetune transcribe --language CODE --language-model "
        f"{language_model}, or fine-tune the model for the language",
    )
    device = choose_device()
    restore_decoder(Path(model))
    loaded = load_language_model(Path(language_model))
    recogniser, splits, steps = open_model(Path(model), [source], device, EvaluationOptions(split or "validation"))
    return tune_on_split(
        Path(model), loaded, recogniser, next(iter(splits)), steps, beam_width=beam_width, hotwords=hotwords
    )


def tune_on_split(
    model: Path,
    language_model: "NGramModel | HashedModel",
    recogniser: Recogniser,
    split: Split,
    steps: Sequence[Transform],
    *,
    beam_width: int,
    hotwords: Mapping[str, float],
) -> Tuning:
    """Tune as `tune` does on a prepared split, and save into the folder `model`, which `recogniser` was loaded from.

    The recogniser decodes greedily afterwards. Raises UserError if no utterance of the split can be read.
    """
    search = build_search(
        recogniser.tokenizer, recogniser.num_symbols, language_model, beam_width=beam_width, hotwords=hotwords
    )
    recogniser.search = None
    utterances, greedy = _recognise(recogniser, split, steps)
    tuner = _Tuner(search, utterances, recogniser, steps)
    best = tuner.choose_width(tuner.choose_weights())
    tuning = Tuning(best, greedy, tuner.score(best), len(tuner.known), utterances.rejected)
    about = {"utterances": greedy.utterances, "wer": tuning.tuned.wer, "greedy_wer": greedy.wer}
    save_decoder(model, recogniser.tokenizer, best, {"tuned": about})
    return replace(tuning, note=update_card(model))


class _Tuner:
    """Scores searches on utterances, each setting once."""

    def __init__(
        self, search: BeamSearch, utterances: _Utterances, recogniser: Recogniser, steps: Sequence[Transform]
    ) -> None:
        self.search, self.utterances = search, utterances
        self.normalize = build_hypothesis_normalizer(steps, recogniser)
        self.known: dict[tuple[Weights, int], Scores] = {}
        self.progress = tqdm(desc="tuning", unit=" trials", leave=False, disable=None)

    def score(self, search: BeamSearch) -> Scores:
        """The scores of a search."""
        setting = (search.weights, search.beam_width)
        if setting not in self.known:
            logits = self.utterances.logits
            found = search.decode_batch(logits, [len(each) for each in logits])
            self.known[setting] = _score(self.utterances, [self.normalize(one[0].text) for one in found])
            self.progress.update()
        return self.known[setting]

    def choose_weights(self) -> BeamSearch:
        """The best point of the grid, improved by smaller and smaller steps."""
        first = self.search.weights
        best = self._best(replace(first, alpha=alpha, beta=beta) for alpha in _ALPHAS for beta in _BETAS)
        for halving in range(_HALVINGS + 1):
            while True:
                near = [best.weights]
                for name, step in _STEPS.items():
                    for move in (step, -step):
                        value = getattr(best.weights, name) + move / 2**halving
                        if (name != "alpha" or value >= 0) and (name != "unk_score_offset" or value <= 0):
                            near.append(replace(best.weights, **{name: value}))
                better = self._best(near)
                if better.weights == best.weights:
                    break
                best = better
        return best

    def choose_width(self, search: BeamSearch) -> BeamSearch:
        """The narrowest beam that has the fewest errors."""
        width = search.beam_width
        widths = [*(narrow for narrow in _NARROWER if narrow < width), width, *(width * times for times in _WIDER)]
        return min((search.adjust(beam_width=each) for each in widths), key=self._errors)

    def _best(self, weights: Iterable[Weights]) -> BeamSearch:
        return min((self.search.adjust(weights=each) for each in weights), key=self._errors)

    def _errors(self, search: BeamSearch) -> tuple[int, int]:
        scores = self.score(search)
        return scores.words.errors, scores.characters.errors


def _recognise(recogniser: Recogniser, split: Split, steps: Sequence[Transform]) -> tuple[_Utterances, Scores]:
    """The logits of the utterances of a split, and the scores of greedy decoding."""
    logits, references, greedy = [], [], []
    rejected = list(split.rejected)
    seconds = 0.0
    normalize = build_hypothesis_normalizer(steps, recogniser)

    def recognise(read: Sequence[tuple[Utterance, Waveform]]) -> list[tuple[str, Any]]:
        padded, num_frames = recogniser.logits([waveform for _, waveform in read])
        texts = recogniser.decode(padded, num_frames)
        rows = (each[:frames].numpy() for each, frames in zip(padded, num_frames, strict=True))
        return [(normalize(text), row) for text, row in zip(texts, rows, strict=True)]

    for read, unreadable in read_batches(split, BATCH_SECONDS, recogniser.sampling_rate):
        computed, failed = compute_each(split, read, recognise) if read else ([], [])
        rejected += [*unreadable, *failed]
        for utterance, _, (text, row) in computed:
            greedy.append(text)
            references.append(utterance.transcript)
            logits.append(row)
            seconds += utterance.seconds
    require_any(replace(split, utterances=split.utterances if logits else (), rejected=tuple(rejected)))
    utterances = _Utterances(logits, references, seconds, tuple(rejected))
    return utterances, _score(utterances, greedy)


def _score(utterances: _Utterances, hypotheses: Sequence[str]) -> Scores:
    return Scores.from_counts(count_errors(utterances.references, hypotheses), utterances.seconds)
