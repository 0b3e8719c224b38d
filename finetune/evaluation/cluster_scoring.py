"""Score a split on a Ray cluster: each actor reads the table of the split and scores the utterances that it is sent."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from finetune import __version__
from finetune.audio.preprocessing import load_preprocessing
from finetune.audio.waveforms import AudioError
from finetune.data.corpus import Split, Utterance
from finetune.data.sources import JoinedTables, Source, load_splits, select_table
from finetune.errors import UserError
from finetune.evaluation.scoring import EvaluationOptions, ScoredPart, score_part
from finetune.files import hash_folder
from finetune.inference.recogniser import Recogniser
from finetune.resources.cluster import ClusterOptions, Lost, compute_on_cluster, name_for_nodes
from finetune.resources.repositories import fetch_model
from finetune.text.training_words import load_training_words


@dataclass(frozen=True)
class ScoringWork:
    """What an actor scores with; `normalization` of the options is set."""

    model: str
    source: Source
    split: str
    rows: int
    options: EvaluationOptions

    def load(self) -> tuple[Callable[[Sequence[Utterance]], ScoredPart], str]:
        """Load the model and the split's table on a node; raises UserError."""
        model, options = fetch_model(self.model), self.options
        recogniser = Recogniser.load(model, "auto", options.precision, options.language)
        options.decoding.apply(recogniser)
        table = select_table(load_splits(self.source), self.split, self.source)
        if len(table) != self.rows:
            raise UserError(
                f"{self.source.name} has {len(table)} rows in the split '{self.split}', not {self.rows}: expected the "
                "same data on each node."
            )
        steps, words = options.normalization or (), load_training_words(model)
        split = Split(self.split, table, (), (), preprocessing=load_preprocessing(model), normalization=tuple(steps))

        def score(utterances: Sequence[Utterance]) -> ScoredPart:
            sent = replace(split, utterances=tuple(utterances))
            return score_part(recogniser, sent, options.batch_seconds, steps, words)

        return score, f"{__version__} {hash_folder(model)}"


def score_on_cluster(name: str, split: Split, options: EvaluationOptions, cluster: ClusterOptions) -> ScoredPart:
    """Score a split as `score_part` does, on all actors of a cluster; raises UserError as `compute_on_cluster` does."""
    assert not isinstance(split.table, JoinedTables)
    source = replace(split.table.source, root=name_for_nodes(split.table.source.root))
    sent = replace(options, cluster=None)
    work = ScoringWork(name_for_nodes(name), source, split.name, len(split.table), sent)
    # As in one process: batches of similar lengths.
    order = sorted(split.utterances, key=lambda utterance: (-utterance.seconds, utterance.row))
    joined = ScoredPart([], [], 0, 0, 0.0, "")
    with (
        closing(compute_on_cluster(work, order, cluster)) as answers,
        tqdm(total=len(order), desc=split.name, unit="utterance", leave=False, disable=None) as progress,
    ):
        for batch, part in answers:
            progress.update(len(batch))
            if isinstance(part, Lost):
                reason = AudioError(part.reason)
                joined.rejected.extend(split.reject(utterance.row, reason) for utterance in batch)
                continue
            joined.results.extend(part.results)
            joined.rejected.extend(replace(each, source=split.table.source.name) for each in part.rejected)
            joined = replace(
                joined,
                blanks=joined.blanks + part.blanks,
                frames=joined.frames + part.frames,
                compute_seconds=joined.compute_seconds + part.compute_seconds,
                device=joined.device or part.device,
            )
    joined.rejected.sort(key=lambda each: each.row)
    return joined
