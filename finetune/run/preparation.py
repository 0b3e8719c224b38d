"""The data builder: a recipe to splits, vocabulary, limits and augmentation, before any weights are loaded."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune.audio.augmentation import Augmentation, list_recordings
from finetune.data.batching import (
    GPU_PADDING_SAMPLES,
    BatchOptions,
    Key,
    Masking,
    Shard,
    SpeechBatches,
    batch_order,
    shard_batches,
)
from finetune.data.corpus import AudioSpec, SkippedUtterance, Split, hold_out, prepare_split
from finetune.data.masked_batches import MaskedBatches
from finetune.data.sources import JoinedTables, Source, Table, load_splits, prefix_speakers, select_table
from finetune.data.streaming import SAMPLE, Stream, StreamedBatches, keep_in_memory
from finetune.data.validation_report import Listen, ValidationReport, validate_splits
from finetune.errors import UserError
from finetune.models.adapters import find_language_adapter, require_peft
from finetune.models.configuration import (
    build_config,
    count_features,
    encoder_convolutions,
    load_config,
    load_feature_extractor,
    shortest_seconds,
)
from finetune.models.vocabulary import load_base_vocabulary
from finetune.recipe.load import Recipe
from finetune.recipe.pretraining_section import PretrainingSection
from finetune.recipe.schema import AugmentationSection
from finetune.recipe.training_section import TrainingSection
from finetune.resources.limits import MAX_IMPULSE_SECONDS, MAX_UTTERANCE_SECONDS
from finetune.resources.machine import choose_device, count_workers
from finetune.text.vocabulary import WORD_DELIMITER, build_vocabulary, count_characters

if TYPE_CHECKING:
    from accelerate import Accelerator

_SPLIT_KEYS = {"train_split", "validation_split", "test_split"}

# Utterances of an epoch, whose order is in memory: some GB.
_MAX_EPOCH = 10**8

# With this many padded lengths a mean batch is padded by a twentieth of the longest utterance.
_COMPILED_LENGTHS = 10


@dataclass(frozen=True)
class Preparation:
    """What a run trains on; `test` is None where the data have no test split.

    `audio_spec` is that of training, for whose longest utterance memory is planned.
    `head_rows` has, for each token of the vocabulary, the row of the pretrained head that it starts from, or None. With
    a `stream`, training reads the stream, and `train` holds its first rows. `continues_language` says whether the
    pretrained checkpoint has adapters for the recipe's language. With `pretraining` utterances have no transcripts, and
    the vocabulary is empty.
    """

    config: Any
    feature_extractor: Any
    audio_spec: AudioSpec
    augmentation: Augmentation
    vocabulary: dict[str, int]
    head_rows: tuple[int | None, ...] | None
    train: Split
    validation: Split
    test: Split | None
    stream: Stream | None = None
    continues_language: bool = False
    pretraining: PretrainingSection | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by their role."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: split for role, split in named.items() if split is not None}

    @property
    def characters(self) -> list[str]:
        """The characters that the model can write, without the space."""
        return [token for token in self.vocabulary if len(token) == 1 and token != WORD_DELIMITER]

    @property
    def training_transcripts(self) -> list[str] | None:
        """The transcripts of the training split; None of a stream, whose beginning alone is known, and without any."""
        if self.stream or self.pretraining:
            return None
        return [utterance.transcript for utterance in self.train.utterances]

    def batches(self, training: TrainingSection) -> SpeechBatches:
        """The training utterances as a data set of batches, with the recipe's masks, padding and seed."""
        masking = Masking(
            time_probability=training.mask_time_probability,
            time_length=training.mask_time_length,
            feature_probability=training.mask_feature_probability,
            feature_length=training.mask_feature_length,
            num_features=count_features(self.config),
        )
        if self.pretraining:
            masking = Masking(self.pretraining.mask_probability, self.pretraining.mask_length)
        options = BatchOptions(
            vocabulary=self.vocabulary,
            feature_extractor=self.feature_extractor,
            audio_spec=self.audio_spec,
            augmentation=self.augmentation,
            masking=masking,
            seed=training.seed,
            padding_samples=self._padding_samples(training.compile),
            num_negatives=self.pretraining.num_negatives if self.pretraining else 0,
        )
        return self.batch_kind(self.train, options)

    @property
    def batch_kind(self) -> type[SpeechBatches]:
        """What makes batches of utterances."""
        return MaskedBatches if self.pretraining else SpeechBatches

    def order(self, batch_seconds: float, seed: int) -> Iterator[list[Key]]:
        """The training utterances in batches, epoch after epoch without end; of a stream its first rows, once each."""
        seconds = [utterance.seconds for utterance in self.train.utterances]
        weights = [1.0 if self.stream else utterance.weight for utterance in self.train.utterances]
        return batch_order(seconds, batch_seconds, seed, weights if set(weights) != {1.0} else None)

    def list_epoch(self, batch_seconds: float, seed: int) -> list[list[Key]]:
        """The batches of the first epoch that has any: with small weights one may be empty by chance."""
        _, batches = next(itertools.groupby(self.order(batch_seconds, seed), key=lambda batch: batch[0][0]))
        return list(batches)

    def loader(
        self, training: TrainingSection, batch_seconds: float, accelerator: "Accelerator", first_step: int
    ) -> Any:
        """Load the batches of this process, from those of a step on."""
        data = self.batches(training)
        processes = accelerator.num_processes
        shard = Shard(first_step, training.accumulation * processes, accelerator.process_index, processes)
        if self.stream:
            return StreamedBatches(self.stream, data.options, batch_seconds, shard, self.batch_kind).loader()
        workers = count_workers(accelerator.device) if training.num_workers == "auto" else training.num_workers
        return data.loader(shard_batches(self.order(batch_seconds, training.seed), shard), workers)

    def _padding_samples(self, compiled: bool) -> int | None:
        """Padded lengths are multiples of this: few lengths where the model is compiled for each of them."""
        if not compiled:
            return GPU_PADDING_SAMPLES if choose_device().type == "cuda" else None
        longest = max((utterance.seconds for utterance in self.train.utterances), default=0.0)
        return max(1, math.ceil(longest * self.audio_spec.sampling_rate / _COMPILED_LENGTHS))

    def validate(self, listen: bool = False, listener: Listen | None = None) -> ValidationReport:
        """Validate the splits; `listen` also decodes all audio, in this process or with a `listener`."""
        rate = self.audio_spec.sampling_rate if listen else None
        return validate_splits(self.splits, self.characters, rate, listener)

    @property
    def rejected(self) -> list[SkippedUtterance]:
        """All utterances left out, except those of a stream, which are found in training."""
        splits = [split for role, split in self.splits.items() if not (role == "train" and self.stream)]
        return [rejection for split in splits for rejection in split.rejected]


