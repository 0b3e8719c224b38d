"""The base and the quickstart that stand in this repository."""

import json
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.recipe.load import load_recipe
from finetune.run.experiment import run
from finetune.text.transcripts import load_normalization

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"


def test_base_is_an_ordinary_wav2vec2_with_a_head_for_letters() -> None:
    from transformers import AutoModel, AutoProcessor

    config = json.loads((QUICKSTART / "base" / "config.json").read_text())
    assert config["architectures"] == ["Wav2Vec2ForCTC"]
    letters = AutoProcessor.from_pretrained(QUICKSTART / "base").tokenizer.get_vocab()
    assert set("abcdefghijklmnopqrstuvwxyz'|") == {token for token in letters if len(token) == 1}
    assert (QUICKSTART / "base" / "model.safetensors").stat().st_size <= 25e6
    assert load_normalization(QUICKSTART / "base")  # `finetune lm build --model` reads it.
    model = AutoModel.from_pretrained(QUICKSTART / "base")
    # 20 ms a frame, as the published models; a receptive field of five of Whisper's windows, 10 ms apart.
    assert int(model._get_feat_extract_output_lengths(1040 + 320)) == 2
    assert int(model._get_feat_extract_output_lengths(1039)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "bounds", "formant_bounds"),
    [
        ([], (0.0, 0.10), (0.0, 0.20)),
        (["model.random_weights=true", "model.freeze_feature_encoder=false"], (0.60, 1.1), (0.60, 1.1)),
    ],
    ids=["pretrained", "random"],
)
def test_quickstart_learns_because_of_its_base(
    overrides: list[str], bounds: tuple[float, float], formant_bounds: tuple[float, float], tmp_path: Path
) -> None:
    scores = run(load_recipe(QUICKSTART / "recipe.yaml", overrides), tmp_path / "run").scores
    assert scores.wer is not None
    assert bounds[0] <= scores.wer <= bounds[1]
    assert scores.utterances == 100
    formant = [
        "--data",
        str(QUICKSTART / "corpus"),
        "--split",
        "test_formant",
        "--json",
        str(tmp_path / "formant.json"),
    ]
    assert main(["evaluate", str(tmp_path / "run" / "model"), *formant]) == 0
    assert formant_bounds[0] <= json.loads((tmp_path / "formant.json").read_text())["wer"] <= formant_bounds[1]
