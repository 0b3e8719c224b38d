"""What a validation result says about a run, in words."""


def describe(wer: float, blank_ratio: float) -> str | None:
    """A sentence for the states of CTC training that look like failure, or None when there is nothing to say.

    CTC first learns to say nothing: nearly every frame is blank and WER stays at 1 until, quite suddenly, letters
    appear (the "peaky" behaviour of Zeyer et al. 2021, "Why does CTC result in peaky behavior?").
    """
    if blank_ratio > 0.98 and wer > 0.95:
        return (
            "the model still says almost nothing, as CTC does at first: usual for hundreds of steps, a failure only if "
            "it lasts past a third of the run (then raise training.learning_rate or training.max_steps)"
        )
    if wer > 1.0 and blank_ratio < 0.2:
        return "the model spells more words than were said: usual in the first steps"
    return None
