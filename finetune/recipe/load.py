"""Load a recipe: a YAML file with differences from the defaults, overrides, and all problems reported at once."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from finetune.errors import UserError, did_you_mean
from finetune.files import expand_home
from finetune.recipe.pretraining_section import PretrainingSection
from finetune.recipe.schema import (
    AugmentationSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    PublishingSection,
    Section,
    TextSection,
)
from finetune.recipe.training_section import TrainingSection
from finetune.resources.addresses import public_address
from finetune.resources.limits import MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_VALUES, read_at_most
from finetune.resources.repositories import is_hub_name, split_revision
from finetune.resources.storage import is_url


class Recipe(Section):
    """All settings of a run; `provenance` is written into the copy of a run, and has no effect."""

    model: ModelSection
    data: DataSection
    text: TextSection = TextSection()
    augmentation: AugmentationSection = AugmentationSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    pretraining: PretrainingSection | None = None
    publishing: PublishingSection = PublishingSection()
    provenance: dict[str, Any] | None = None

    def to_yaml(self) -> str:
        """All values, with defaults, as YAML for `load_recipe`; addresses are those of `without_secrets`."""
        values = self.without_secrets().model_dump(mode="json", exclude_none=True)
        return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

    def without_secrets(self) -> "Recipe":
        """The recipe as it may be written to files: addresses of data without user, password and query."""

        def hide(section: Any) -> Any:
            return section.model_copy(update={"root": section.root and public_address(section.root)})

        sources = tuple(hide(source) for source in self.data.sources)
        return self.model_copy(update={"data": hide(self.data).model_copy(update={"sources": sources})})


# Keys that name a local path, or a repository on a hub where there is no such path; and keys that name a folder.
_PLACES = (("model", "base"), ("data", "root"))
_FOLDERS = (("augmentation", "noise_folder"), ("augmentation", "impulse_response_folder"))
# A long text counts as several values.
_VALUE_CHARACTERS = 100
# Random generators, tensors and files take whole numbers of 64 bits.
_INTEGER_LIMIT = 2**63
# How YAML spells "no value".
_NULLS = ("", "~", "null", "Null", "NULL")


def load_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with `section.key=value` overrides; raises UserError that lists every problem.

    Paths in the file are relative to the file, paths in overrides to the working directory.

    >>> from pathlib import Path
    >>> from finetune.recipe.load import load_recipe
    >>> recipe = load_recipe(Path("recipe.yaml"), ["training.learning_rate=1e-4", "data.max_seconds=10"])
    >>> recipe.training.learning_rate, recipe.data.max_seconds
    (0.0001, 10.0)
    """
    if not file.is_file():
        raise UserError(f"There is no recipe at {file}: expected a YAML file.")
    problems: list[str] = []
    try:
        with file.open("rb") as opened:
            text = read_at_most(opened, MAX_YAML_BYTES, str(file)).decode("utf-8")
        values = _read_yaml(text, str(file))
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no recipe: expected a YAML file, in UTF-8.") from error
    for section in ("model", "data"):  # The error for an empty section names its missing key.
        values.setdefault(section, {})
    _resolve_places(values, file.parent)
    for override in overrides:
        _apply_override(values, override, problems)
    unusable = dict(_list_unusable(values))
    problems += [f"{key}: {problem}" for key, problem in unusable.items()]
    told = tuple(f"{key}." for key in unusable)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        others = [each for each in error.errors() if not f"{_join(each['loc'])}.".startswith(told)]
        problems += [_describe(problem) for problem in others]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(f"{file} has {len(problems)} problem{'s' * (len(problems) > 1)}:{lines}")
    return recipe


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-5 is a number, `no` is a string, and a key may occur only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, count in Counter(str(key.value) for key, _ in node.value).items():
            if count > 1:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$", re.IGNORECASE), list("tTfF"))
