"""Models at symbolic links: when a link is switched to another folder, the service loads the model there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError
from finetune.serving.models import Model

_LOGGER = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0


class LinkWatch:
    """Compares the folders that models' paths lead to with those of the last look."""

    def __init__(self, places: Mapping[str, str], loaded: Mapping[str, Path], reload: Callable[[str], object]) -> None:
        """`places` are the paths of models by name, `loaded` the folders that were loaded from there.

        `reload` loads one again.
        """
        self._places, self._reload = dict(places), reload
        self._targets = {name: os.path.realpath(loaded[name]) for name in places}

    def look(self) -> None:
        """Reload the models whose target is another one; one that can't be loaded is tried and logged once."""
        for name, place in self._places.items():
            target = os.path.realpath(place)
            if target == self._targets[name]:
                continue
            self._targets[name] = target
            try:
                self._reload(name)
            except UserError as error:
                _LOGGER.error(f"{place} leads to {target} now, but the model {name} stays as it was: {error}")
            except Exception:
                _LOGGER.exception(f"{place} leads to {target} now, but the model {name} stays as it was")
            else:
                _LOGGER.info(f"the model {name} is that of {target} now")

    def run(self, stopped: threading.Event) -> None:
        """Look every second until `stopped` is set."""
        while not stopped.wait(_LOOK_SECONDS):
            self.look()


@contextmanager
def watch_links(models: Sequence[Model], reload: Callable[[str], object]) -> Iterator[None]:
    """Watch the paths of models in a thread; those of a hub lead nowhere here."""
    places = {model.name: model.source for model in models if Path(model.source).exists()}
    watch = LinkWatch(places, {model.name: model.folder for model in models}, reload)
    stopped = threading.Event()
    thread = threading.Thread(target=watch.run, args=(stopped,), name="model-links", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()  # It may be loading a model: its end is not waited for.
