"""Revisions of a recipe's repositories on a hub: find their commits, and pin the recipe to them."""

from collections.abc import Mapping
from typing import Any

from finetune.recipe.load import Recipe
from finetune.resources.repositories import find_commit, is_on_hub


def find_commits(recipe: Recipe) -> dict[str, str]:
    """The current commit of each repository of a recipe on a hub; for the keys see `pin_revisions`.

    Raises UserError for a repository that cannot be read.
    """
    model, sources = recipe.model, recipe.data.all_sources
    commits = {}
    if model.base and is_on_hub(model.base):
        commits[_key(model.base, model.revision)] = find_commit(model.base, model.revision)
    for source in sources:
        if is_on_hub(source.root):
            key = _key(f"datasets/{source.root}", source.revision)
            commits[key] = find_commit(source.root, source.revision, "dataset")
    return commits


def pin_revisions(recipe: Recipe, commits: Mapping[str, str]) -> Recipe:
    """The recipe with the commits as its revisions, so that it trains on the same files when a branch moves.

    The keys of `commits` are USER/NAME for a model, datasets/USER/NAME for data, and @REVISION where there is one.
    """

    def choose(name: str, revision: str | None) -> dict[str, Any]:
        return {"revision": commits.get(_key(name, revision), revision)}

    model, data = recipe.model, recipe.data
    sources = [s.model_copy(update=choose(f"datasets/{s.root}", s.revision)) for s in data.sources]
    pinned = data.model_copy(update={"sources": tuple(sources), **choose(f"datasets/{data.root}", data.revision)})
    base = model.model_copy(update=choose(str(model.base), model.revision))
    return recipe.model_copy(update={"model": base, "data": pinned})


def _key(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name
