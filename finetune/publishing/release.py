"""What every model goes through on its way to a hub: a look at the hub, the parity gate, the search for leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finetune.errors import UserError
from finetune.publishing.leaks import find_leaks
from finetune.publishing.parity import Spoken, require_parity
from finetune.publishing.upload import Push
from finetune.resources.addresses import public_address


def release(push: Push, recognise: Callable[[], Sequence[Spoken]], message: str, dry_run: bool = False) -> list[str]:
    """Push a model that nothing speaks against, and say where it is; a dry run says what would be done.

    `recognise` gives the utterances to compare. Raises UserError for whatever keeps the model from being published.
    """
    plan = push.check()  # What takes a second comes first.
    _require_no_leaks(push)
    require_parity(push.folder, recognise())
    told = [*plan, "nothing was sent"] if dry_run else [f"on the hub: {push.send(message)}"]
    return [public_address(line) for line in told]


def _require_no_leaks(push: Push) -> None:
    names = {file.name for file in push.files}
    found = [leak for leak in find_leaks(push.folder) if any(leak.startswith(f"{name}, ") for name in names)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"{push.folder} would give away what should stay here: {found[0]}{more}. Take it out, and push again."
        )
