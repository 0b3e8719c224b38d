"""finetune push: publish a model on a hub."""

import argparse
from pathlib import Path

from finetune.commands import arguments


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("push", help="publish a model on a hub, in one commit")
    parser.add_argument("source", metavar="RUN_OR_MODEL", help="a run, a model folder, or a report folder (its scores)")
    parser.add_argument("repo_id", metavar="REPO_ID", help="the repository, USER/NAME; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--revision", metavar="NAME", help="a branch, created if it does not exist (default: main)")
    parser.add_argument("--tag", metavar="NAME", help="a tag for the commit")
    parser.add_argument(
        "--data", metavar="SOURCE", help="speech to verify the model on (default: the validation split of its run)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and list what would be uploaded, without uploading"
    )
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.publishing.background import end_with_parent
    from finetune.publishing.checkpoint_export import is_export, push_export
    from finetune.publishing.upload import Destination

    if options.with_parent:
        end_with_parent()
    source = Path(options.source)
    destination = Destination(options.repo_id, options.revision, options.private, options.tag)
    if is_export(source):  # In a process beside training, which takes no more than it must.
        lines = push_export(source, destination, dry_run=options.dry_run)
    else:
        from finetune.run.publication import publish

        lines = publish(source, destination, data=options.data, dry_run=options.dry_run)
    print("\n".join(lines))
