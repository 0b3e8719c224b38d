"""What a user can mend."""

# What is said of a model whose weights PyTorch's restricted unpickler refuses.
PICKLED = "has a pytorch_model.bin that could run code, so it is not read: take a model whose weights are safetensors."


class UserError(Exception):
    """Something the user can mend; the command line prints it as one sentence and exits with code 2.

    The message says what was found, what was expected and what to do.
    """


class Note(UserWarning):
    """What was mended or chosen in what the user gave; the command line prints it as a line that begins with `note:`.

    The message says what was found and how it was read.
    """


class StepError(ValueError):
    """A step of text or audio that is unknown or has an argument it can't use: what was found and expected."""


class Interrupted(Exception):
    """Training was asked to stop, and did so after a step (its argument) and a checkpoint."""
