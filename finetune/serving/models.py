"""The models of a service by name: loaded once, shared by all requests, and replaced while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.audio.samples import Encoding
from finetune.decoding.beam import BeamSearch
from finetune.decoding.decoder import choose_search
from finetune.decoding.greedy import GreedySearch
from finetune.errors import UserError
from finetune.files import hash_folder
from finetune.inference.live import LiveContext, LiveTranscriber
from finetune.inference.live_engine import EngineSession, LiveEngine
from finetune.inference.recogniser import Recogniser
from finetune.inference.transcriber import Transcriber
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.resources.repositories import fetch_model


@dataclass(frozen=True)
class LoadOptions:
    """How all models of a service are loaded, and the limits of their live sessions."""

    device: str = "auto"
    precision: str = "auto"
    context: LiveContext = field(default_factory=LiveContext)
    live_threads: int = 1
    max_live: int = 8
    max_lag_seconds: float = 30.0


@dataclass(frozen=True)
class ModelFiles:
    """The folder of a model without links in its path, and the digest of its files."""

    folder: Path
    digest: str


def find_files(source: str) -> ModelFiles:
    """The files that a source leads to now: where it is a link that changes later, these stay those of one model.

    The digest is taken before a model is loaded: where files change meanwhile, the next reload finds another one.
    Raises UserError as `fetch_model` does, and for a link to a folder that is not there.
    """
    if Path(source).is_symlink() and not Path(source).is_dir():
        raise UserError(
            f"{source} is a link to {Path(source).readlink()}: expected that folder of a model, but there is none."
        )
    folder = fetch_model(source).resolve()
    return ModelFiles(folder, hash_folder(folder))


class Model:
    """A loaded model: a transcriber of recordings and the threads of its live sessions."""

    def __init__(self, name: str, source: str, files: ModelFiles, options: LoadOptions) -> None:
        """Load the files that were found at a source, and compute a second of silence.

        Raises UserError as `Recogniser.load`.
        """
        self.name, self.source, self.folder, self.digest = name, source, files.folder, files.digest
        self.recogniser = Recogniser.load(files.folder, options.device, options.precision)
        self.live = LiveTranscriber(self.recogniser, context=options.context)
        self.transcriber: Transcriber = self.live.transcriber
        self.statistics = UtteranceStatistics.load(files.folder)
        self.created = int(time.time())
        self.engine = LiveEngine(self.live, max_sessions=options.max_live, max_lag_seconds=options.max_lag_seconds)
        self._warm_up()
        self._retired = threading.Event()
        on_cpu = self.recogniser.device.type == "cpu"
        for number in range(options.live_threads if on_cpu else 1):
            self._start_thread(number)

    @property
    def max_samples(self) -> int:
        """Samples of a step of a recording: one window on a CPU, a batch on a GPU."""
        on_cpu = self.recogniser.device.type == "cpu"
        return 1 if on_cpu else round(self.transcriber.batch_seconds * self.recogniser.sampling_rate)

    def choose_search(self, hotwords: Mapping[str, float]) -> BeamSearch | GreedySearch:
        """The decoder with hotwords of a request; raises UserError for hotwords that it can't use."""
        if not hotwords:
            return self.transcriber.search
        saved, symbols = self.recogniser.search, (self.recogniser.tokenizer, self.recogniser.num_symbols)
        return choose_search(saved, *symbols, None, None, hotwords) or self.transcriber.search

    def open_live(self, sampling_rate: int, *, encoding: Encoding, on_events: Callable[[], object]) -> EngineSession:
        """Begin a live session as `LiveEngine.open` does, also after the model was retired."""
        session = self.engine.open(sampling_rate, encoding=encoding, on_events=on_events)
        if self._retired.is_set():  # A connection that began before has the old model, whose threads may have ended.
            self._start_thread(0)
        return session

    def _start_thread(self, number: int) -> None:
        threading.Thread(target=self._run_live, name=f"live-{self.name}-{number}", daemon=True).start()

    def _warm_up(self) -> None:
        """Compute a second of silence, so that the first request does not wait for kernels and compiled code."""
        logits, _ = self.recogniser.logits([np.zeros(self.recogniser.sampling_rate, dtype=np.float32)])
        search: Any = self.transcriber.search
        search.finish(search.advance(search.start(), logits[0].numpy()))

    def retire(self) -> None:
        """End the threads of live sessions when the last session has ended."""
        self._retired.set()

    def _run_live(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.engine.run(lambda: self._retired.is_set() and not self.engine.num_sessions)


class ModelRegistry:
    """The models of a service; the first is the default one."""

    def __init__(self, sources: Mapping[str, str], options: LoadOptions) -> None:
        """Load all models; raises UserError as `Model` does."""
        self._options = options
        self._models = {name: Model(name, source, find_files(source), options) for name, source in sources.items()}
        self._reloading = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names, the default one first."""
        return list(self._models)

    def all(self) -> list[Model]:
        """The models, the default one first."""
        return list(self._models.values())

    def find(self, name: str | None) -> Model | None:
        """A model by its name, without one the default model; None for an unknown name."""
        return self._models.get(name or self.names[0])

    def reload(self, name: str | None = None) -> list[str]:
        """Load a model, or all, again from where they came from, and return the names of those that are other ones.

        Requests that have begun go on with the old model. Raises UserError if one can't be loaded: then the old ones
        stay.
        """
        with self._reloading:
            old = self.all() if name is None else [self._models[name]]
            found = [(model, find_files(model.source)) for model in old]
            changed = [(model, files) for model, files in found if files.digest != model.digest]
            loaded = [Model(model.name, model.source, files, self._options) for model, files in changed]
            for model in loaded:
                retired = self._models[model.name]
                self._models[model.name] = model
                retired.retire()
            return [model.name for model in loaded]


def read_sources(arguments: Sequence[str]) -> dict[str, str]:
    """The sources of models by name from arguments MODEL or NAME=MODEL; raises UserError for two of one name.

    A model without a name has that of its folder or of the link to it; a run's `model` folder has that of the run.
    """
    sources: dict[str, str] = {}
    for argument in arguments:
        name, given, source = argument.partition("=")
        if not given or "/" in name or not name:
            name, source = _name(argument), argument
        if name in sources:
            raise UserError(f"Two models have the name {name}: give one of them as NAME=MODEL.")
        sources[name] = source
    return sources


def _name(source: str) -> str:
    path = Path(source)
    if path.exists():
        path = path.absolute() if path.is_symlink() else path.resolve()
    name = path.parent.name if path.name == "model" and path.parent.name else path.name  # /model has no run.
    return name.partition("@")[0]
