"""Submodules of a model replaced by instances of other classes."""

from typing import Any

from torch import nn


def replace_submodule(model: nn.Module, name: str, kind: type[nn.Module], **attributes: Any) -> None:
    """Put a `kind` in the place of a submodule, with its parameters, submodules, hooks and settings, and `attributes`.

    No parameter is copied, and none gets another name: state dicts, optimizers and saved files stay what they are.
    """
    old = model.get_submodule(name)
    new = kind.__new__(kind)  # Without `__init__`, which would draw new weights.
    new.__dict__.update(vars(old) | attributes)
    model.set_submodule(name, new)
