"""A model card: metadata the hub reads, and an example that runs as it stands."""

import json
import re

import numpy
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from finetune.evaluation.scores import score
from finetune.publishing.card import write_card

TEST_SCORES = score(["a b c d", "x"], ["a b c d", "y z"], audio_seconds=90.0)


def write(folder, **changes):
    arguments = {
        "title": "wav2vec2 reads letters",
        "base_model": "facebook/wav2vec2-base",
        "language": "no",
        "license": "apache-2.0",
        "datasets": ["openslr/librispeech_asr", str(folder / "secret" / "letters")],
        "scores": {"letters test": TEST_SCORES},
        "normalization": ["lowercase", "no punctuation"],
        "training_command": "finetune train recipes/letters/recipe.yaml",
        "recipe_yaml": f"data:\n  train: {folder}/secret/letters/train.tsv\n",
    }
    write_card(folder / "README.md", **(arguments | changes))
    return ModelCard.load(folder / "README.md")


def test_metadata_is_what_the_hub_reads(tmp_path):
    card = write(tmp_path)
    data = card.data
    assert (data.pipeline_tag, data.library_name) == ("automatic-speech-recognition", "transformers")
    assert (data.base_model, data.license, data.language) == ("facebook/wav2vec2-base", "apache-2.0", "no")
    assert data.datasets == ["openslr/librispeech_asr"]
    assert {"automatic-speech-recognition", "wav2vec2", "ctc"} <= set(data.tags)
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {"wer": 0.4, "cer": 0.375}
    assert (results["wer"].dataset_name, results["wer"].dataset_type) == ("letters test", "letters-test")
    assert data.model_name == "wav2vec2 reads letters"


def test_people_read_counts_and_how_they_came_about(tmp_path):
    text = write(tmp_path).text
    assert "| letters test | 40.0 % | 37.5 % | 2 | 1.5 | 5 | 1 | 0 | 1 |" in text
    assert "greedy CTC" in text
    assert "lowercase, no punctuation" in text
    assert "`facebook/wav2vec2-base`, fine-tuned with CTC on `openslr/librispeech_asr`, `letters`." in text
    assert "finetune train recipes/letters/recipe.yaml" in text


def test_no_absolute_path_gets_out(tmp_path):
    secret = tmp_path / "secret"
    write(
        tmp_path,
        title=str(secret / "run 1"),
        base_model=str(secret / "base"),
        scores={str(secret / "test"): TEST_SCORES},
        training_command=f"finetune train {secret}/a.yaml --set data.train={secret}/train",
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "\nbase_model" not in text, "a folder's name alone would point at a stranger's model on the hub"
    assert "# run 1\n" in text
    assert "It is `base`" in text
    assert "finetune train a.yaml --set data.train=train\n" in text
    assert '  train: "train.tsv"\n' in text


def test_a_card_without_scores_says_so(tmp_path):
    card = write(tmp_path, scores={}, base_model=None, language=None, license=None, datasets=[], normalization=[])
    assert "Not evaluated yet." in card.text
    assert "model-index" not in card.content
    assert card.data.license is None


def test_a_set_without_words_is_not_reported_to_the_hub(tmp_path):
    card = write(tmp_path, scores={"silence": score([""], ["a"])})
    assert "model-index" not in card.content
    assert "| silence | unknown | unknown | 1 |" in card.text


@pytest.mark.parametrize("channels", [1, 2])
def test_the_example_runs(tmp_path, monkeypatch, capsys, channels):
    (tmp_path / "vocab.json").write_text(json.dumps({"[PAD]": 0, "|": 1, "a": 2, "b": 3, "[UNK]": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), pad_token="[PAD]", unk_token="[UNK]", bos_token=None, eos_token=None
    )
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(tmp_path)
    config = Wav2Vec2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data = torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0])  # It says "b" and nothing else.
    model.save_pretrained(tmp_path)
    samples = numpy.random.default_rng(0).standard_normal((3200, channels)) / 10
    soundfile.write(tmp_path / "speech.wav", samples, 16000)
    example = re.search(r"```python\n(.*?)```", write(tmp_path).text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    exec(example, {})

    assert capsys.readouterr().out == "b\n"
