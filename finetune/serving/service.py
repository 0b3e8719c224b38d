"""What all routes share: models, engine, keys, limits, metrics, the audit log, and who sends a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from anyio import CancelScope
from starlette.requests import HTTPConnection

from finetune.audio.waveforms import AudioError
from finetune.decoding.greedy import GreedySearch
from finetune.errors import UserError
from finetune.inference.events import average_confidence
from finetune.inference.live import LiveContext
from finetune.inference.stepwise import StepwiseTranscription
from finetune.inference.transcript import Transcript, Word
from finetune.resources.machine import count_threads
from finetune.serving.audit import AuditLog
from finetune.serving.engine import Busy, Cancelled, FileEngine, Job
from finetune.serving.feedback_store import FeedbackStore
from finetune.serving.keys import Key, KeyRing, Scope
from finetune.serving.metrics import Metrics
from finetune.serving.models import LoadOptions, Model, ModelRegistry, read_sources
from finetune.serving.problems import Problem, busy
from finetune.serving.settings import Settings
from finetune.serving.uploads import AudioLimits, AudioTooLong


@dataclass
class Service:
    """The state of a service; `draining` is set when it is about to end and takes no new work."""

    settings: Settings
    models: ModelRegistry
    keys: KeyRing
    metrics: Metrics
    audit: AuditLog
    engine: FileEngine
    feedback: FeedbackStore | None = None
    draining: threading.Event = field(default_factory=threading.Event)
    on_stop: Callable[[], object] = lambda: None  # set by the server

    @property
    def is_working(self) -> bool:
        """Whether there are recordings or live sessions that have begun."""
        return bool(self.engine.num_jobs or any(model.engine.num_sessions for model in self.models.all()))

    def reload(self, name: str | None = None) -> list[str]:
        """Reload models as `ModelRegistry.reload` does, and compare their further utterances with their statistics."""
        changed = self.models.reload(name)
        for model in self.models.all():
            if model.name in changed:
                self.metrics.watch(model.name, model.statistics)
        return changed

    def close(self) -> None:
        """Close its files."""
        self.audit.close()
        if self.feedback is not None:
            self.feedback.close()

    def stop(self) -> None:
        """End the server as SIGTERM does; may be called from any thread."""
        self.on_stop()

    @classmethod
    def load(cls, settings: Settings) -> Service:
        """Load the models and open the files of the settings; raises UserError where that fails."""
        options = LoadOptions(
            device=settings.device,
            precision=settings.precision,
            context=LiveContext.of_latency(settings.latency),
            live_threads=count_threads(),
            max_live=settings.max_live,
        )
        feedback = FeedbackStore.open(settings.feedback, settings.feedback_key_file) if settings.feedback else None
        models = ModelRegistry(read_sources(settings.models), options)
        metrics = Metrics(models.names)
        for model in models.all():
            metrics.watch(model.name, model.statistics)
        if feedback is not None:
            feedback.on_failure = metrics.feedback_failed
        on_cpu = all(model.recogniser.device.type == "cpu" for model in models.all())
        engine = FileEngine(
            count_threads() if on_cpu else 1,
            settings.queue,
            on_step=lambda step: metrics.batch(step.audio_seconds, step.seconds),
            on_start=metrics.waited,
            must_wait=lambda: any(model.engine.is_behind for model in models.all()),
        )
        return cls(settings, models, KeyRing(settings.keys), metrics, AuditLog(settings.audit), engine, feedback)

    @property
    def limits(self) -> AudioLimits:
        """The limits of a recording."""
        return AudioLimits(self.settings.max_file_bytes, self.settings.max_audio_seconds)

    def admit(self, connection: HTTPConnection, scope: Scope) -> Key:
        """The key of a request; raises Problem: 401 without a valid one, 403 without the scope, 429 over its rate."""
        key = self.keys.find(read_token(connection))
        if key is None:
            raise Problem(
                401,
                "Expected a valid API key: Authorization: Bearer KEY.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        connection.state.key = key.name
        if scope not in key.scopes:
            raise Problem(403, f"The key {key.name} has not the scope {scope}.", "insufficient_scope")
        if (seconds := self.keys.wait_seconds(key)) > 0:
            raise busy(f"The key {key.name} sends too many requests.", max(1, round(seconds + 0.5)), "rate_limited")
        if self.draining.is_set():
            raise Problem(503, "The service is about to end: try again.", "shutting_down", headers={"Retry-After": "5"})
        return key

    def find_model(self, name: str | None, connection: HTTPConnection) -> Model:
        """A model by its name; raises Problem for an unknown one."""
        model = self.models.find(name)
        if model is None:
            known = ", ".join(self.models.names)
            raise Problem(404, f"There is no model {str(name)[:80]!r}; expected {known}.", "model_not_found", "model")
        connection.state.model = model.digest
        return model

    def begin(
        self,
        key: Key,
        model: Model,
        audio: BinaryIO,
        *,
        hotwords: Mapping[str, float],
        on_words: Callable[[Sequence[Word]], object] | None = None,
    ) -> Job:
        """Put a recording into the engine; raises Problem for hotwords that can't be used, and 429 when it is busy.

        With `on_words` speech is decoded by segment; see `Job`.
        """
        try:
            search = model.choose_search(hotwords)
        except UserError as error:
            raise Problem(400, str(error), "invalid_keywords", "keywords") from error
        gone = threading.Event()
        transcription = StepwiseTranscription(
            model.transcriber,
            audio,
            search=search,
            by_segment=on_words is not None,
            on_block=self.limits.guard(gone.is_set),
        )
        job = Job(key.name, model.recogniser, transcription, model.max_samples, on_words or (lambda _: None), gone=gone)
        try:
            self.engine.submit(job)
        except Busy as error:
            raise busy(str(error), error.retry_seconds) from error
        self.metrics.queued(self.engine.num_jobs)
        return job

    async def result(self, job: Job, model: Model) -> Transcript:
        """The transcript of a recording; raises Problem where there is none."""
        try:
            transcript = await asyncio.wrap_future(job.done)
        except AudioTooLong as error:
            raise Problem(413, f"The audio is {error}.", "audio_too_long", "file") from error
        except AudioError as error:
            raise Problem(422, f"The audio can't be transcribed: {error}.", "unreadable_audio", "file") from error
        except UserError as error:
            raise Problem(503, "The audio does not fit into memory: send a shorter one.", "out_of_memory") from error
        except Cancelled as error:
            if self.draining.is_set():
                raise Problem(503, "The service ends before the recording is done.", "shutting_down") from error
            raise Problem(499, "The client has gone.", "client_closed_request") from error
        self.metrics.audio(model.name, "file", transcript.seconds)
        if job.transcription.num_windows == 1:  # A longer recording is no utterance as those of training are.
            self.count_utterance(model, average_confidence(transcript.words), job.transcription.blank_ratio)
        return transcript

    def count_utterance(self, model: Model, confidence: float | None, blank_ratio: float | None) -> None:
        """Count an utterance in the metrics; confidences of a beam search are not those of training, and left out."""
        greedy = isinstance(model.transcriber.search, GreedySearch)
        self.metrics.utterance(model.name, confidence if greedy else None, blank_ratio)

    @asynccontextmanager
    async def keep(self, job: Job) -> AsyncIterator[None]:
        """Hold what a job needs until it has ended; it is dropped where the body ends before."""
        try:
            yield
        finally:
            job.gone.set()
            with CancelScope(shield=True), suppress(Exception):  # Starlette cancels each await of who has gone.
                await asyncio.wrap_future(job.done)
            self.metrics.queued(self.engine.num_jobs)


def read_token(connection: HTTPConnection) -> str | None:
    """The API key of a request: a bearer token, or the subprotocol with which browsers open OpenAI's WebSocket."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    prefix = "openai-insecure-api-key."
    offered = connection.headers.get("sec-websocket-protocol", "").split(",")
    return next((each.strip().removeprefix(prefix) for each in offered if each.strip().startswith(prefix)), None)
