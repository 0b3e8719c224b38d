"""The model card: metadata for the hub, scores as in the report, and an example that runs unchanged."""

import ast
import hashlib
import json
import re

import numpy
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard, constants
from markdown_it import MarkdownIt
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from finetune.audio.preprocessing import save_preprocessing
from finetune.evaluation.analysis import analyse
from finetune.evaluation.results import Result
from finetune.publishing.card import update_card, write_card
from finetune.publishing.leaks import find_leaks
from finetune.publishing.record import describe_scores

RESULTS = [
    Result("/data/ann/1.wav", "a b c d", "a b c d", "A b c d.", 60.0, "Ann", {"accent": "Scots|Irish"}),
    Result("/data/ann/2.wav", "x", "y z", "x", 30.0, "Bo", {"accent": "none"}),
]


def scores(results=RESULTS, **evaluated):
    """The content of scores.json."""
    about = {
        "sources": [{"root": "/data/ann/letters", "configuration": None, "revision": None}],
        "split": "test",
        "normalization": ["lowercase", "no_punctuation"],
        "decoder": {"name": "greedy"},
    }
    return {"evaluated": about | evaluated, **analyse(results).to_json()}


def make_record(**changes):
    split = {
        "utterances": 300,
        "seconds": 5400.0,
        "speakers": 7,
        "longest_seconds": 12.5,
        "sampling_rates": {"16000": 290, "8000": 10},
    }
    record = {
        "title": "wav2vec2 reads *letters*",
        "languages": ["no"],
        "license": "apache-2.0",
        "intended_use": None,
        "limitations": None,
        "energy_kwh": None,
        "base": "facebook/wav2vec2-base",
        "base_on_hub": True,
        "base_revision": "0b5b8e8",
        "sources": [
            {"root": "openslr/librispeech_asr", "configuration": "clean", "revision": "71cacb", "local": False},
            {"root": "letters", "configuration": None, "revision": None, "local": True},
        ],
        "local_keys": ["data.root"],
        "data": {
            "splits": {"train": split, "test": {**split, "speakers": None, "sampling_rates": {"0": 300}}},
            "held_out": True,
            "streamed": False,
            "rejected": {"train": {"too long": 3, "silent audio": 1}},
        },
        "hardware": {"device": "one NVIDIA H100", "processes": 2, "training_seconds": 5000.0},
        "adapter_alone": False,
        "characters": ["a", "*"],
        "sampling_rate": 16000,
        "group_norm": False,
        "versions": {"finetune": "0.1.0", "commit": "03d460d", "python": "3.11.7", "packages": {"torch": "2.12.1"}},
    }
    results = changes.pop("results", [scores()])
    return record | changes | {"results": [describe_scores(each) for each in results]}


RECIPE = {
    "model": {"base": "facebook/wav2vec2-base", "dropout": 0.1},
    "training": {"learning_rate": 3e-4, "log_steps": 20, "compile": False},
    "augmentation": {"speed": [0.9, 1.1], "reverb_probability": 0.5},
}


def write(folder, **changes):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write_card(folder, make_record(**changes))
    return ModelCard.load(folder / "README.md")


def read_tables(text):
    """Each rendered table of a card, as rows of cells."""
    tables = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 3:
            tables[-1][-1].append("".join(child.content for child in token.children))
    return tables


def test_metadata_for_the_hub(tmp_path):
    data = write(tmp_path).data
    assert (data.pipeline_tag, data.library_name) == ("automatic-speech-recognition", "transformers")
    assert (data.base_model, data.base_model_relation) == ("facebook/wav2vec2-base", "finetune")
    assert (data.license, data.language, data.model_name) == ("apache-2.0", "no", "wav2vec2 reads *letters*")
    assert data.datasets == ["openslr/librispeech_asr"], "a folder's name would be a stranger's data set"
    assert {"automatic-speech-recognition", "wav2vec2", "ctc"} <= set(data.tags)


def test_the_card_of_a_baseline_says_what_to_import(tmp_path):
    text = write(tmp_path, base=None, base_on_hub=False, model_type="finetune_lstm").text
    assert "a bidirectional LSTM over log-mel energies or MFCC, trained with CTC from random weights on" in text
    assert "`import finetune.models.baselines` registers it" in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.startswith("import finetune.models.baselines\nimport soundfile\n") and ast.parse(code)
    assert "import finetune" not in write(tmp_path, base=None, model_type="wav2vec2").text


