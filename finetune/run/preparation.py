"""A recipe to everything that is known before training: splits, vocabulary, limits, and what was left out."""

import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune.audio.augmentation import Augmentation, list_recordings
from finetune.data.batching import GPU_PADDING_SAMPLES, Key, SpeechBatches, stream
from finetune.data.corpus import Limits, Rejection, Split, hold_out, prepare_split
from finetune.data.sources import JoinedTables, Source, Table, load_splits, select_table
from finetune.data.streaming import SAMPLE, Stream, keep_in_memory
from finetune.data.validation_report import Examination, examine
from finetune.errors import UserError
from finetune.models.adapters import find_language_adapter, require_peft
from finetune.models.configuration import build_config, encoder_convolutions, load_config, load_feature_extractor
from finetune.models.vocabulary import load_base_vocabulary
from finetune.recipe.load import Recipe
from finetune.recipe.schema import AugmentationSection, TrainingSection
from finetune.resources.limits import MAX_IMPULSE_SECONDS
from finetune.resources.machine import choose_device
from finetune.resources.repositories import find_commit, is_hub_name
from finetune.resources.storage import is_url
from finetune.text.vocabulary import WORD_DELIMITER, build_vocabulary, count_characters

_SPLIT_KEYS = {"train_split", "validation_split", "test_split"}
RARE = 2  # So few examples of a character are noise or a slip of the keyboard more often than a letter.

# Of so many padded lengths the mean batch loses a twentieth of its longest utterance.
_COMPILED_LENGTHS = 10


@dataclass(frozen=True)
class Preparation:
    """What a run trains on; `test` is None where the data have no such split.

    `head_rows` says for each token of the vocabulary which row of the base's head it goes on with, if any. With a
    `stream` training reads that, and `train` is its beginning. `continues_language` says whether the base has adapters
    for the recipe's language to go on from.
    """

    config: Any
    feature_extractor: Any
    limits: Limits
    augmentation: Augmentation
    vocabulary: dict[str, int]
    head_rows: tuple[int | None, ...] | None
    train: Split
    validation: Split
    test: Split | None
    stream: Stream | None = None
    continues_language: bool = False

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by their role."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: split for role, split in named.items() if split is not None}

    @property
    def characters(self) -> list[str]:
        """What the model can write, the space left out."""
        return [token for token in self.vocabulary if len(token) == 1 and token != WORD_DELIMITER]

    def batches(self, training: TrainingSection) -> SpeechBatches:
        """The training utterances as batches, with masks, padding and seed as the recipe says."""
        return SpeechBatches(
            self.train,
            self.vocabulary,
            self.feature_extractor,
            self.limits,
            self.augmentation,
            (training.mask_time_probability, training.mask_time_length),
            training.seed,
            (training.mask_feature_probability, training.mask_feature_length, self.config.hidden_size),
            self._padding_samples(training.compile),
        )

    def order(self, batch_seconds: float, seed: int) -> Iterator[list[Key]]:
        """The training utterances in batches, epoch after epoch without end; of a stream those of its beginning."""
        seconds = [utterance.seconds for utterance in self.train.utterances]
        weights = [utterance.weight for utterance in self.train.utterances]
        return stream(seconds, batch_seconds, seed, weights if set(weights) != {1.0} else None)

    def list_epoch(self, batch_seconds: float, seed: int) -> list[list[Key]]:
        """The batches of the first epoch."""
        return list(itertools.takewhile(lambda batch: batch[0][0] == 0, self.order(batch_seconds, seed)))

    def _padding_samples(self, compiled: bool) -> int | None:
        """What padded lengths are multiples of; compiled code is made anew for each length, so those are few."""
        if not compiled:
            return GPU_PADDING_SAMPLES if choose_device().type == "cuda" else None
        longest = max((utterance.seconds for utterance in self.train.utterances), default=0.0)
        return max(1, math.ceil(longest * self.limits.sampling_rate / _COMPILED_LENGTHS))

    def examine(self, listen: bool = False) -> Examination:
        """What is in the splits and what is wrong with them; `listen` decodes all audio, too."""
        return examine(self.splits, self.characters, self.limits.sampling_rate if listen else None)

    @property
    def rejected(self) -> list[Rejection]:
        """Every utterance left out; of a stream, training finds them."""
        splits = [split for role, split in self.splits.items() if not (role == "train" and self.stream)]
        return [rejection for split in splits for rejection in split.rejected]


