"""The average of two models, and the choice of the candidate's share."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import UserError
from finetune.evaluation.results import Result
from finetune.run.averaging import ShareScores, average_weights, choose_share, score_shares, write_average


def test_an_average_is_between_the_two_and_its_ends_are_exact():
    before = {"a": torch.tensor([0.1, 1.0]), "steps": torch.tensor(3)}
    after = {"a": torch.tensor([0.3, -1.0]), "steps": torch.tensor(7)}
    assert torch.allclose(average_weights(before, after, 0.25)["a"], torch.tensor([0.15, 0.5]))
    assert torch.equal(average_weights(before, after, 1.0)["a"], after["a"])
    assert torch.equal(average_weights(before, after, 0.0)["a"], before["a"])
    assert average_weights(before, after, 0.25)["steps"] == 7


def test_an_average_is_in_float32():
    half = {"a": torch.tensor([1.0], dtype=torch.bfloat16)}
    averaged = average_weights(half, {"a": torch.tensor([1.001])}, 0.5)["a"]
    assert averaged.dtype == torch.float32
    assert averaged.item() == pytest.approx(1.0005)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [({"b": torch.zeros(2)}, "only one of them has a"), ({"a": torch.zeros(3)}, r"found \(2,\) and \(3,\)")],
)
def test_models_of_other_weights_are_refused(other, sentence):
    with pytest.raises(UserError, match=sentence):
        average_weights({"a": torch.zeros(2)}, other, 0.5)


@pytest.mark.long
def test_models_of_other_alphabets_are_refused(champion, tmp_path):
    other = shutil.copytree(champion, tmp_path / "other")
    vocabulary = (other / "vocab.json").read_text().replace('"b"', '"x"')
    (other / "vocab.json").write_text(vocabulary)
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match="different alphabets"):
        write_average(champion, other, 0.5, tmp_path / "new")


@pytest.mark.long
def test_an_average_is_written_with_the_candidates_other_files(champion, tmp_path):
    candidate = shutil.copytree(champion, tmp_path / "candidate")
    weights = load_file(champion / "model.safetensors")
    moved = {name: tensor + 1 for name, tensor in weights.items()}
    save_file(moved, candidate / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "new").mkdir()
    write_average(champion, candidate, 0.5, tmp_path / "new")
    assert {each.name for each in (tmp_path / "new").iterdir()} == {each.name for each in candidate.iterdir()}
    averaged = load_file(tmp_path / "new" / "model.safetensors")
    assert all(torch.allclose(averaged[name], weights[name] + 0.5, atol=1e-6) for name in weights)


def test_the_best_share_on_corrections_that_loses_nothing_is_chosen_and_of_equal_ones_the_smallest():
    champion = ShareScores(0.0, 0.10, 0.9, 0.0)
    scored = [champion, ShareScores(0.25, 0.10, 0.5, 0.0), ShareScores(0.5, 0.09, 0.3, 0.0)]
    assert choose_share([*scored, ShareScores(1.0, 0.08, 0.1, 0.004)]) == 0.5
    assert choose_share([*scored, ShareScores(1.0, 0.08, 0.1, -0.01)]) == 1.0
    equal = [champion, *(ShareScores(share, 0.1, 0.3, 0.0) for share in (1.0, 0.5, 0.75))]
    assert choose_share(equal) == 0.5
    unsure = [
        champion,
        ShareScores(0.25, 0.09, 0.5, 0.2),
        ShareScores(0.5, 0.1, 0.3, 0.2),
        ShareScores(1.0, 0.11, 0.1, 0.2),
    ]
    assert choose_share(unsure) == 0.5
    none = [champion, ShareScores(0.5, 0.3, 0.4, 0.3), ShareScores(1.0, 0.4, 0.1, 0.2)]
    assert choose_share(none) == 0.5


def make_results(hypotheses: list[str]) -> list[Result]:
    """Results of one speaker each, whose references are all "a b"."""
    return [
        Result(str(number), "a b", each, "", 1.0, speaker=str(number), confidence=1.0, blank_ratio=0.5)
        for number, each in enumerate(hypotheses)
    ]


def test_the_rise_on_old_data_is_the_upper_end_of_its_interval():
    heard = {
        0.0: make_results(["a b"] * 8 + ["a c"] * 8),
        0.5: make_results(["a b"] * 8 + ["a c"] * 8),
        1.0: make_results(["a c"] * 8 + ["a b"] * 8),
    }
    same, other = score_shares([1.0, 0.5], lambda share: (heard[share], heard[0.0]))[1:]
    assert (same.share, same.old_wer, same.old_rise) == (0.5, 0.25, 0.0)
    assert (other.share, other.old_wer, other.snapshot_wer) == (1.0, 0.25, 0.25)
    assert 0.1 < other.old_rise < 0.5  # As many errors, in other utterances.


def test_validation_without_words_is_refused():
    empty = [replace(each, reference="") for each in make_results(["a b"])]
    with pytest.raises(UserError, match="no words"):
        score_shares([1.0], lambda _: (make_results(["a b"]), empty))
    with pytest.raises(UserError, match="Every reference is empty"):
        score_shares([1.0], lambda _: (empty, make_results(["a b"])))
