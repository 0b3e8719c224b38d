"""Insert scores into an existing card: only its `model-index` changes."""

import io
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import eval_results_to_model_index
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from finetune.errors import UserError
from finetune.evaluation.report import read_scores
from finetune.publishing.connection import WAITS, requests_to_hub
from finetune.publishing.leaks import find_leaks_in
from finetune.publishing.model_files import CARD
from finetune.publishing.model_index import build_results, name_data
from finetune.publishing.record import describe_scores
from finetune.publishing.upload import Destination

_LOGGER = logging.getLogger(__name__)

KEY = "model-index"
# Attempts to commit while others push to the same branch.
_ROUNDS = 5
_BROKEN = "Correct its metadata on the hub, then push again."


def push_scores(report: Path, repo_id: str, revision: str | None = None, *, waits: Sequence[float] = WAITS) -> str:
    """Insert a report's WER and CER into the card of a model on a hub, in one commit; returns the commit's URL.

    Scores of the same data, split, decoder and metric are replaced; every byte of the card outside of its `model-index`
    stays. `waits` are the seconds before each retry of a failed request.

    Raises UserError for a report that does not say what was evaluated, a card with unreadable metadata, and refusals of
    the hub.
    """
    destination = Destination(repo_id, revision)
    destination.require_names()
    scores = describe_scores(read_scores(report))
    results = build_results(scores)
    if not results:
        raise UserError(f"The report in {report} has no reference words, so there are no scores to push.")
    if leaks := find_leaks_in(yaml.safe_dump(eval_results_to_model_index("", results))):
        raise UserError(f"The scores in {report} contain private information: {', '.join(leaks)}.")
    api, name = HfApi(endpoint=constants.ENDPOINT), repo_id.rpartition("/")[2]
    message = f"WER and CER on {name_data(scores['evaluated'])}, {scores['evaluated']['split']}"
    with requests_to_hub(repo_id, waits):
        for _ in range(_ROUNDS):
            head = _find_head(api, destination)
            before = _read_card(repo_id, head)
            after = insert_results(before, results, name)
            if after == before:
                _LOGGER.info(f"the card of {repo_id} has these scores: nothing to push")
                return f"{constants.ENDPOINT}/{repo_id}/commit/{head}"
            change = CommitOperationAdd(CARD, after.encode())
            try:
                done = api.create_commit(
                    repo_id, [change], commit_message=message, revision=destination.branch, parent_commit=head
                )
            except HfHubHTTPError as error:
                if error.response.status_code not in (409, 412):
                    raise
                _LOGGER.info(f"{destination.branch} of {repo_id} has a new commit: reading it again")
                continue
            return f"{constants.ENDPOINT}/{repo_id}/commit/{done.oid}"
    raise UserError(f"Others push to {repo_id} all the time: push again when they are done.")


def _find_head(api: HfApi, destination: Destination) -> str:
    """The head of the branch."""
    heads = {each.name: each.target_commit for each in api.list_repo_refs(destination.repo_id).branches}
    if destination.branch not in heads:
        known = ", ".join(sorted(heads)) or "none"
        raise UserError(f"{destination.repo_id} has no branch {destination.branch}; it has {known}.")
    return heads[destination.branch]


def _read_card(repo_id: str, commit: str) -> str:
    """The card in a commit, with its line breaks; "" if there is none."""
    answer = get_session().get(f"{constants.ENDPOINT}/{repo_id}/resolve/{commit}/{CARD}", headers=build_hf_headers())
    if answer.status_code == 404:
        return ""
    hf_raise_for_status(answer)
    try:
        return answer.content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"The card of {repo_id} is not in UTF-8: correct it on the hub, then push again.") from error


def insert_results(card: str, results: Sequence[EvalResult], name: str) -> str:
    """A card with results in its `model-index`; `name` is the model's name if the card has none.

    Only the lines of the `model-index` are replaced. A YAML round trip (ruamel.yaml) would change others: spaces,
    indentation, null values, escapes, line breaks. Raises UserError for unreadable metadata, or if other values would
    change.
    """
    new = eval_results_to_model_index(name, list(results))
    mark = card[: card.startswith("\ufeff")]  # The hub ignores a byte order mark.
    match = REGEX_YAML_BLOCK.search(card[len(mark) :])
    newline = "\r\n" if "\r\n" in card else "\n"
    if match is None:
        lines = ["---", *_serialize(_represent({KEY: new})).splitlines(), "---", *([""] if card else []), ""]
        return mark + newline.join(lines) + card[len(mark) :]
    content = match[2]
    changed = _change_metadata(content, new, newline)
    _require_others_unchanged(content, changed)
    start = len(mark) + match.start(2)
    return card[:start] + changed + card[start + len(content) :]


