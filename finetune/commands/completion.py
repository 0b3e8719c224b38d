"""finetune completion: the script by which a shell completes commands, options, files and recipe keys."""

import argparse
import os

from finetune.commands import arguments

_SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("completion", help="print the script by which a shell completes this command")
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=" or ".join(_SHELLS))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["finetune"], shell=options.shell))


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and end; in any other process nothing happens."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
