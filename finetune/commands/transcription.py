"""Transcribe many recordings: plan the output files, write them, and report failures."""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tqdm import tqdm

from finetune.audio.stream import Audio
from finetune.audio.waveforms import AudioError, Recording, fault_as_reason, read_seconds
from finetune.commands.inputs import Input, find_inputs
from finetune.errors import UserError, describe_fault
from finetune.files import write_text
from finetune.inference.formats import FORMATS, format_transcript
from finetune.inference.transcript import Transcript
from finetune.resources.storage import is_url
from finetune.resources.terminal import escape_controls

_LOGGER = logging.getLogger(__name__)

if TYPE_CHECKING:
    from finetune.inference.transcriber import Transcriber

# After these errors nothing more can be written; any other concerns one file.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


@dataclass(frozen=True)
class Job:
    """A recording and its output files by format; without files its transcript is printed."""

    input: Input
    files: Mapping[str, Path]
    printed: str = "text"


def plan_jobs(
    inputs: Sequence[Input],
    formats: Sequence[str],
    output: Path | None = None,
    *,
    resume: bool = False,
    printed: bool = False,
) -> list[Job]:
    """List the jobs: a file of each format beside each input, or below `output` with the same relative path.

    Without `output`, standard input is printed, and with `printed` everything is. `resume` skips files that exist. A
    recording that is named twice is one job.

    Raises UserError if two recordings would be written to one file, if a file exists and `resume` is not set, if there
    is no folder to write to, or if several formats would be printed.
    """
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: expected a folder for --output, there or not.")
    jobs: list[Job] = []
    taken: dict[Path, Input] = {}
    existing: list[Path] = []
    for each in inputs:
        if isinstance(each.recording, AudioError):
            jobs.append(Job(each, {}))
            continue
        if output is None and (printed or each.recording is None):
            if len(formats) > 1:
                raise UserError(f"Only one format can be printed, not {' and '.join(formats)}: add --output DIR.")
            jobs.append(Job(each, {}, formats[0]))
            continue
        folder = each.folder if output is None else output / each.relative.parent
        if folder is None:
            raise UserError(f"Nothing is written beside {each.name}: say where with --output DIR.")
        files = {form: folder / (each.relative.name + FORMATS[form].suffix) for form in formats}
        first = files[formats[0]]
        if (other := taken.setdefault(Path(os.path.realpath(first)), each)) is not each:
            if other.recording != each.recording:
                raise UserError(
                    f"{other.name} and {each.name} would both be written to {first}: transcribe them one after the "
                    "other, each with an --output DIR of its own."
                )
            continue
        there = [file for file in files.values() if _is_written(file)]
        existing += there
        if left := {form: file for form, file in files.items() if file not in there}:
            jobs.append(Job(each, left))
    if existing and not resume:
        others = f", as are {len(existing) - 1} other files" if existing[1:] else ""
        raise UserError(
            f"{existing[0]} is there already{others}, and nothing is overwritten: --resume leaves out what is done, "
            "and --output DIR writes elsewhere."
        )
    return jobs


def _is_written(file: Path) -> bool:
    """Whether a file exists; a name that the file system does not allow fails later, when it is written."""
    return os.path.exists(file) and not file.is_dir()  # noqa: PTH110 (the path's own method raises for it)


@dataclass(frozen=True)
class Formatted:
    """A transcript in the formats of its job, and the length of the recording in seconds."""

    texts: tuple[str, ...]
    seconds: float


OnProgress: TypeAlias = Callable[[float], object]
"""Is called with the seconds of audio that were transcribed since its last call."""
Found: TypeAlias = Generator[tuple[Job, Formatted | AudioError]]
Engine: TypeAlias = Callable[[Sequence[Job], OnProgress], Found]
"""Transcribes jobs whose recordings can be used, in any order; one that fails does not stop the others."""


