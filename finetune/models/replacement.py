"""Replacing a submodule of a model by an instance of another class."""

from typing import Any

from torch import nn


def replace_submodule(model: nn.Module, name: str, kind: type[nn.Module], **attributes: Any) -> None:
    """Replace a submodule by a `kind` with the same parameters, submodules, hooks and settings, and with `attributes`.

    Parameters are not copied and keep their names, so that state dicts, optimizers and saved files do not change.
    """
    old = model.get_submodule(name)
    new = kind.__new__(kind)  # Without `__init__`, which would draw new weights.
    new.__dict__.update(vars(old) | attributes)
    model.set_submodule(name, new)
