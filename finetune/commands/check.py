"""finetune check: validate a recipe and its data, and estimate the training, before it starts."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune.commands import arguments
from finetune.errors import UserError
from finetune.files import write_json


def add_parser(commands: arguments.Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "check", help="validate a recipe and its data, and estimate time and memory, in seconds"
    )
    arguments.add_recipe_file(parser)
    parser.add_argument("--listen", action="store_true", help="also decode all audio (slower)")
    parser.add_argument(
        "--align", metavar="MODEL", help="find transcripts that do not match what a model recognises (slower)"
    )
    arguments.add_language(parser)
    parser.add_argument(
        "--fix", action="store_true", help="write clean manifests beside the corpus; no file of it is changed"
    )
    arguments.add_engine(parser)
    parser.add_argument("--json", metavar="FILE", help="write the findings to this file as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a validation report with plots and audio to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from finetune.commands.launch import keep_kernels, set_training_switches
    from finetune.data.cluster_listening import listen_on_cluster
    from finetune.recipe.load import load_recipe
    from finetune.run.experiment import preview
    from finetune.run.preparation import prepare
    from finetune.run.revisions import find_commits, pin_revisions
    from finetune.run.summary import summarize_preparation

    cluster = arguments.read_engine(options)
    if cluster and not options.listen:
        raise UserError("--engine ray is for decoding all audio: add --listen.")
    for file in (options.json, options.html):
        arguments.require_writable(file)
    recipe = load_recipe(Path(options.recipe), options.overrides)
    if recipe.pretraining:
        raise UserError(
            "The recipe has a section `pretraining`: `finetune pretrain` says what it takes before it trains, and "
            "`finetune check` is for recipes of `finetune train`."
        )
    keep_kernels(recipe.training.mixed_precision)
    set_training_switches(recipe.training.compile)
    recipe = pin_revisions(recipe, find_commits(recipe))
    preparation = prepare(recipe)
    listener = partial(listen_on_cluster, cluster) if cluster else None
    report = preparation.validate(options.listen, listener)
    if options.align:
        from finetune.evaluation.mismatches import find_mismatches
        from finetune.inference.recogniser import Recogniser

        found = find_mismatches(Recogniser.load(options.align, language=options.language), preparation.splits)
        report = replace(report, findings=(*report.findings, *found))
    plan = preview(recipe, arguments.find_run_folder(options.recipe), preparation)
    print("\n".join([*summarize_preparation(preparation, recipe, report), *plan, *report.summary()]))
    if options.json:
        rejected = [vars(rejection) for rejection in preparation.rejected]
        write_json(Path(options.json), {**report.to_json(), "rejected": rejected})
    if options.fix:
        from finetune.data.clean_manifests import write_clean_manifests

        written, num_embedded = write_clean_manifests(preparation.splits, report.findings)
        for each in written:
            key = f"data.{each.role}_split={each.split}"
            if recipe.data.sources:
                key = f"{each.role}_split: {each.split} beside root: {each.source.name} in data.sources"
            print(f"{each.file}: {len(each.rows)} utterances; use it with {key}")
        if num_embedded:
            print(f"{num_embedded} utterances are in Parquet, Arrow or tar files or at URLs, and in no clean manifest")
    if options.html:
        from finetune.data.html_report import write_html_report

        write_html_report(Path(options.html), arguments.name_run(Path(options.recipe)), report, preparation.splits)
