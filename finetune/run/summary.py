"""The summary of prepared data for the console."""

import unicodedata
from collections import Counter

from finetune.data.validation_report import ValidationReport
from finetune.recipe.load import Recipe
from finetune.run.preparation import Preparation
from finetune.text.vocabulary import count_characters

RARE = 2  # A character with so few examples is more often noise or a typing error than a letter.


def summarize_preparation(
    preparation: Preparation, recipe: Recipe, report: ValidationReport | None = None
) -> list[str]:
    """Splits, vocabulary and findings, as lines for the console."""
    lines = []
    for role, split in preparation.splits.items():
        speakers = {utterance.speaker for utterance in split.utterances} - {None}
        voices = f", {len(speakers)} speakers" if speakers else ""
        streamed = "streamed, of the first rows " if role == "train" and preparation.stream else ""
        lines.append(f"{role}: {streamed}{len(split.utterances)} utterances, {split.seconds / 60:.1f} minutes{voices}")
        wordless = sum(not utterance.transcript for utterance in split.utterances)
        if wordless and not preparation.pretraining:
            lines.append(f"{role}: {wordless} utterances without words, whose recognised words all count as insertions")
    reasons = Counter((rejection.split, rejection.reason) for rejection in preparation.rejected)
    lines += [f"left out of {split}: {count} × {reason}" for (split, reason), count in sorted(reasons.items())]
    if preparation.pretraining:  # No transcript was read.
        return lines
    lines.append(f"vocabulary: {len(preparation.characters)} characters: {' '.join(preparation.characters)}")
    lines += _describe_characters(preparation)
    lines += _describe_head(preparation, recipe)
    lines += _describe_adapter(preparation, recipe)
    lines += [f"note: {finding.sentence}" for finding in (report or preparation.validate()).findings]
    return lines


def _describe_head(preparation: Preparation, recipe: Recipe) -> list[str]:
    """What becomes of the base's CTC head, which knows letters."""
    rows, model = preparation.head_rows, recipe.model
    if rows is not None:
        new = " ".join(token for token, row in zip(preparation.vocabulary, rows, strict=True) if row is None)
        return [f"head: the base's goes on{f', with new characters: {new}' if new else ''}"]
    tuned = any(name.endswith("ForCTC") for name in preparation.config.architectures or ())
    if model.base is None or model.random_weights or model.language_adapter or not tuned:
        return []
    return ["note: the base's head is not used: text.vocabulary=extended goes on from it, if it writes your language"]


def _describe_adapter(preparation: Preparation, recipe: Recipe) -> list[str]:
    """Which weights are trained, where it is not the whole transformer."""
    lora, language = recipe.model.lora, recipe.model.language_adapter
    if lora:
        return [f"trained: LoRA of rank {lora.rank} beside {', '.join(lora.target_modules)}, and the head"]
    if language:
        origin = "on from the base's" if preparation.continues_language else "new, for the base has none"
        return [f"trained: adapters for {language} ({origin}), and the head"]
    return []


def _describe_characters(preparation: Preparation) -> list[str]:
    """Characters of the training transcripts that are not in the vocabulary, or too rare to be learned."""
    counts = count_characters(utterance.transcript for utterance in preparation.train.utterances)
    rare = Counter({character: count for character, count in counts.items() if count <= RARE})
    missing = Counter({each: count for each, count in counts.items() if each not in preparation.vocabulary})
    lines = []
    if missing:
        lines.append(f"not in the vocabulary, learned as [UNK]: {_list_characters(missing)}")
    if rare := rare - missing:
        lines.append(
            f"note: rare in training: {_list_characters(rare)}; text.min_character_count or a step of "
            "text.normalization leaves them out"
        )
    if delimiters := sum("|" in utterance.raw_transcript for utterance in preparation.train.utterances):
        lines.append(f"note: {delimiters} transcripts hold |, which separates words in a vocabulary: read as a space")
    return lines


def _list_characters(counts: Counter[str], most: int = 20) -> str:
    """Characters with their counts; a combining mark is named, because it is not visible alone."""
    listed = [
        f"{unicodedata.name(character, repr(character)) if unicodedata.combining(character) else character} × {count}"
        for character, count in counts.most_common(most)
    ]
    return ", ".join(listed) + (f" and {len(counts) - most} more" if len(counts) > most else "")