def test_the_hub_accepts_the_metadata(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    write(tmp_path, license="Ours", languages=["de", "English"]).validate()
    write(tmp_path, results=[], license=None, base_on_hub=False).validate()
    with pytest.raises(ValueError, match="license"):  # So it was looked at.
        ModelCard("---\nlicense: ours\n---\n").validate()


def test_model_index_has_what_the_hub_shows(tmp_path):
    results = {result.metric_type: result for result in write(tmp_path).data.eval_results}
    assert {name: (result.metric_name, result.metric_value) for name, result in results.items()} == {
        "wer": ("Test WER", 40.0),
        "cer": ("Test CER", 37.5),
    }
    wer = results["wer"]
    assert (wer.task_type, wer.dataset_name, wer.dataset_type) == (wer.task_type, "letters", "letters")
    assert wer.task_type == "automatic-speech-recognition" and wer.dataset_split == "test"
    interval = scores()["intervals"]["wer"]
    assert wer.metric_args == {
        "unit": "percent",
        "decoder": {"name": "greedy"},
        "normalization": ["lowercase", "no_punctuation"],
        "utterances": 2,
        "interval_95": [round(100 * end, 2) for end in interval],
        "reference_units": 5,
    }
    assert wer.verified is None


def test_a_data_set_of_the_hub_is_named_with_its_configuration_and_revision(tmp_path):
    source = {"root": "google/fleurs", "configuration": "de_de", "revision": "d7c758a"}
    decoder = {"name": "beam search", "beam_width": 50, "hotwords": {"ann lee": 5.0}, "language_model": "word 3-gram"}
    card = write(tmp_path, results=[scores(sources=[source], decoder=decoder)])
    wer = card.data.eval_results[0]
    assert (wer.dataset_type, wer.dataset_config, wer.dataset_revision) == ("google/fleurs", "de_de", "d7c758a")
    assert wer.metric_name == "Test WER (+LM)" and wer.metric_args["decoder"]["hotwords"] == 1
    assert "beam search, beam width 50, language model word 3-gram, hotwords 1" in card.text
    assert "ann lee" not in card.content


def test_a_folder_is_not_named_as_a_data_set_of_the_hub(tmp_path):
    source = {"root": "Corpora/Mine", "configuration": None, "revision": None, "local": True}
    wer = write(tmp_path, results=[scores(sources=[source])]).data.eval_results[0]
    assert (wer.dataset_type, wer.dataset_name) == ("mine", "Mine")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"license": "CC-BY-4.0"}, {"license": "cc-by-4.0"}),
        ({"license": "Ours, 2nd edition"}, {"license": "other", "license_name": "ours-2nd-edition"}),
        ({"languages": ["de", "gsw"]}, {"language": ["de", "gsw"]}),
        ({"languages": ["English"]}, {"language": None}),
        ({"languages": ["pt-BR"]}, {"language": "pt"}),
        ({"adapter_alone": True}, {"library_name": "peft", "base_model_relation": "adapter"}),
    ],
)
def test_metadata_has_only_values_that_the_hub_accepts(tmp_path, changes, expected):
    data = write(tmp_path, **changes).data.to_dict()
    assert {name: data.get(name) for name in expected} == expected


def test_a_local_base_is_only_in_the_text(tmp_path):
    card = write(tmp_path, base="base", base_on_hub=False, base_revision=None)
    assert card.data.base_model is None and card.data.get("base_model_relation") is None
    assert "It is `base`, fine-tuned with CTC" in card.text


def test_it_renders_with_headings_tables_and_code(tmp_path):
    text = write(tmp_path).text
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<h1>wav2vec2 reads *letters*</h1>" in html
    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Evaluation",
        "Intended uses &amp; limitations",
        "How to use",
        "Training data",
        "Training procedure",
    ]
    assert re.findall("<h3>(.*?)</h3>", html) == ["Errors", "Limitations", "Reproduce"]
    assert html.count("<table>") == 4 and html.count('<code class="language-python">') == 1
    tables = read_tables(text)
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    cells = tables[0][1]
    interval = scores()["intervals"]["wer"]
    assert cells[:3] == ["letters", "test", "greedy"]
    assert cells[3] == f"40.0 % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    assert cells[6:] == ["2", "5", "1", "0", "1"]
    # What looks like Markdown in a value is no Markdown.
    assert ["accent", "Scots|Irish"] in [row[:2] for row in tables[1]]


def test_the_text_has_data_hardware_versions_and_command(tmp_path):
    text = write(tmp_path).text
    assert "7 voices" in text and "1.5 hours" not in text and "90 minutes" in text
    assert "3 × too long (train), 1 × silent audio (train)" in text
    assert "It is `facebook/wav2vec2-base` (revision 0b5b8e8), fine-tuned" in text
    assert "`openslr/librispeech_asr` (clean, revision 71cacb), `letters`" in text
    assert "narrow band of telephones" in text
    assert "2 processes, each on one NVIDIA H100" in text and "83 minutes" in text
    assert "finetune 0.1.0 (commit 03d460d), Python 3.11.7, torch 2.12.1" in text
    assert "accelerate launch --num_processes 2 -m finetune train recipe.yaml data.root=ROOT" in text
    assert "x → z × 1" in text and "1 of 2 utterances have a word error" in text
    assert "Energy: not measured" in text
    assert ["model.base", "facebook/wav2vec2-base"] in read_tables(text)[-1]
    keys = {row[0] for row in read_tables(text)[-1]}
    assert "training.learning_rate" in keys and not {"training.log_steps", "augmentation.reverb_probability"} & keys


def test_the_authors_statements_come_first(tmp_path):
    text = write(
        tmp_path, intended_use="Dictation of <b>letters</b>.", limitations="Not for names.", energy_kwh=1.5
    ).text
    assert r"Dictation of \<b\>letters\</b\>." in text
    assert "- Not for names.\n- It writes" in text
    assert "Energy: 1.5 kWh" in text


