"""Arguments in, one call out; each part is imported only when its command runs."""

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.arguments import build_parser
from finetune.commands.launch import limit_threads, settle_folders
from finetune.errors import Interrupted, Note, UserError
from finetune.files import write_json
from finetune.resources.terminal import escape_controls, safe_terminal

if TYPE_CHECKING:
    from finetune.data.corpus import Rejection
    from finetune.data.sources import Source
    from finetune.evaluation.scoring import Decoding
    from finetune.text.transcripts import Step


@safe_terminal()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0, 2 for a problem that the user can mend, 75 (EX_TEMPFAIL: try again) when training was asked to stop and left a
    checkpoint, 130 when anything else was, 141 when the reader of the output has gone.
    """
    parser = build_parser()
    options, overrides = parser.parse_known_args(arguments)
    # argparse takes overrides that stand behind an option, as in `--output DIR section.key=value`, for unknown ones.
    if overrides and (not hasattr(options, "overrides") or any(text.startswith("-") for text in overrides)):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if overrides:
        options.overrides += overrides
    # Their notices are for programmers; what a user must know is said by us.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "" if sys.stderr.isatty() else "1")
    limit_threads()
    try:
        for line in settle_folders():
            _say(line)
        with _telling_notes():
            code: int = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except UserError as error:
        _say(f"{error}")
        return 2
    except Interrupted as stopped:
        _say(f"stopped after step {stopped}; the same command goes on from there.")
        return 75
    except BrokenPipeError:  # Who read the output has enough, as `head` does; a shell would report SIGPIPE.
        _abandon_output()
        return 141
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}.")
        _abandon_output()
        return 2
    except KeyboardInterrupt:
        rest = "; the same command goes on from the last checkpoint" if options.command == "train" else ""
        _say(f"interrupted{rest}.")
        return 130
    return code


@contextmanager
def _telling_notes() -> Iterator[None]:
    """Print each Note once as a line; other warnings are shown as ever."""
    with warnings.catch_warnings():
        warnings.filterwarnings("once", category=Note)
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *others: Any, **options: Any) -> None:
            if not issubclass(category, Note):
                show(message, category, *others, **options)
            else:
                _say(f"note: {message}")

        warnings.showwarning = tell
        yield


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):  # The exit code says it too where the terminal has closed.
            print(f"finetune: {line}", file=sys.stderr, flush=True)


def _abandon_output() -> None:
    """Drop what could not be written to the standard output, or Python would try again at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # Of an output without a file nothing waits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _train(options: argparse.Namespace) -> int:
    from finetune.commands.launch import join_processes, keep_kernels

    join_processes()
    from finetune.recipe.load import load_recipe

    recipe = load_recipe(Path(options.recipe), options.overrides)
    keep_kernels(recipe.training.mixed_precision)
    from finetune.run.experiment import run

    output = Path(options.output) if options.output else _run_folder(options.recipe)
    analysis = run(recipe, output)
    if os.environ.get("RANK", "0") == "0":
        print(analysis.summary())
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from finetune.commands.launch import join_processes

    join_processes()
    from finetune.decoding.decoder import say_decoder
    from finetune.evaluation.analysis import Analysis, analyse
    from finetune.evaluation.report import require_free, write_report
    from finetune.evaluation.scoring import evaluate
    from finetune.evaluation.terminal_report import format_scores, has_colours, show_worst
    from finetune.training.checkpoints import saving

    _require_writable(options.json)
    if options.audio and options.report is None:
        raise UserError("--audio is for a report's players: add --report DIR.")
    sources = _sources(options)
    pairs = [(model, source.name) for model in options.models for source in sources]
    folders = [] if options.report is None else [Path(options.report)]
    if folders and len(pairs) > 1:
        folders = [folders[0] / str(number + 1) for number in range(len(pairs))]
    for folder in folders:
        require_free(folder)
    found: list[Analysis] = []
    written: list[dict[str, Any]] = []
    decoding = _decoding(options)
    how = {"decoding": decoding, "precision": options.precision, "language": options.language}
    runs = (evaluate(name, sources, options.split, **how) for name in options.models)
    for evaluation in itertools.chain.from_iterable(runs):
        if os.environ.get("RANK", "0") != "0":
            continue
        model, data = pairs[len(found)]
        analysis = analyse(evaluation.results, evaluation.counts)
        if folders:
            details = {"Model": model, "Data": data, **evaluation.details()}
            recording = evaluation.recording if options.audio else None
            with saving(str(folders[len(found)]), "Nothing was left there"):
                evaluated = evaluation.evaluated()
                write_report(folders[len(found)], f"{model} on {data}", analysis, details, recording, evaluated)
        found.append(analysis)
        results = [vars(result) for result in evaluation.results]
        rejected = [vars(rejection) for rejection in evaluation.rejected]
        names = {"model": model, "data": data, "decoder": evaluation.decoder, "evaluated": evaluation.evaluated()}
        speed = {"speed": evaluation.speed.to_json()}
        written.append({**names, **analysis.to_json(), **speed, "rejected": rejected, "results": results})
        if options.json:
            with saving(options.json, "Nothing was left there"):
                write_json(Path(options.json), written[0] if len(pairs) == 1 else written)
        # Last, for who reads this may have gone.
        _say_rejected(evaluation.rejected)
        lines = [f"{model} on {data}:"] if len(pairs) > 1 else []
        lines += show_worst(analysis, options.show, has_colours(sys.stdout))
        decoder = f"decoder: {say_decoder(evaluation.decoder)}"
        print("\n".join([*lines, analysis.summary(), evaluation.speed.summary(), decoder]), flush=True)
    if len(found) > 1:
        print(format_scores([(*pair, analysis) for pair, analysis in zip(pairs, found, strict=True)]))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from finetune.evaluation.comparison import compare
    from finetune.evaluation.results import read_results
    from finetune.evaluation.terminal_report import describe_comparison, has_colours

    _require_writable(options.json)
    names = options.a, options.b
    if options.data:
        from finetune.commands.launch import join_processes

        join_processes()
        from finetune.evaluation.scoring import evaluate_pair

        how = {"decoding": _decoding(options), "language": options.language}
        evaluations = evaluate_pair(*names, _sources(options)[0], options.split, **how)
        a, b = (evaluation.results for evaluation in evaluations)
        _say_rejected(list(dict.fromkeys(each for evaluation in evaluations for each in evaluation.rejected)))
    else:
        a, b = (read_results(Path(name)) for name in names)
    if os.environ.get("RANK", "0") != "0":
        return 0
    comparison = compare(a, b)
    if options.json:
        write_json(Path(options.json), {"names": names, **comparison.to_json()})
    print("\n".join([f"A: {options.a}", f"B: {options.b}", *describe_comparison(comparison, has_colours(sys.stdout))]))
    return 0