def run_jobs(transcribe: Engine, jobs: Sequence[Job]) -> int:
    """Transcribe, then write or print; returns the exit code: 0, 2 if a recording failed, 130 after Ctrl-C.

    Recordings that cannot be read are listed with their reasons at the end; the others are transcribed. Raises
    UserError for a full disk.
    """
    tally = _Tally(len(jobs))
    writes, code = any(job.files for job in jobs), 0
    usable = []
    for job in jobs:
        if isinstance(job.input.recording, AudioError):
            tally.failures.append((job, str(job.input.recording)))
        else:
            usable.append(job)
    try:
        with closing(_Bar(jobs, len(tally.failures))) as bar, closing(transcribe(usable, bar.advance)) as found:
            for job, transcript in found:
                _deliver(job, transcript, tally)
                bar.count()
    except KeyboardInterrupt:
        goes_on = "; the same command with --resume goes on" if writes else ""
        _LOGGER.error(f"interrupted; {tally.count_done()} are done{goes_on}.")
        code = 130
    finally:
        if tally.failures:
            _LOGGER.error("\n".join(tally.list_failures(jobs)))
    if writes and tally.done and not code:
        _LOGGER.info(tally.summarise())
    return code or (2 if tally.failures else 0)


@dataclass
class _Tally:
    """Counts and failures of a number of recordings."""

    total: int
    done: int = 0
    audio_seconds: float = 0.0
    failures: list[tuple[Job, str]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def count_done(self) -> str:
        return f"{self.done} of {self.total} recordings"

    def summarise(self) -> str:
        clock_seconds = time.perf_counter() - self.began
        factor = clock_seconds / self.audio_seconds
        audio, clock = _format_duration(self.audio_seconds), _format_duration(clock_seconds)
        return f"{self.count_done()}, {audio} of audio, in {clock}: real-time factor {factor:.2g}"

    def list_failures(self, jobs: Sequence[Job]) -> list[str]:
        """A line for each, in the order of the jobs, those that could not be used first."""
        place = {id(job): (not isinstance(job.input.recording, AudioError), number) for number, job in enumerate(jobs)}
        failures = sorted(self.failures, key=lambda failure: place[id(failure[0])])
        # A name may contain line ends; each recording has one line.
        lines = [escape_controls(f"{job.input.name}: {reason}", one_line=True) for job, reason in failures]
        if self.total == 1:
            return lines
        return [f"{len(lines)} of {self.total} recordings can't be transcribed:", *(f"  {line}" for line in lines)]


def transcribe_here(
    transcriber: "Transcriber", separate_channels: bool, jobs: Sequence[Job], on_progress: OnProgress
) -> Found:
    """Transcribe jobs in this process, in their order."""
    recordings: Iterator[tuple[Job, Audio]] = (
        (job, job.input.recording or _open_standard_input())
        for job in jobs
        if not isinstance(job.input.recording, AudioError)
    )
    transcripts = transcriber.transcribe_many(recordings, separate_channels=separate_channels, on_progress=on_progress)
    for job, transcript in transcripts:
        yield job, transcript if isinstance(transcript, AudioError) else format_job(job, transcript)


def _open_standard_input() -> Audio:
    # Not Python's own stream: a thread that waits in its buffer for a pipe would keep the program from ending.
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)


def format_job(job: Job, transcript: Transcript) -> Formatted | AudioError:
    """A transcript in a job's formats."""
    # A file name need not be valid Unicode.
    name = job.input.relative.name.encode(errors="replace").decode()
    try:
        with fault_as_reason():
            texts = tuple(format_transcript(transcript, form, name) for form in job.files or (job.printed,))
    except AudioError as error:
        return error
    return Formatted(texts, transcript.seconds)


def _deliver(job: Job, transcript: Formatted | AudioError, tally: _Tally) -> None:
    """Write or print a transcript, or record the failure; raises UserError for a full disk."""
    if isinstance(transcript, AudioError):
        tally.failures.append((job, str(transcript)))
        return
    texts = transcript.texts
    try:
        if not job.files:
            print(texts[0], end="", flush=True)
        for file, text in zip(job.files.values(), texts, strict=False):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
    except ValueError as error:  # A name that no file can have.
        tally.failures.append((job, f"can't be written: {error}"))
    except BrokenPipeError:  # Standard output is closed: stop.
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS:
            goes_on = "; make room there, and the same command with --resume goes on" if job.files else ""
            raise UserError(
                f"What {job.input.name} says can't be written: {error.strerror}. "
                f"{tally.count_done()} are done{goes_on}."
            ) from error
        place = f": {error.filename}" if error.filename else ""
        tally.failures.append((job, f"can't be written: {error.strerror or error}{place}"))
    else:
        tally.done += 1
        tally.audio_seconds += transcript.seconds


