"""finetune env: report hardware, versions and settings."""

import argparse
import json

from finetune.commands import arguments


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("env", help="report hardware, versions and settings, for bug reports")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.environment import describe_environment, examine_environment

    found = examine_environment()
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else "\n".join(describe_environment(found)))