def prepare(recipe: Recipe) -> Preparation:
    """Read the data and the base's configuration; no weights are loaded and no audio is decoded.

    Raises UserError for whatever would stop the run later.
    """
    model, data, batch_seconds = recipe.model, recipe.data, recipe.training.batch_seconds
    config = build_config(model.architecture or {}) if model.base is None else load_config(model.base, model.revision)
    feature_extractor = load_feature_extractor(model.base, config, model.revision)
    if model.lora:
        require_peft()
    continues_language = _continues_language(recipe, config)
    augmentation = build_augmentation(recipe.augmentation, feature_extractor.sampling_rate)
    limits = Limits(
        sampling_rate=feature_extractor.sampling_rate,
        encoder=encoder_convolutions(config),
        min_seconds=data.min_seconds,
        max_seconds=data.max_seconds if batch_seconds == "auto" else min(data.max_seconds, batch_seconds),
        fastest=augmentation.fastest,
    )
    tables = _Tables(recipe, limits)
    train, validation, test = tables.split("train", training=True), tables.split("validation"), tables.split("test")
    assert train is not None
    if validation is None:
        if tables.streamed:
            raise UserError(
                "There is no validation split, and none can be held out of a stream: name one with "
                "data.validation_split, or add a source that has one to data.sources."
            )
        train, validation = hold_out(train, data.validation_fraction, recipe.training.seed)
    elif not any(utterance.transcript for utterance in validation.utterances):
        raise UserError(f"No transcript of the split '{validation.name}' has a word: expected speech to validate on.")
    vocabulary, head_rows = choose_vocabulary(recipe, [utterance.transcript for utterance in train.utterances])
    return Preparation(
        config,
        feature_extractor,
        limits,
        augmentation,
        vocabulary,
        head_rows,
        train,
        validation,
        test,
        build_stream(tables.trained, train.name, recipe, limits) if tables.streamed else None,
        continues_language,
    )


def find_commits(recipe: Recipe) -> dict[str, str]:
    """The commit that each repository of a recipe on a hub is now, by its key: see `pin`.

    Raises UserError for one that can't be read.
    """
    model, sources = recipe.model, recipe.data.all_sources
    commits = {}
    if model.base and _is_on_hub(model.base):
        commits[_key(model.base, model.revision)] = find_commit(model.base, model.revision)
    for source in sources:
        if _is_on_hub(source.root):
            key = _key(f"datasets/{source.root}", source.revision)
            commits[key] = find_commit(source.root, source.revision, "dataset")
    return commits


def pin(recipe: Recipe, commits: Mapping[str, str]) -> Recipe:
    """The recipe with the commits in place of its revisions: what it trains on, however its branches move.

    The keys of `commits` are USER/NAME for a model, datasets/USER/NAME for data, and @REVISION where there is one.
    """

    def choose(name: str, revision: str | None) -> dict[str, Any]:
        return {"revision": commits.get(_key(name, revision), revision)}

    model, data = recipe.model, recipe.data
    sources = [s.model_copy(update=choose(f"datasets/{s.root}", s.revision)) for s in data.sources]
    pinned = data.model_copy(update={"sources": tuple(sources), **choose(f"datasets/{data.root}", data.revision)})
    return recipe.model_copy(
        update={"model": model.model_copy(update=choose(str(model.base), model.revision)), "data": pinned}
    )


def _is_on_hub(place: str) -> bool:
    return not is_url(place) and not Path(place).exists() and is_hub_name(place)


