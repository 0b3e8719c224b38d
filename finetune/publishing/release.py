"""The steps before every push of a model: check the hub, search for private information, pass the parity gate."""

from collections.abc import Callable, Sequence

from finetune.errors import UserError
from finetune.publishing.leaks import find_leaks
from finetune.publishing.parity import Spoken, require_parity
from finetune.publishing.upload import Push
from finetune.resources.addresses import public_address


def release(push: Push, recognise: Callable[[], Sequence[Spoken]], message: str, dry_run: bool = False) -> list[str]:
    """Push a model after all checks, and return its URL as a line; a dry run returns what would be sent.

    `recognise` returns the utterances to compare. Raises UserError if the model cannot be published.
    """
    plan = push.check()  # The fastest check comes first.
    names = {file.name for file in push.files}
    if found := [leak for leak in find_leaks(push.folder) if any(leak.startswith(f"{name}, ") for name in names)]:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{push.folder} contains private information: {found[0]}{more}. Remove it, and push again.")
    require_parity(push.folder, recognise())
    lines = [*plan, "nothing was sent"] if dry_run else [f"on the hub: {push.send(message)}"]
    return [public_address(line) for line in lines]
