"""The recipe of a candidate: the champion trained further on corrections, with a share of the old data replayed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.corpus import Split
from finetune.errors import UserError
from finetune.models.processors import require_one_language
from finetune.recipe.load import Recipe
from finetune.recipe.schema import DataSection, PublishingSection, SourceSection
from finetune.run.preparation import Preparation, prepare

DOMAIN = "domain"  # The column of a snapshot's metadata that says where a correction comes from.
GOLDEN = "golden"  # The domain of the old data.

# Keys of one source, which `DataSection` has beside its list of sources.
_KEYS_OF_ONE = {name: field.default for name, field in SourceSection.model_fields.items() if name != "root"}


@dataclass(frozen=True)
class Speech:
    """The speech of an improvement: `old` is that of the recipe, `new` that of the snapshot, `both` their join."""

    old: Preparation
    new: Preparation
    both: Preparation

    @property
    def golden(self) -> Split:
        """The test split of the old data."""
        assert self.old.test is not None  # `read_speech` requires it.
        return self.old.test


def read_speech(recipe: Recipe, champion: Path, snapshot: Path) -> Speech:
    """Read the old and the new speech as the champion needs it, without any audio.

    Raises UserError where the recipe lacks a validation or a test split of its own, the snapshot lacks a validation
    split, or the champion or the data cannot be used.
    """
    old_sources, new_source = recipe.data.all_sources, _describe_snapshot(snapshot)
    old, new, both = (
        prepare(train_on(recipe, champion, sources))
        for sources in (old_sources, (new_source,), (new_source, *old_sources))
    )
    if old.test is None or _is_held_out(old):
        missing = "test" if old.test is None else "validation"
        raise UserError(
            f"The recipe's data have no {missing} split: expected one, on which the model before and after is compared "
            f"(data.{missing}_split names it)."
        )
    if _is_held_out(new):
        raise UserError(f"{snapshot} has no validation split: expected a snapshot with train, validation and test.")
    if GOLDEN in {each.columns.get(DOMAIN) for split in new.splits.values() for each in split.utterances}:
        raise UserError(f"{snapshot} has the domain {GOLDEN}, which names the recipe's own data: rename it there.")
    return Speech(old, new, both)


def build_candidate_recipe(
    recipe: Recipe, champion: Path, snapshot: Path, speech: Speech, replay_share: float
) -> Recipe:
    """The recipe that trains a candidate; of the utterances of an epoch `replay_share` are old ones, on average.

    The champion's alphabet and head are kept. Without replay the old data are not read, and training validates on the
    snapshot alone. Training the head alone is `training.freeze_transformer_steps` of at least `training.max_steps`.
    """
    source = _describe_snapshot(snapshot)
    if not replay_share:
        return train_on(recipe, champion, (source,))
    heard = sum(utterance.weight for utterance in speech.old.train.utterances)
    factor = replay_share / (1 - replay_share) * len(speech.new.train.utterances) / heard
    old = [each.model_copy(update={"weight": factor * each.weight}) for each in recipe.data.all_sources]
    return train_on(recipe, champion, (source, *old))


def train_on(recipe: Recipe, champion: Path, sources: tuple[SourceSection, ...]) -> Recipe:
    """The recipe with the champion as its base, whose alphabet is kept, and other data; nothing is pushed to a hub."""
    model = {"base": str(champion), "revision": None, "architecture": None, "random_weights": False}
    data: dict[str, Any] = {**_KEYS_OF_ONE, "root": None, "sources": sources}
    publishing = {name: PublishingSection.model_fields[name].default for name in ("repo_id", "push", "private")}
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=model),
            "data": DataSection.model_validate({**recipe.data.model_dump(), **data}),
            "text": recipe.text.model_copy(update={"vocabulary": "base", "characters": None}),
            "publishing": recipe.publishing.model_copy(update=publishing),
            "provenance": None,
        }
    )


def require_improvable(recipe: Recipe, champion: Path, replay_share: float) -> None:
    """Raise UserError for a champion, a recipe or a share of replay that an improvement cannot use."""
    if not (champion / "model.safetensors").is_file():
        raise UserError(f"{champion} has no model.safetensors: expected a run's model folder.")
    require_one_language(champion, "an improvement is of a model with one")
    if recipe.model.language_adapter:
        raise UserError(
            "model.language_adapter can't be improved: expected a recipe that trains a whole model or LoRA."
        )
    if not 0 <= replay_share < 1:
        raise UserError(f"The share of replay is {replay_share:g}: expected a number from 0 up to, but below, 1.")
    if replay_share and any(source.streaming for source in recipe.data.all_sources):
        raise UserError("Old data that are streamed have no known length, so they can't be replayed: remove streaming.")


def _describe_snapshot(snapshot: Path) -> SourceSection:
    return SourceSection(root=str(snapshot), columns=(DOMAIN,))


def _is_held_out(preparation: Preparation) -> bool:
    """Whether the validation split was taken out of the training split, for want of one."""
    return preparation.validation.table is preparation.train.table