def _key(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


def _continues_language(recipe: Recipe, config: Any) -> bool:
    """Whether the base has adapters for the recipe's language."""
    base, language, vocabulary = recipe.model.base, recipe.model.language_adapter, recipe.text.vocabulary
    if not base or not language:
        return False
    continues = find_language_adapter(base, config, language, recipe.model.revision)
    if not continues and vocabulary != "training":
        raise UserError(
            f"text.vocabulary={vocabulary}: {base} has no head for {language} to go on from; set "
            "text.vocabulary=training."
        )
    return continues


class _Tables:
    """The splits of all sources of a recipe.

    `trained` are the tables that the training split was made of, of those that are streamed all rows.
    """

    def __init__(self, recipe: Recipe, limits: Limits) -> None:
        self.recipe, self.limits = recipe, limits
        self.sources = [Source(**each.model_dump(exclude=_SPLIT_KEYS)) for each in recipe.data.all_sources]
        self.splits = [load_splits(source) for source in self.sources]
        self.streamed = any(source.streaming for source in self.sources)
        self.trained: list[Table] = []

    def split(self, role: str, training: bool = False) -> Split | None:
        """The split with this role of every source that has one."""
        data = self.recipe.data
        chosen = [getattr(each, f"{role}_split") for each in data.all_sources]
        names = [name or (role if role in splits else None) for name, splits in zip(chosen, self.splits, strict=True)]
        if training and not any(names):
            names[0] = role  # Refused with what there is instead.
        joined = []
        for source, splits, name in zip(self.sources, self.splits, names, strict=True):
            if name is None:
                continue
            streamed = splits.get(name) if source.streaming else None
            beginning = {} if streamed is None else {name: keep_in_memory(streamed, SAMPLE if training else None)}
            joined.append(select_table({**splits, **beginning}, name, source))
            if training:
                self.trained.append(joined[-1] if streamed is None else replace(joined[-1], rows=streamed))
        if not joined:
            return None
        name = names[0] if len(joined) == 1 and names[0] else role
        steps = self.recipe.text.normalization
        return prepare_split(name, JoinedTables(joined), steps, self.limits, training, data.preprocessing)


def build_stream(tables: Sequence[Table], name: str, recipe: Recipe, limits: Limits) -> Stream:
    """Tables whose rows come one by one or lie here as a stream of training windows."""
    prepare_window = partial(
        prepare_split,
        name,
        steps=recipe.text.normalization,
        limits=limits,
        training=True,
        preprocessing=recipe.data.preprocessing,
        require=False,
    )
    return Stream(tuple(tables), prepare_window)


def build_augmentation(section: AugmentationSection, sampling_rate: int) -> Augmentation:
    """The recipe's augmentation with its folders listed; raises UserError for a folder that holds no audio."""
    values = section.model_dump(exclude={"noise_folder", "impulse_response_folder"})

    def files(key: str) -> tuple[str, ...]:
        folder = getattr(section, key)
        # Noise is read in pieces, an impulse response as a whole.
        most = MAX_IMPULSE_SECONDS if key == "impulse_response_folder" else math.inf
        return list_recordings(folder, f"augmentation.{key}", most) if folder else ()

    return Augmentation(
        sampling_rate=sampling_rate,
        noise_files=files("noise_folder"),
        impulse_responses=files("impulse_response_folder"),
        **values,
    )


def choose_vocabulary(
    recipe: Recipe, transcripts: Sequence[str]
) -> tuple[dict[str, int], tuple[int | None, ...] | None]:
    """The vocabulary as the recipe's text section says, and each token's row of the base's head where it is kept.

    Raises UserError where most of what the transcripts hold is not in it.
    """
    text, model = recipe.text, recipe.model
    counts = count_characters(transcripts)
    frequent = sorted(character for character, count in counts.items() if count >= text.min_character_count)
    head_rows = None
    if text.vocabulary == "training":
        vocabulary = build_vocabulary(frequent if text.characters is None else text.characters)
    elif model.base is None:
        raise UserError(f"text.vocabulary={text.vocabulary} needs a model.base that was fine-tuned.")
    else:
        rows = load_base_vocabulary(model.base, model.revision, model.language_adapter)
        own = [token for token in rows if len(token) == 1]
        vocabulary = build_vocabulary([*own, *frequent] if text.vocabulary == "extended" else own)
        head_rows = None if model.random_weights else tuple(rows.get(token) for token in vocabulary)
    known = sum(count for character, count in counts.items() if character in vocabulary)
    if 2 * known < counts.total():
        raise UserError(
            f"Only {known} of the {counts.total()} characters of the training transcripts are in the vocabulary "
            f"({''.join(token for token in vocabulary if len(token) == 1 and token != '|')}): expected text like it; "
            "look at text.normalization, for example at its case."
        )
    return vocabulary, head_rows


def describe(preparation: Preparation, recipe: Recipe, examination: Examination | None = None) -> list[str]:
    """What there is, and what to look at before training, as lines for people."""
    lines = []
    for role, split in preparation.splits.items():
        speakers = {utterance.speaker for utterance in split.utterances} - {None}
        voices = f", {len(speakers)} speakers" if speakers else ""
        streamed = "streamed, of the first rows " if role == "train" and preparation.stream else ""
        lines.append(f"{role}: {streamed}{len(split.utterances)} utterances, {split.seconds / 60:.1f} minutes{voices}")
        wordless = sum(not utterance.transcript for utterance in split.utterances)
        if wordless:
            lines.append(f"{role}: {wordless} utterances without words, in which what is recognised counts as added")
    reasons = Counter((rejection.split, rejection.reason) for rejection in preparation.rejected)
    lines += [f"left out of {split}: {count} × {reason}" for (split, reason), count in sorted(reasons.items())]
    lines.append(f"vocabulary: {len(preparation.characters)} characters: {' '.join(preparation.characters)}")
    lines += _describe_characters(preparation)
    lines += _describe_adapter(preparation, recipe)
    lines += [f"note: {finding.sentence}" for finding in (examination or preparation.examine()).findings]
    return lines


def _describe_adapter(preparation: Preparation, recipe: Recipe) -> list[str]:
    """Which weights are trained, where it is not all of the transformer."""
    lora, language = recipe.model.lora, recipe.model.language_adapter
    if lora:
        return [f"trained: LoRA of rank {lora.rank} beside {', '.join(lora.target_modules)}, and the head"]
    if language:
        origin = "on from the base's" if preparation.continues_language else "new, for the base has none"
        return [f"trained: adapters for {language} ({origin}), and the head"]
    return []


def _describe_characters(preparation: Preparation) -> list[str]:
    """What of the training transcripts the model can't write, and what it will hardly learn to."""
    counts = count_characters(utterance.transcript for utterance in preparation.train.utterances)
    rare = Counter({character: count for character, count in counts.items() if count <= RARE})
    missing = Counter(
        {character: count for character, count in counts.items() if character not in preparation.vocabulary}
    )
    lines = []
    if missing:
        lines.append(f"not in the vocabulary, learned as [UNK]: {_list_characters(missing)}")
    if rare := rare - missing:
        lines.append(
            f"note: rare in training: {_list_characters(rare)}; text.min_character_count or a step of "
            "text.normalization would leave them out"
        )
    delimiters = sum("|" in utterance.raw_transcript for utterance in preparation.train.utterances)
    if delimiters:
        lines.append(f"note: {delimiters} transcripts hold |, which parts words in a vocabulary: read as a space")
    return lines


def _list_characters(counts: Counter[str], most: int = 20) -> str:
    """Each with its count; what stands on another character (a combining mark) is named, for it can't be seen alone."""
    listed = [
        f"{unicodedata.name(character, repr(character)) if unicodedata.combining(character) else character} × {count}"
        for character, count in counts.most_common(most)
    ]
    return ", ".join(listed) + (f" and {len(counts) - most} more" if len(counts) > most else "")
