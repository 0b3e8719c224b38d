"""The benchmark of segmentation: a talk's faults are known, and what is kept is judged by them."""

import numpy as np
from bench_segmentation import Source, Talk, Word, interval, join, judge

from finetune.inference.segmentation import Passage


def test_a_talk_knows_its_faults() -> None:
    rng = np.random.default_rng(0)
    sources = [Source(np.ones(16000, np.float32), f"one two w{n}", "ann", 0.2, 0.8) for n in range(200)]
    talk = join(sources, sources, rng)
    kinds = {word.kind for word in talk.words}
    assert kinds == {"right", "missing", "changed", "slip"}
    assert {kind for _, _, kind in talk.unwritten} == {"inserted", "changed"}
    assert any(word.lost_before == "inserted" for word in talk.words)
    assert 0.5 < sum(word.kind == "right" for word in talk.words) / len(talk.words) < 0.75
    assert 200 * 0.85 < len(talk.samples) / 16000 / 1.75 < 200


def test_kept_utterances_are_judged() -> None:
    right = [Word(word, "right", span=(1.0, 2.0)) for word in "abc"]
    lost = Word("d", "right", lost_before="inserted", span=(4.0, 5.0))
    talk = Talk(np.empty(0, np.float32), [*right, lost, Word("e", "missing", said=False)], [(2.5, 3.5, "inserted")])
    kept = Passage(0.9, 2.1, "a b c", 1.0, "")
    rest = Passage(3.9, 5.1, "d", 1.0, "")
    missing = Passage(6.0, 6.0, "e", None, "", "not in the speech")
    assert judge(talk, [kept, rest, missing]) == ({"right": 2}, 4)
    assert judge(talk, [Passage(0.9, 5.1, "a b c d", 1.0, ""), missing]) == ({"inserted": 1}, 4)
    assert judge(talk, [kept, Passage(3.9, 5.1, "d e", 1.0, "")]) == ({"right": 1, "missing": 1}, 4)
    assert judge(talk, [Passage(7.0, 8.0, "a b c", 1.0, ""), rest, missing])[0] == {"misplaced": 1, "right": 1}
    assert interval(0, 0) == "none kept" and interval(95, 100).startswith(" 95.0 (88.8 to 97.8)")