_FLOAT = re.compile(r"([-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?|[-+]?\.(inf|nan))$", re.IGNORECASE)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _parse(text: str) -> Any:
    """The value of a YAML document; raises YAMLError, also for a document that grows or nests without limit."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MAX_YAML_VALUES:
            raise yaml.MarkedYAMLError(problem=f"it has more than {MAX_YAML_VALUES:,} values, anchors followed")
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.MarkedYAMLError(problem="its values nest too deep") from error
    except yaml.YAMLError:
        raise
    except ValueError as error:  # A number with more digits than Python reads, or an invalid date.
        raise yaml.MarkedYAMLError(problem=str(error)) from error
    except (LookupError, AttributeError) as error:
        raise yaml.MarkedYAMLError(problem="a value does not fit the tag before it, such as !!int") from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, int | None], depth: int = 0) -> int:
    """The number of values of a node; those of an anchor count each time that it is used."""
    if not isinstance(node, yaml.CollectionNode):
        return 1 + len(node.value) // _VALUE_CHARACTERS
    key = id(node)
    if key not in counted:
        if depth > MAX_YAML_DEPTH:
            raise yaml.MarkedYAMLError(problem="its values nest too deep", problem_mark=node.start_mark)
        counted[key] = None
        inside = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        counted[key] = 1 + sum(_count(each, counted, depth + 1) for each in inside)
    found = counted[key]
    if found is None:
        raise yaml.MarkedYAMLError(problem="an anchor stands inside of itself", problem_mark=node.start_mark)
    return found


def _read_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = _parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where} is not valid YAML{line}: {' '.join(str(getattr(error, 'problem', error)).split())}."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{where} holds a {type(values).__name__}; expected sections such as model: and data:.")
    # A section whose keys are all commented out is None in YAML.
    return {name: {} if section is None else section for name, section in values.items()}


def _apply_override(values: dict[str, Any], override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or not all(path) or len(path) < 2:
        problems.append(f"{override}: expected an override like training.max_steps=100")
        return
    value = _read_override(text)
    for name in path[:-1]:
        nested = values.get(name)
        values[name] = dict(nested) if isinstance(nested, dict) else {}
        values = values[name]
    values[path[-1]] = value
    if tuple(path) in (*_PLACES, *_FOLDERS) and value is not None:
        values[path[-1]] = _resolve_place(str(text), Path.cwd(), on_hub=tuple(path) in _PLACES)
    if path == ["data", "sources"]:
        _resolve_sources(value, Path.cwd())


def _read_override(text: str) -> Any:
    """The value of an override; what is not YAML, or has what YAML takes for a comment, is text."""
    try:
        value = _parse(text)
        ends = [token.end_mark.index for token in yaml.scan(text) if token.end_mark.index > token.start_mark.index]
    except yaml.YAMLError:
        return text
    has_comment = bool(text[max(ends, default=0) :].strip())
    return text if has_comment or (value is None and text.strip() not in _NULLS) else value


def _list_unusable(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The key of each value that no setting can have, and what is wrong with it."""
    if isinstance(value, dict | list):
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for name, each in named:
            yield from _list_unusable(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        if not _is_text(value):
            yield key, f"found {value!r}; expected text in UTF-8 without NUL characters"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield key, f"found {value}; expected a finite number"
    elif isinstance(value, int):
        if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
            yield key, f"found {value}; expected a whole number of 64 bits, below {_INTEGER_LIMIT}"
    elif value is not None:
        yield key, f"found a {type(value).__name__}; expected text, a number, true, false or a list: put text in quotes"


def _is_text(value: str) -> bool:
    """Whether all of it can stand in a file and in a path: no NUL, and no half of a character."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _resolve_places(values: dict[str, Any], folder: Path) -> None:
    for section, key in (*_PLACES, *_FOLDERS):
        place = values[section].get(key) if isinstance(values.get(section), dict) else None
        if isinstance(place, str):
            values[section][key] = _resolve_place(place, folder, on_hub=(section, key) in _PLACES)
    data = values.get("data")
    _resolve_sources(data.get("sources") if isinstance(data, dict) else None, folder)


def _resolve_sources(sources: Any, folder: Path) -> None:
    if not isinstance(sources, list):
        return
    for number, source in enumerate(sources):
        if isinstance(source, str):
            sources[number] = _resolve_place(source, folder, on_hub=True)
        elif isinstance(source, dict) and isinstance(source.get("root"), str):
            source["root"] = _resolve_place(source["root"], folder, on_hub=True)


def _resolve_place(place: str, folder: Path, on_hub: bool) -> str:
    if is_url(place) or not _is_text(place):  # `_list_unusable` tells what is no text.
        return place
    path = folder / expand_home(place)
    if path.exists() or not on_hub or not is_hub_name(split_revision(place)[0]):
        return str(path.resolve())
    return place


def _describe(problem: Any) -> str:
    """One line for a problem that pydantic found: the key, what was found, what was expected."""
    key = _join(problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in problem["loc"][:-1]:
            # A number is an index of a list, whose sections are all of one type.
            section = section if isinstance(part, int) else _section_type(section, str(part))
        names = section.model_fields if section is not None else ()
        return f"{key}: unknown key{did_you_mean(str(problem['loc'][-1]), names)} known are {', '.join(names)}"
    if problem["type"] == "missing":
        return f"{key}: missing; put it into the recipe or give {key}=… on the command line"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: found {problem['input']!r}; {message[0].lower()}{message[1:]}"


def _join(parts: Sequence[Any]) -> str:
    return ".".join(str(part) for part in parts)


def _section_type(section: Any, name: str) -> Any:
    field = section.model_fields.get(name) if section is not None else None
    types = [field.annotation, *get_args(field.annotation)] if field else []
    return next((t for t in types if isinstance(t, type) and issubclass(t, Section)), None)