def test_a_checkpoint_export_has_a_card_with_scores_only(tmp_path):
    few = {key: value for key, value in scores().items() if key not in ("intervals", "slices", "errors")}
    card = write(tmp_path, results=[few])
    assert read_tables(card.text)[0][1][3] == "40.0 %" and "1 of 2 utterances" in card.text
    assert "interval_95" not in card.data.eval_results[0].metric_args


def test_scores_on_the_split_that_chose_the_weights_are_called_optimistic(tmp_path):
    assert "scores are optimistic" in write(tmp_path, results=[scores(split="validation", chose_weights=True)]).text


def test_the_example_of_an_adapter_runs_no_code_of_a_repository(tmp_path):
    text = write(tmp_path, adapter_alone=True, base='somebody/base_of_all"])', base_on_hub=False).text
    example = ast.parse(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    calls = [node for node in ast.walk(example) if isinstance(node, ast.Call)]
    loading = [call for call in calls if ast.unparse(call.func).endswith(".from_pretrained")]
    options = {ast.unparse(call.func).split(".")[0]: {each.arg for each in call.keywords} for call in loading}
    assert options.keys() > {"AutoConfig", "AutoModelForCTC", "AutoTokenizer", "AutoFeatureExtractor"}
    assert all("trust_remote_code" in given for name, given in options.items() if name.startswith("Auto"))
    assert "trust_remote_code=True" not in text
    assert 'somebody/base_of_all"])' in [node.value for node in ast.walk(example) if isinstance(node, ast.Constant)]


def test_the_card_has_no_private_information(tmp_path):
    write(tmp_path)
    assert find_leaks(tmp_path) == []
    for file in tmp_path.iterdir():
        assert not re.search(r"\bann\b|\bbo\b|1\.wav", file.read_text(encoding="utf-8"), re.IGNORECASE), file
    assert "speaker 1" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_best_and_the_worst_of_many_slices_are_shown(tmp_path):
    wrong = [5, 9, 4, 8, 3, 7, 2, 6, 1]
    results = [Result(f"{n}", "a " * 20, "b " * n + "a " * (20 - n), "", 1.0, f"s{i}") for i, n in enumerate(wrong)]
    rows = [row for row in read_tables(write(tmp_path, results=[scores(results)]).text)[1] if "peaker" in row[0]]
    assert [row[2].split(" (")[0] for row in rows] == ["5.0 %", "10.0 %", "15.0 %", "35.0 %", "40.0 %", "45.0 %"]
    assert rows[0][0] == "Speaker (best and worst of 9)"


def test_a_card_without_scores_says_so(tmp_path):
    card = write(tmp_path, results=[], license=None, languages=[])
    assert "Not evaluated yet." in card.text and "states no licence" in card.text
    assert "model-index" not in card.content
    assert card.data.license is None and card.data.language is None


def test_a_set_without_words_is_not_reported_to_the_hub(tmp_path):
    card = write(tmp_path, results=[scores([Result("1", "", "a", "", 1.0, None)])])
    assert "model-index" not in card.content
    assert read_tables(card.text)[0][1][3:5] == ["unknown", "unknown"]


def test_a_language_model_that_is_saved_later_is_added_to_the_card(tmp_path):
    before = write(tmp_path).text
    assert "language model" not in before and "leaves out" not in before
    tuned = {"utterances": 104, "wer": 0.061, "greedy_wer": 0.102}
    (tmp_path / "decoder.json").write_text(json.dumps({"beam_width": 50, "hotwords": {}, "tuned": tuned}))
    save_preprocessing(tmp_path, [{"highpass": 80}])
    assert update_card(tmp_path) is None
    after = ModelCard.load(tmp_path / "README.md").text
    assert "On the 104 utterances on which its weights were chosen WER is 6.1 % with it and 10.2 % without" in after
    assert '`{"highpass": 80}`' in after
    assert read_tables(after) == read_tables(before), "the figures are still those of greedy decoding"


def test_a_card_of_an_older_version_is_updated(tmp_path):
    write(tmp_path)
    old = "---\nlicense: mit\n---\n\n# wav2vec2\n\n## What it is for, and what not\n"
    (tmp_path / "README.md").write_text(old, encoding="utf-8")
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    record["card_sha256"] = hashlib.sha256(old.encode()).hexdigest()
    (tmp_path / "training.json").write_text(json.dumps(record), encoding="utf-8")
    assert update_card(tmp_path) is None
    after = ModelCard.load(tmp_path / "README.md")
    assert "## Intended uses & limitations" in after.text and "What it is for" not in after.text
    assert [result.metric_value for result in after.data.eval_results] == [40.0, 37.5]


def test_a_card_that_was_changed_by_hand_is_not_updated(tmp_path):
    write(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    changed = card.read_bytes()
    assert "was changed by hand" in (update_card(tmp_path) or "")
    assert card.read_bytes() == changed
    (tmp_path / "training.json").unlink()
    assert update_card(tmp_path) is None, "another toolkit's model has another card"
    assert card.read_bytes() == changed


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