def _decoding(options: argparse.Namespace) -> "Decoding":
    from finetune.evaluation.scoring import Decoding

    return Decoding(options.decoder, options.beam_width, dict(options.hotword))


def _say_rejected(rejected: "Sequence[Rejection]") -> None:
    if os.environ.get("RANK", "0") == "0":
        for rejection in rejected:
            line = f"left out: {rejection.name}: {rejection.reason}"
            print(escape_controls(line, one_line=True), file=sys.stderr)


def _sources(options: argparse.Namespace) -> "list[Source]":
    from finetune.data.sources import Source

    columns = {name: getattr(options, name) for name in ("text_column", "audio_column", "speaker_column")}
    how: dict[str, Any] = {"allow_outside": options.allow_outside, "columns": tuple(options.columns)}
    how |= {"max_seconds": options.max_seconds} if options.max_seconds else {}
    places = [options.data] if isinstance(options.data, str) else options.data
    return [Source(place, **columns, **how) for place in places]


def _transcribe(options: argparse.Namespace) -> int:
    from finetune.commands.inputs import find_inputs
    from finetune.commands.transcription import plan_jobs, run_jobs

    inputs = find_inputs(options.inputs, options.allow_outside)
    printed = options.formats is None and [each.alone for each in inputs] == [True]
    formats = tuple(dict.fromkeys(options.formats or ["text"]))
    output = Path(options.output) if options.output else None
    hotwords = {**_read_hotwords(options.hotwords), **dict(options.hotword)}
    jobs = plan_jobs(inputs, formats, output, resume=options.resume, printed=printed)
    if not jobs:
        print("finetune: everything is transcribed already.", file=sys.stderr)
        return 0
    from finetune.inference.transcriber import Transcriber

    transcriber = Transcriber(
        options.model,
        device=options.device,
        language_model=options.language_model,
        hotwords=hotwords,
        decoder=options.decoder,
        beam_width=options.beam_width,
        precision=options.precision,
        batch_seconds=options.batch_seconds,
        detector=options.vad,
        language=options.language,
    )
    return run_jobs(transcriber, jobs, options.channels)


def _read_hotwords(file: str | None) -> dict[str, float]:
    """The hotwords of a file, one on each line; raises UserError."""
    from finetune.commands.arguments import read_hotword
    from finetune.text.lines import split_lines

    lines = [line.strip() for line in split_lines(_read(file))] if file else []
    try:
        return dict(read_hotword(line) for line in lines if line)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{file}: {error}.") from error


def _align(options: argparse.Namespace) -> int:
    from finetune.commands.transcription import align_recording

    if options.audio == options.text == "-":
        raise UserError("Both the audio and its text are to be read from standard input: name a file for one of them.")
    _require_writable(options.output)
    output = Path(options.output) if options.output else None
    text = _read_standard_input() if options.text == "-" else _read(options.text)
    how = {"device": options.device, "vad": options.vad, "language": options.language}
    align_recording(options.model, options.audio, text, options.format, output, **how)
    return 0


def _export(options: argparse.Namespace) -> int:
    from finetune.run.export import export

    say = partial(print, file=sys.stderr, flush=True)
    how = {"form": options.format, "data": options.data, "tolerance": options.tolerance, "language": options.language}
    print("\n".join(export(options.model, Path(options.output), **how, say=say)))
    return 0