def prepare(recipe: Recipe) -> Preparation:
    """Read the data and the configuration of the pretrained checkpoint, but no weights and no audio.

    Raises UserError for any problem that would stop the run later.
    """
    model, data = recipe.model, recipe.data
    config = build_config(model.architecture or {}) if model.base is None else load_config(model.base, model.revision)
    feature_extractor = load_feature_extractor(model.base, config, model.revision)
    if model.lora:
        require_peft()
    continues_language = _continues_language(recipe, config)
    augmentation = build_augmentation(recipe.augmentation, feature_extractor.sampling_rate)
    audio_spec = _build_spec(recipe, feature_extractor.sampling_rate, encoder_convolutions(config), augmentation)
    tables = _Tables(recipe, audio_spec)
    pretraining = recipe.pretraining
    train, validation = tables.split("train", training=True), tables.split("validation")
    test = None if pretraining else tables.split("test")
    assert train is not None
    if validation is None:
        if tables.streamed:
            raise UserError(
                "There is no validation split, and none can be held out of a stream: name one with "
                "data.validation_split, or add a source that has one to data.sources."
            )
        train, validation = hold_out(train, data.validation_fraction, recipe.training.seed)
    elif not pretraining and not any(utterance.transcript for utterance in validation.utterances):
        raise UserError(f"No transcript of the split '{validation.name}' has a word: expected speech to validate on.")
    if not tables.streamed:
        _require_epoch(train)
    transcripts = [utterance.transcript for utterance in train.utterances]
    vocabulary, head_rows = ({}, None) if pretraining else choose_vocabulary(recipe, transcripts)
    return Preparation(
        config,
        feature_extractor,
        audio_spec,
        augmentation,
        vocabulary,
        head_rows,
        train,
        validation,
        test,
        build_stream(tables.trained, train.name, recipe, audio_spec) if tables.streamed else None,
        continues_language,
        pretraining,
    )


