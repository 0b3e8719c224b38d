"""Annotation tags: finding, removing and mapping them, and refusing their utterances."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from noise import write_noise

from finetune.cli import main
from finetune.errors import TranscriptError, TransformError
from finetune.text.tags import find_parentheses, find_tags
from finetune.text.transcripts import Transform, build_normalizer, normalize


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("hello <COMMA> my <unk>friend</s>", ["<COMMA>", "<unk>", "</s>"]),
        ("[NOISE] so [background noise] it is{laugh}", ["[NOISE]", "[background noise]", "{laugh}"]),
        ("(laughs) yes (the music industry) (Inaudible)", ["(laughs)", "(Inaudible)"]),
        ("ignore_time_segment_in_scoring", ["ignore_time_segment_in_scoring"]),
        ("a inter_segment_gap %hesitation ++GARBAGE++", ["inter_segment_gap", "%hesitation", "++GARBAGE++"]),
        ("＜sil＞ ［笑］", ["＜sil＞", "［笑］"]),
        ("the (former) president; colour(s); [t]he behavio[u]r", []),
        ("a < b and b > c, 100 %sure? 50 % x", ["%sure"]),
        ("<" + "long " * 20 + ">", []),
        ("() [] <> a_b", []),
    ],
)
def test_tags_are_found_and_words_are_not_tags(text: str, tags: list[str]) -> None:
    assert list(find_tags(text)) == tags


def test_words_in_parentheses_are_found_separately() -> None:
    assert list(find_parentheses("the (former) president (laughs), colour(s)")) == ["(former)"]


@pytest.mark.parametrize(
    ("steps", "normalized"),
    [
        (["remove_tags", "english"], "well yes the former one"),
        ([{"remove_tags": ["<comma>", "()"]}, "english"], "well noise yes the one"),
        ([{"map_tags": {"<COMMA>": ",", "[noise]": "um"}}, "nfc"], "Well , um yes the (former) one (laughs)"),
        (["drop_tagged", "english"], "well yes the former one"),
    ],
)
def test_transforms_remove_or_map_tags(steps: list[Transform], normalized: str) -> None:
    assert normalize("Well<COMMA> [NOISE] yes the (former) one (laughs)", steps) == normalized


def test_a_transform_refuses_transcripts_with_tags_and_changes_no_others() -> None:
    refuse = build_normalizer([{"drop_tagged": ["<unk>", "xxx"]}, "english"], refuse=True)
    assert refuse("Maxxxx [noise]") == "maxxxx noise"
    for text, tag in (("a <UNK> b", "<UNK>"), ("XXX here", "XXX")):
        with pytest.raises(TranscriptError, match=f"^annotation tag: {tag}$"):
            refuse(text)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["english", "remove_tags"], "remove_tags: the transforms before it leave no brackets; put it first"),
        ([{"keep": "abc"}, "drop_tagged"], "put it first"),
        ([{"remove_tags": []}], "expected a list of tags"),
        ([{"drop_tagged": "<unk>"}], "expected a list of tags"),
        ([{"map_tags": {}}], "expected a text for each tag"),
        ([{"map_tags": {"<a>": 1}}], "expected a text for each tag"),
        (["map_tags"], "expected an argument"),
    ],
)
def test_transforms_without_effect_are_named(steps: list[Transform], words: str) -> None:
    with pytest.raises(TransformError, match=words):
        build_normalizer(steps)


def test_check_names_tags_and_the_transform_and_dropped_rows_are_listed(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["one two <unk>", "two three <unk> [NOISE]", "three (former) one", "one three", "two one"]
    write_noise(tmp_path / "corpus", texts)
    recipe = write_recipe(tmp_path, data={"root": "corpus"})
    assert main(["check", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "2 utterances of train contain annotation tags (<unk> × 2, [NOISE] × 1), which become words" in said
    assert "the transform remove_tags removes them" in said
    assert "1 utterances of train contain parentheses ((former) × 1)" in said
    steps = 'text.normalization=["remove_tags", {"remove_tags": ["()"]}, "english"]'
    assert main(["check", str(recipe), steps]) == 0
    said = capsys.readouterr().out
    assert "contain annotation tags" not in said and "parentheses" not in said and "left out" not in said
    steps = 'text.normalization=["drop_tagged", "english"]'
    assert main(["check", str(recipe), steps, "--json", str(tmp_path / "c.json")]) == 0
    assert "left out of train: 2 × annotation tag" in capsys.readouterr().out
    rejected = json.loads((tmp_path / "c.json").read_text())["rejected"]
    assert [(row["split"], row["row"], row["detail"]) for row in rejected] == [
        (split, row, "<unk>") for split in ("train", "validation") for row in (0, 1)
    ]
