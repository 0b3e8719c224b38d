"""finetune compare-runs: what differs between runs, and what came of it."""

import argparse
from pathlib import Path

from finetune.commands import arguments


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("compare-runs", help="show runs side by side: settings that differ, results, curves")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, finished or not")
    parser.add_argument("--html", metavar="FILE", help="also write a page with the curves over each other")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.files import write_text
    from finetune.run.run_report import build_run_report, list_differences, list_results, read_run

    arguments.require_writable(options.html)
    runs = [read_run(Path(name)) for name in options.runs]
    if options.html:
        write_text(Path(options.html), build_run_report(runs))
    for number, record in enumerate(runs, 1):
        print(f"{number}: {record.name}")
    for title, rows in (("results", list_results(runs)), ("settings", list_differences(runs))):
        print(f"\n{title}")
        for name, values in rows:
            print(f"  {name}")
            for number, value in enumerate(values, 1):
                print(f"    {number}: {value or 'unknown'}")
