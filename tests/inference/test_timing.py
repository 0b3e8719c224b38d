from finetune.decoding import hypotheses
from finetune.inference.timing import place_words


def make_word(text: str, *frames: tuple[int, int]) -> hypotheses.Word:
    characters = tuple(
        hypotheses.Character(letter, start, end, 0.9) for letter, (start, end) in zip(text, frames, strict=True)
    )
    return hypotheses.Word(text, frames[0][0], frames[-1][1], 0.0, 0.0, 0.9, characters)


def test_times_are_in_order_and_within_the_audio() -> None:
    words = place_words([make_word("ab", (5, 7), (9, 10)), make_word("c", (48, 52))], 0.02, 1.0, channel=2)
    times = [time for word in words for letter in word.characters for time in (letter.start, letter.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1.0
    assert [(word.text, word.channel) for word in words] == [("ab", 2), ("c", 2)]
    for word in words:
        assert (word.start, word.end) == (word.characters[0].start, word.characters[-1].end)