def _build_spec(
    recipe: Recipe, sampling_rate: int, encoder: tuple[tuple[int, int], ...], augmentation: Augmentation
) -> AudioSpec:
    """The audio that training takes: an utterance must fit into a batch."""
    limits = {"data.max_seconds": recipe.data.max_seconds}
    if recipe.training.batch_seconds != "auto":
        limits["training.batch_seconds"] = recipe.training.batch_seconds
    max_seconds = min(limits.values())
    return AudioSpec(
        sampling_rate=sampling_rate,
        encoder=encoder,
        min_seconds=recipe.data.min_seconds,
        max_seconds=max_seconds,
        fastest=augmentation.fastest,
        longer_by="raise " + " and ".join(key for key, limit in limits.items() if limit == max_seconds),
    )


def _limit_scoring(audio_spec: AudioSpec) -> AudioSpec:
    """The audio that is scored, with the limits of `finetune evaluate`."""
    return replace(
        audio_spec,
        min_seconds=shortest_seconds(audio_spec.encoder, audio_spec.sampling_rate),
        max_seconds=MAX_UTTERANCE_SECONDS,
        longer_by="cut them with `finetune segment --corpus`",
    )


def _require_epoch(train: Split) -> None:
    """Raise UserError where the weights of sources make an epoch of less than one utterance, or of far too many."""
    expected = sum(utterance.weight for utterance in train.utterances)
    if not 1 <= expected <= _MAX_EPOCH:
        raise UserError(
            f"By data.weight an epoch has {expected:g} of the {len(train.utterances)} training utterances on average; "
            f"expected 1 to {_MAX_EPOCH:,}: set another weight."
        )


def _continues_language(recipe: Recipe, config: Any) -> bool:
    """Whether the pretrained checkpoint has adapters for the recipe's language."""
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

    `trained` are the tables of the training split, with all rows of those that are streamed.
    """

    def __init__(self, recipe: Recipe, audio_spec: AudioSpec) -> None:
        self.recipe, self.audio_spec = recipe, audio_spec
        transcribed = recipe.pretraining is None
        sections = recipe.data.all_sources
        prefixes = prefix_speakers([each.root for each in sections])
        self.sources = [
            Source(
                **each.model_dump(exclude=_SPLIT_KEYS), transcribed=transcribed, number=number, speaker_prefix=prefix
            )
            for number, (each, prefix) in enumerate(zip(sections, prefixes, strict=True))
        ]
        self.splits = [load_splits(source) for source in self.sources]
        self.streamed = any(source.streaming for source in self.sources)
        self.trained: list[Table] = []

    def split(self, role: str, training: bool = False) -> Split | None:
        """The split of this role, joined from all sources that have one."""
        data = self.recipe.data
        chosen = [getattr(each, f"{role}_split") for each in data.all_sources]
        names = [name or (role if role in splits else None) for name, splits in zip(chosen, self.splits, strict=True)]
        if training and not any(names):
            names[0] = role  # `select_table` refuses it, and lists the splits that there are.
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
        steps, pretraining = self.recipe.text.normalization, self.recipe.pretraining is not None
        # Pre-training validates on batches like those that it trains on.
        spec = self.audio_spec if training or pretraining else _limit_scoring(self.audio_spec)
        return prepare_split(name, JoinedTables(joined), steps, spec, training and not pretraining, data.preprocessing)


def build_stream(tables: Sequence[Table], name: str, recipe: Recipe, audio_spec: AudioSpec) -> Stream:
    """Streamed and local tables as one stream of training windows."""
    prepare_window = partial(
        prepare_split,
        name,
        steps=recipe.text.normalization,
        audio_spec=audio_spec,
        training=recipe.pretraining is None,
        preprocessing=recipe.data.preprocessing,
        require=False,
    )
    return Stream(tuple(tables), prepare_window)


def build_augmentation(section: AugmentationSection, sampling_rate: int) -> Augmentation:
    """The recipe's augmentation with the files of its folders; raises UserError for a folder without audio."""
    values = section.model_dump(exclude={"noise_folder", "impulse_response_folder"})

    def files(key: str, most: float) -> tuple[str, ...]:
        folder = getattr(section, key)
        return list_recordings(folder, f"augmentation.{key}", most) if folder else ()

    # Noise is read in pieces, and an impulse response as a whole.
    noise, responses = files("noise_folder", math.inf), files("impulse_response_folder", MAX_IMPULSE_SECONDS)
    return Augmentation(sampling_rate=sampling_rate, noise_files=noise, impulse_responses=responses, **values)


def choose_vocabulary(
    recipe: Recipe, transcripts: Sequence[str]
) -> tuple[dict[str, int], tuple[int | None, ...] | None]:
    """The vocabulary of the recipe's text section, and each token's row of the pretrained head where that is kept.

    Raises UserError where most characters of the transcripts are not in the vocabulary.
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