def align_recording(
    model: str,
    place: str,
    text: str,
    form: str,
    output: Path | None,
    *,
    device: str,
    vad: Literal["energy", "silero"],
    language: str | None = None,
) -> None:
    """Align a text with a recording, and write the words with their times to `output`, or print them.

    Words that are not in the audio are logged. Raises UserError if `place` is not a single recording or cannot be read,
    if the text has no words, and if the output exists or cannot be written.
    """
    from finetune.inference.aligner import align_text
    from finetune.inference.transcriber import Transcriber

    if output is not None and output.exists():
        raise UserError(f"{output} is there already, and nothing is overwritten: choose another --output.")
    inputs = find_inputs([place])
    if len(inputs) != 1:
        raise UserError(f"{place} has {len(inputs)} recordings: expected one, which the text is of.")
    recording = inputs[0].recording
    if isinstance(recording, AudioError):
        raise UserError(f"{inputs[0].name}: {recording}")
    transcriber = Transcriber(model, device=device, detector=vad, language=language)
    try:
        with tqdm(desc="listening", unit=" s", bar_format="{desc}: {n:.0f} s", leave=False, disable=None) as bar:
            transcript = align_text(transcriber, recording or sys.stdin.buffer, text, on_progress=bar.update)
        formatted = format_transcript(transcript, form, inputs[0].relative.name)
    except UserError:
        raise
    except Exception as error:
        reason = error if isinstance(error, AudioError) else describe_fault(error)
        raise UserError(f"{inputs[0].name}: {reason}") from error
    try:
        if output is None:
            print(formatted, end="")
        else:
            write_text(output, formatted)
    except OSError as error:
        raise UserError(f"{output or 'The alignment'} can't be written: {error.strerror}.") from error
    if missing := [f"{word.text} ({word.start:.1f} s)" for word in transcript.words if not word.found]:
        others = f" and {len(missing) - 10} others" if len(missing) > 10 else ""
        counted = f"{len(missing)} of {len(transcript.words)} words"
        _LOGGER.warning(f"{counted} are not in the audio: {', '.join(missing[:10])}{others}")


def _format_duration(seconds: float) -> str:
    unit, name = (3600, "hours") if seconds >= 5400 else (60, "minutes") if seconds >= 90 else (1, "seconds")
    return f"{seconds / unit:.1f} {name}"


class _Bar:
    """A progress bar with recordings done, real-time factor and time left; hidden without a terminal."""

    def __init__(self, jobs: Sequence[Job], done: int) -> None:
        self._jobs, self._done, self._audio_seconds = len(jobs), done, 0.0
        self._began = time.perf_counter()
        total = _add_up(jobs) if sys.stderr.isatty() else None
        shown = "{desc} {percentage:3.0f}% |{bar}|{postfix}, {remaining} left"
        counts, speed = self._describe()
        self._bar = tqdm(
            total=total, desc=counts, postfix=speed, bar_format=shown, smoothing=0.05, leave=False, disable=None
        )

    def close(self) -> None:
        self._bar.close()

    def count(self) -> None:
        """Count a recording that is done or has failed."""
        self._done += 1
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Add transcribed seconds of audio."""
        self._audio_seconds += seconds
        counts, speed = self._describe()
        self._bar.set_description_str(counts, refresh=False)
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update(seconds)

    def _describe(self) -> tuple[str, str]:
        factor = (time.perf_counter() - self._began) / max(self._audio_seconds, 0.001)
        speed = f"{_format_duration(self._audio_seconds)} of audio, real-time factor {factor:.2g}"
        return f"{self._done} of {self._jobs} recordings", speed if self._audio_seconds else "0 seconds of audio"


def _add_up(jobs: Sequence[Job]) -> float | None:
    """Total seconds of all recordings by their headers; None if that is not known at once."""
    total = 0.0
    for job in jobs:
        recording = job.input.recording
        if recording is None or (isinstance(recording, Recording) and is_url(recording.path or "")):
            return None
        if isinstance(recording, Recording):
            with suppress(AudioError):  # Reported when it is transcribed.
                total += read_seconds(recording)
    return total or None