def _change_metadata(content: str, new: list[dict[str, Any]], newline: str) -> str:
    """The YAML of a card's metadata with the entries of a new model-index merged into its own."""
    root = _compose(content)
    if root is None:
        return content + newline + _lay_out(_represent({KEY: new}), 0, newline)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise UserError(f"The card's metadata must be keys on separate lines. {_BROKEN}")
    column = root.start_mark.column
    found = [pair for pair in root.value if pair[0].value == KEY]
    if not found:
        return content + newline + " " * column + _lay_out(_represent({KEY: new}), column, newline)
    key, value = found[0]
    end = len(content[: _find_end(value)].rstrip())
    if isinstance(value, yaml.SequenceNode) and value.value:
        if not _merge(value.value[0], new[0]["results"]):
            return content
        replaced: yaml.Node = yaml.MappingNode(root.tag, [(key, value)])
    else:
        replaced = _represent({KEY: new})
    return content[: key.start_mark.index] + _lay_out(replaced, column, newline) + content[end:]


def _merge(model: yaml.Node, results: Sequence[dict[str, Any]]) -> bool:
    """Merge results into those of a model, replacing older ones; returns whether anything changed."""
    old = _get(model, "results")
    if not isinstance(model, yaml.MappingNode) or not isinstance(old, yaml.SequenceNode | None):
        raise UserError(f"The card's {KEY} is not a list of models with their results. {_BROKEN}")
    if old is None:
        old = yaml.SequenceNode("tag:yaml.org,2002:seq", [], flow_style=False)
        model.value.append((_represent("results"), old))
    changed = False
    for result in results:
        known = [_plain(entry) for entry in old.value]
        if all(any(_has(entry, result, metric) for entry in known) for metric in result["metrics"]):
            continue
        changed = True
        place = len(old.value)
        for number in reversed(range(len(old.value))):
            if _remove_older(old.value[number], result):
                del old.value[number]
                place = number
        old.value.insert(min(place, len(old.value)), _represent(result))
    return changed


def _remove_older(entry: yaml.Node, result: dict[str, Any]) -> bool:
    """Remove the metrics from an entry that the result replaces; returns whether none is left."""
    metrics = _get(entry, "metrics")
    if not isinstance(metrics, yaml.SequenceNode) or not _is_same_set(_plain(entry), result):
        return False
    new = {_identify(metric) for metric in result["metrics"]}
    kept = [metric for metric in metrics.value if _identify(_plain(metric)) not in new]
    emptied = len(kept) < len(metrics.value) and not kept
    metrics.value[:] = kept
    return emptied


def _has(entry: Any, result: dict[str, Any], metric: dict[str, Any]) -> bool:
    return _is_same_set(entry, result) and metric in entry.get("metrics", ())


def _is_same_set(entry: Any, result: dict[str, Any]) -> bool:
    """Whether both have the same task, data and split; an unknown revision equals any."""
    try:
        data, wanted = entry["dataset"], result["dataset"]
        revisions = {data.get("revision"), wanted.get("revision")} - {None}
        same = all(data.get(key) == wanted.get(key) for key in ("type", "config", "split"))
        return bool(entry["task"]["type"] == result["task"]["type"] and same and len(revisions) < 2)
    except (TypeError, KeyError, AttributeError):
        return False


def _identify(metric: Any) -> tuple[str, ...]:
    """The identity of a metric: its type and decoder. A metric without a decoder equals no other."""
    try:
        decoder = metric["args"]["decoder"]
        return metric["type"], decoder["name"], str(decoder.get("language_model"))
    except (TypeError, KeyError, AttributeError):
        return ("unknown", str(metric))


def _compose(content: str) -> yaml.Node | None:
    try:
        return yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark else ""
        raise UserError(f"The card's metadata is not valid YAML{line}. {_BROKEN}") from error


def _get(node: yaml.Node, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == name), None)


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(_serialize(node))


def _represent(value: Any) -> yaml.Node:
    return yaml.SafeDumper(io.StringIO(), default_flow_style=False, sort_keys=False).represent_data(value)


def _serialize(node: yaml.Node) -> str:
    # As `huggingface_hub` writes a card: without line wrapping and escapes.
    return yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=float("inf"))


def _lay_out(node: yaml.Node, column: int, newline: str) -> str:
    """A key and its value as lines indented to a column, without the last line break."""
    return newline.join(textwrap.indent(_serialize(node), " " * column).strip().splitlines())


def _find_end(node: yaml.Node) -> int:
    """The end of a value; PyYAML includes what follows a block, such as a comment, in the block."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _find_end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _require_others_unchanged(before: str, after: str) -> None:
    try:
        old, new = (yaml.safe_load(text) or {} for text in (before, after))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"The card's metadata can't be read: {str(error).splitlines()[0]}. {_BROKEN}") from error
    if {**old, KEY: None} != {**new, KEY: None}:
        raise UserError(f"The card's metadata can't be changed without changing more than the {KEY}. {_BROKEN}")