def _push(options: argparse.Namespace) -> int:
    from finetune.publishing.background import end_with_parent
    from finetune.publishing.checkpoint_export import is_candidate, push_candidate
    from finetune.publishing.upload import Destination

    if options.with_parent:
        end_with_parent()
    source = Path(options.source)
    destination = Destination(options.repo_id, options.revision, options.private, options.tag)
    say = partial(print, file=sys.stderr, flush=True)
    if is_candidate(source):  # In a process beside training, which takes no more than it must.
        told = push_candidate(source, destination, dry_run=options.dry_run, say=say)
    else:
        from finetune.run.publication import publish

        told = publish(source, destination, data=options.data, dry_run=options.dry_run, say=say)
    print("\n".join(told))
    return 0


def _check(options: argparse.Namespace) -> int:
    from finetune.recipe.load import load_recipe
    from finetune.run.experiment import preview
    from finetune.run.preparation import describe, find_commits, pin, prepare

    for file in (options.json, options.html):
        _require_writable(file)
    recipe = load_recipe(Path(options.recipe), options.overrides)
    recipe = pin(recipe, find_commits(recipe))
    preparation = prepare(recipe)
    examination = preparation.examine(listen=options.listen)
    if options.align:
        from finetune.evaluation.scoring import find_mismatches
        from finetune.inference.recogniser import Recogniser

        found = find_mismatches(Recogniser.load(options.align, language=options.language), preparation.splits)
        examination = replace(examination, findings=(*examination.findings, *found))
    plan = preview(recipe, _run_folder(options.recipe), preparation)
    print("\n".join([*describe(preparation, recipe, examination), *plan, *examination.summary()]))
    if options.json:
        rejected = [vars(rejection) for rejection in preparation.rejected]
        write_json(Path(options.json), {**examination.to_json(), "rejected": rejected})
    if options.fix:
        from finetune.data.validation_report import write_clean_manifests

        for file, rows in write_clean_manifests(preparation.splits, examination.findings):
            role = file.name.split(".")[0]
            print(f"{file}: {rows} utterances; use it with data.{role}_split={file.stem}")
    if options.html:
        from finetune.data.html_report import write_page

        write_page(Path(options.html), _run_name(Path(options.recipe)), examination, preparation.splits)
    return 0


def _recipe(options: argparse.Namespace) -> int:
    from finetune.recipe.load import load_recipe

    print(load_recipe(Path(options.recipe), options.overrides).to_yaml(), end="")
    return 0


def _env(options: argparse.Namespace) -> int:
    from finetune.commands.environment import describe_environment, examine_environment

    found = examine_environment()
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else "\n".join(describe_environment(found)))
    return 0


def _load_steps(model: str) -> "tuple[Step, ...]":
    """The normalisation saved with a model; raises UserError where there is none."""
    from finetune.models.configuration import load_config
    from finetune.resources.repositories import fetch_model
    from finetune.text.transcripts import load_normalization

    folder = fetch_model(model, weights=False)
    load_config(str(folder))
    steps = load_normalization(folder)
    if steps is None:
        raise UserError(f"{model} has no normalisation saved with it: name its steps with --normalization.")
    return steps


def _build_language_model(options: argparse.Namespace) -> int:
    from finetune.decoding.language_model import build_language_model
    from finetune.text.transcripts import DEFAULT_STEPS

    steps = _load_steps(options.model) if options.model else options.normalization or DEFAULT_STEPS
    output = Path(options.output)
    told = build_language_model(
        options.texts, output, order=options.order, prune=options.prune, steps=steps, test=options.test
    )
    print("\n".join(told))
    return 0


def _tune_language_model(options: argparse.Namespace) -> int:
    from finetune.run.tuning import tune

    source, hotwords = _sources(options)[0], dict(options.hotword)
    width = 100 if options.beam_width is None else options.beam_width
    tuning = tune(options.model, options.language_model, source, options.split, width, hotwords)
    print("\n".join([*tuning.summary(), f"saved in {options.model}, which now decodes with it"]))
    return 0


def _run_name(recipe: Path) -> str:
    return recipe.resolve().parent.name if recipe.name == "recipe.yaml" else recipe.stem


def _run_folder(recipe: str) -> Path:
    return Path("runs") / _run_name(Path(recipe))


def _require_writable(file: str | None) -> None:
    if file and (Path(file).is_dir() or not Path(file).parent.is_dir()):
        raise UserError(f"{file} can't be written: expected a file's name in a folder that exists.")


def _read(file: str) -> str:
    from finetune.text.lines import read_text

    try:
        return read_text(Path(file), special=True)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}.") from error


def _read_standard_input() -> str:
    from finetune.resources.limits import MAX_TEXT_BYTES, read_at_most

    if sys.stdin is None:
        raise UserError("Standard input is closed: expected a text that is piped in.")
    try:
        return read_at_most(sys.stdin.buffer, MAX_TEXT_BYTES, "Standard input").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"Standard input can't be read: byte {error.start} is not UTF-8.") from error


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "transcribe": _transcribe,
    "align": _align,
    "export": _export,
    "push": _push,
    "check": _check,
    "build_language_model": _build_language_model,
    "tune_language_model": _tune_language_model,
    "recipe": _recipe,
    "env": _env,
}
