"""finetune evaluate: the WER and CER of models on data sets."""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from finetune.commands import arguments
from finetune.commands.launch import is_main_process
from finetune.errors import UserError
from finetune.files import write_json


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("evaluate", help="measure the WER and CER of models on data sets")
    parser.add_argument("models", metavar="MODEL", nargs="+", help=f"{arguments.MODEL}; or several")
    parser.add_argument(
        "--data", required=True, action="append", metavar="SOURCE", help=f"{arguments.SOURCE}; may be repeated"
    )
    arguments.add_source(parser)
    arguments.add_decoding(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the scores and every utterance to this file")
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="also write a report to this folder; for several models or data sets DIR/1, DIR/2 …",
    )
    parser.add_argument("--audio", action="store_true", help="copy the audio into the report, to play it there")
    parser.add_argument("--show", metavar="N", type=int, default=0, help="show the N worst utterances aligned")
    arguments.add_precision(parser, "float32")
    arguments.add_language(parser)
    arguments.add_engine(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.launch import join_processes

    join_processes()
    from finetune.decoding.decoder import format_decoder
    from finetune.evaluation.analysis import Analysis, analyse
    from finetune.evaluation.report import require_free, write_report
    from finetune.evaluation.scoring import EvaluationOptions, evaluate
    from finetune.evaluation.terminal_report import format_scores, has_colours, show_worst
    from finetune.training.checkpoints import saving

    arguments.require_writable(options.json)
    if options.audio and options.report is None:
        raise UserError("--audio is for a report's players: add --report DIR.")
    sources = arguments.read_sources(options)
    pairs = [(model, source.name) for model in options.models for source in sources]
    folders = [] if options.report is None else [Path(options.report)]
    if folders and len(pairs) > 1:
        folders = [folders[0] / str(number + 1) for number in range(len(pairs))]
    for folder in folders:
        require_free(folder)
    found: list[Analysis] = []
    written: list[dict[str, Any]] = []
    how = EvaluationOptions(
        split=options.split,
        decoding=arguments.read_decoding(options),
        precision=options.precision,
        language=options.language,
        cluster=arguments.read_engine(options),
    )
    runs = (evaluate(name, sources, how) for name in options.models)
    for evaluation in itertools.chain.from_iterable(runs):
        if not is_main_process():
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
        arguments.log_rejected(evaluation.rejected)
        lines = [f"{model} on {data}:"] if len(pairs) > 1 else []
        lines += show_worst(analysis, options.show, has_colours(sys.stdout))
        decoder = f"decoder: {format_decoder(evaluation.decoder)}"
        print("\n".join([*lines, analysis.summary(), evaluation.speed.summary(), decoder]), flush=True)
    if len(found) > 1:
        print(format_scores([(*pair, analysis) for pair, analysis in zip(pairs, found, strict=True)]))
