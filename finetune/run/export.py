"""Export a model to a format that is faster on CPUs, and keep it only where its word error rate stays."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from finetune.decoding.decoder import FOLDER as LANGUAGE_MODEL
from finetune.errors import UserError
from finetune.evaluation.scores import Scores, percent
from finetune.evaluation.scoring import BATCH_SECONDS, Evaluation, evaluate_split
from finetune.files import new_folder, write_json
from finetune.inference.exported import require_exportable, write_model
from finetune.inference.recogniser import Recogniser
from finetune.models.foreign_models import require_inside
from finetune.models.processors import keep_language
from finetune.publishing.model_files import CARD, ModelFile, format_size, is_model_file
from finetune.resources.repositories import fetch_model
from finetune.run.publication import find_model, open_validation
from finetune.training.checkpoints import saving

_LOGGER = logging.getLogger(__name__)

RECORD = "export.json"


@dataclass(frozen=True)
class ExportComparison:
    """The scores of a model and of its export on the same speech; `differing` utterances have another text."""

    original: Scores
    exported: Scores
    utterances: int
    differing: int

    @property
    def points(self) -> float:
        """How much higher the WER of the export is, in percentage points."""
        assert self.exported.wer is not None and self.original.wer is not None
        return 100 * (self.exported.wer - self.original.wer)

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return {**vars(self), "original": self.original.to_json(), "exported": self.exported.to_json()}

    def summary(self) -> str:
        """One line for the console."""
        return (
            f"WER {percent(self.exported.wer)} ({percent(self.original.wer)} before), another text in {self.differing} "
            f"of {self.utterances} utterances"
        )


def export(
    name: str, output: Path, *, form: str, data: str | None = None, tolerance: float = 0.2, language: str | None = None
) -> list[str]:
    """Export a model in a format, `onnx` or `onnx-int8`, to a new folder; returns lines for the console.

    `name` is a run, a model's folder or a name on a hub. The model and its export are evaluated on the speech at
    `data`, or else on the validation split of the model's run. Raises UserError, and leaves nothing, where there is no
    such speech or the export's WER is higher by more than `tolerance` percentage points. The other files of the model's
    folder, such as a language model, are copied, except its card. `language` chooses one of several languages.
    """
    if output.exists():
        raise UserError(f"There is something at {output} already: remove it, or choose another folder with -o.")
    model, run = find_model(Path(name)) if Path(name).is_dir() else (fetch_model(name), None)
    if run is None and data is None:
        raise UserError(
            f"{name} belongs to no run here, so there is no speech to compare its export on: name some with --data "
            "SOURCE."
        )
    with saving(str(output), "Nothing was left there"), new_folder(output.absolute()) as folder:
        comparison = _write(model, run, folder, form=form, data=data, tolerance=tolerance, language=language)
        values = {"format": form, "tolerance_points": tolerance, "comparison": comparison.to_json()}
        write_json(folder / RECORD, values)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return [comparison.summary(), f"{output}: {format_size(size)}; finetune transcribe and finetune evaluate take it"]


def _write(
    model: Path, run: Path | None, folder: Path, *, form: str, data: str | None, tolerance: float, language: str | None
) -> ExportComparison:
    """Write the export with its other files, and compare it; raises UserError as `export` does."""
    original, split, steps = open_validation(model, run, data, torch.device("cpu"), language)
    if not isinstance(original.model, torch.nn.Module):
        raise UserError(f"{model} is an export already: export the model that it was made of.")
    require_exportable(original.model.config)
    accelerator = Accelerator(cpu=True)

    def measure(recogniser: Recogniser) -> Evaluation:
        return evaluate_split(recogniser, split, BATCH_SECONDS, accelerator, steps)

    _LOGGER.info(f"recognising {len(split.utterances)} utterances of {split.name} with the model")
    before = measure(original)
    if before.scores.wer is None:
        raise UserError(f"{split.name} has no words to compare on: name other speech with --data SOURCE.")
    _LOGGER.info("exporting it")
    write_model(original.model, folder, int8=form == "onnx-int8")
    _copy_others(model, folder)
    keep_language(folder, language, original.num_symbols)
    _LOGGER.info("recognising the same with what was exported")
    after = measure(Recogniser.load(folder, "cpu"))
    texts = [[result.hypothesis for result in evaluation.results] for evaluation in (before, after)]
    differing = sum(a != b for a, b in zip(*texts, strict=True))
    comparison = ExportComparison(before.scores, after.scores, len(texts[0]), differing)
    if comparison.points > tolerance:
        raise UserError(
            f"The exported model is worse than {model}: {comparison.summary()}. That is {comparison.points:.2f} points "
            f"more, and --tolerance {tolerance:g} is the limit; nothing was written. --format onnx is exact, and the "
            "more speech --data has, the less the word error rate depends on chance."
        )
    return comparison


def _copy_others(model: Path, folder: Path) -> None:
    """Copy the files of a model except its weights and its card, which are those of another format."""
    for path in [*model.iterdir(), *(model / LANGUAGE_MODEL).glob("*")]:
        file = ModelFile(path.relative_to(model).as_posix(), path)
        weights = file.name.startswith(("model", "adapter")) and ".safetensors" in file.name
        if path.is_file() and is_model_file(file.name) and file.name != CARD and not weights:
            require_inside(model, path)
            (folder / file.name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / file.name)
