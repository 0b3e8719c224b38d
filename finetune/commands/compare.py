"""finetune compare: test whether the difference between two models is significant."""

import argparse
import sys
from pathlib import Path

from finetune.commands import arguments
from finetune.commands.launch import is_main_process
from finetune.files import write_json


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("compare", help="test whether the difference between two models is significant")
    parser.add_argument("a", metavar="A", help="a model, or without --data the folder of a report")
    parser.add_argument("b", metavar="B", help="another model or report")
    parser.add_argument("--data", metavar="SOURCE", help=arguments.SOURCE)
    arguments.add_source(parser)
    arguments.add_decoding(parser)
    parser.add_argument("--json", metavar="FILE", help="also write all differences to this file")
    arguments.add_language(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.evaluation.comparison import compare
    from finetune.evaluation.results import read_results
    from finetune.evaluation.terminal_report import format_comparison, has_colours

    arguments.require_writable(options.json)
    names = options.a, options.b
    if options.data:
        from finetune.commands.launch import join_processes

        join_processes()
        from finetune.evaluation.scoring import EvaluationOptions, evaluate_pair

        how = EvaluationOptions(
            split=options.split, decoding=arguments.read_decoding(options), language=options.language
        )
        evaluations = evaluate_pair(*names, arguments.read_sources(options)[0], how)
        a, b = (evaluation.results for evaluation in evaluations)
        arguments.log_rejected(list(dict.fromkeys(each for evaluation in evaluations for each in evaluation.rejected)))
    else:
        a, b = (read_results(Path(name)) for name in names)
    if not is_main_process():
        return
    comparison = compare(a, b)
    if options.json:
        write_json(Path(options.json), {"names": names, **comparison.to_json()})
    print("\n".join([f"A: {options.a}", f"B: {options.b}", *format_comparison(comparison, has_colours(sys.stdout))]))
