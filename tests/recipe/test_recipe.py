"""A recipe is read as it was meant, or refused with every problem at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from finetune.errors import UserError
from finetune.recipe.load import load_recipe
from finetune.text.transcripts import DEFAULT_TRANSFORMS, PRESETS

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted([*FOLDER.glob("*/recipe.yaml"), *FOLDER.glob("baselines/*.yaml")])
SMALLEST = "model: {base: some/model}\ndata: {root: some/speech}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_recipe_states_differences_from_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST + "training: {max_steps: 7}\n"))
    assert recipe.training.max_steps == 7
    assert recipe.training.learning_rate == 3e-4
    assert recipe.text.normalization == DEFAULT_TRANSFORMS


def test_presets_are_spelled_out_and_may_stand_among_steps(tmp_path: Path) -> None:
    text = "text: {normalization: [{replace: [a, b]}, turkish]}\n"
    recipe = load_recipe(write(tmp_path, SMALLEST + text))
    assert recipe.text.normalization == ({"replace": ["a", "b"]}, *PRESETS["turkish"])
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    alone = load_recipe(write(tmp_path, SMALLEST + "text: {normalization: german}\n"))
    assert alone.text.normalization == DEFAULT_TRANSFORMS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{normalization: [{replace: ['(', x]}]}", r"text.normalization: .*replace: '\(' to 'x' can't be used"),
        ("{normalization: [{replcae: [a, b]}]}", "unknown transform 'replcae'; did you mean replace"),
        ("{vocabulary: base, characters: abc}", "expected either text.characters or text.vocabulary"),
        ("{vocabulary: bases}", "text.vocabulary: found 'bases'"),
        ("{min_character_count: 0}", "text.min_character_count: found 0"),
    ],
)
def test_text_sections_that_cannot_be_used_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_recipe(write(tmp_path, SMALLEST + f"text: {text}\n"))


def test_sources_are_a_list_instead_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    model = "model: {base: some/model}\n"
    recipe = load_recipe(write(tmp_path, model + "data: {sources: [here, {root: user/there, weight: 2}]}\n"))
    assert [source.root for source in recipe.data.all_sources] == [str(tmp_path / "here"), "user/there"]
    for data, words in (
        ("{sources: [here], root: here}", "expected either data.sources or data.root"),
        ("{sources: [here], text_column: t}", "expected either data.sources or data.text_column"),
        ("{sources: []}", "data.root: missing"),
        ("{sources: [{rot: here}]}", "data.sources.0.rot: unknown key; did you mean root"),
        ("{sources: [{root: here, weight: 0}]}", "data.sources.0.weight: found 0"),
    ):
        with pytest.raises(UserError, match=words):
            load_recipe(write(tmp_path, model + f"data: {data}\n"))


def test_a_section_without_keys_holds_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST + "training:\n  # max_steps: 7\n"))
    assert recipe == load_recipe(write(tmp_path, SMALLEST))


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "model: {base: some/model, dropuot: 0.1}\ntrainig: {}\ntraining: {max_steps: many, learning_rate: -1}\n"
        "text: {normalization: [nfkc, lowercse]}\n",
    )
    with pytest.raises(UserError) as refused:
        load_recipe(file, ["training.sead=3", "nonsense"])
    message = str(refused.value)
    assert message.startswith(f"{file} has 8 problems:")
    assert len(message.splitlines()) == 9
    for words in (
        "nonsense: expected an override like training.max_steps=100",
        "model.dropuot: unknown key; did you mean dropout?",
        "trainig: unknown key; did you mean training?",
        "training.sead: unknown key; did you mean seed?",
        "training.max_steps: found 'many'; ",
        "training.learning_rate: found -1; ",
        "data.root: missing; ",
        "unknown transform 'lowercse'; did you mean lowercase?",
    ):
        assert words in message


def test_an_unknown_key_without_a_similar_one_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.zzz: unknown key; known are batch_seconds"):
        load_recipe(write(tmp_path, SMALLEST + "evaluation: {zzz: 1}\n"))


@pytest.mark.parametrize("text", ["3e-5", "3E-5", "3.0e-05", "0.00003"])
def test_numbers_in_any_notation_are_numbers(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, f"{SMALLEST}training: {{learning_rate: {text}}}\n"))
    assert recipe.training.learning_rate == 3e-5


@pytest.mark.parametrize(
    "text", ["no", "off", "yes", "true story", "falsetto", "3.1-beta", "2.0/corpus", "1e5x", "2026-11-01"]
)
def test_words_stay_words(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, f"{SMALLEST}publishing: {{language: {text}}}\n")
    assert load_recipe(file).publishing.language == text
    assert load_recipe(file, [f"publishing.title={text}"]).publishing.title == text


def test_true_and_false_are_booleans(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "model: {base: a/b, freeze_feature_encoder: False}\ndata: {root: a/b}\n"))
    assert recipe.model.freeze_feature_encoder is False


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not valid YAML at line 3: the key 'seed' stands twice"):
        load_recipe(write(tmp_path, SMALLEST + "training: {seed: 1, seed: 2}\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model: [", "is not valid YAML"),
        (b"- model", "holds a list; expected sections"),
        (b"just words", "holds a str; expected sections"),
        (b"\xff\xfe\x00", "expected a YAML file"),
        (b"", "model: .*expected either model.base"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {seed: 100000000000000000000}", "training.seed: found 1.*0; expected a whole number of 64 bits"),
        ("training: {learning_rate: .inf}", "training.learning_rate: found inf; expected a finite number"),
        ("training: {accumulation: 100000}", "training.accumulation: found 100000; input should be less than or equal"),
        ("training: {max_epochs: 1e308}", r"training.max_epochs: found 1e\+308; input should be less than"),
        ("training: {batch_seconds: .nan}", "training.batch_seconds: found nan; expected a finite number"),
        ("augmentation: {gain_db: [0, 1e999]}", "augmentation.gain_db.1: found inf; expected a finite number"),
        ('text: {normalization: [{replace: ["\\ud800", b]}]}', "text.normalization.0.replace.0: .*text in UTF-8"),
        ("publishing: {title: !!timestamp 2026-11-01}", "publishing.title: found a date; .*put text in quotes"),
        ('publishing: {limitations: "a\\0"}', "publishing.limitations: .*without NUL characters"),
    ],
)
def test_values_that_no_key_can_have_are_refused_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"has 1 problem:\n  {words}"):
        load_recipe(write(tmp_path, f"{SMALLEST}{text}\n"))


@pytest.mark.parametrize("text", ["!!timestamp then", "!!int ''", "!!bool perhaps"])
def test_a_value_that_does_not_fit_its_tag_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is not valid YAML: a value does not fit the tag before it"):
        load_recipe(write(tmp_path, f"{SMALLEST}publishing: {{title: {text}}}\n"))


@pytest.mark.parametrize("place", ["some/sp\\0eech", "some/sp\\ud800eech"])
def test_a_path_that_no_system_has_is_refused(tmp_path: Path, place: str) -> None:
    for data, key in (
        (f'root: "{place}"', "data.root"),
        (f'sources: ["{place}"]', "data.sources.0"),
        (f'sources: [{{root: "{place}"}}]', "data.sources.0.root"),
    ):
        with pytest.raises(UserError, match=rf"has 1 problem:\n  {key}: .*expected text in UTF-8"):
            load_recipe(write(tmp_path, f"model: {{base: a/b}}\ndata: {{{data}}}\n"))


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no recipe at"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("model", ["{}", "{base: a/b, architecture: {hidden_size: 32}}"])
def test_a_model_has_one_origin(tmp_path: Path, model: str) -> None:
    with pytest.raises(UserError, match=r"either model\.base .* or model\.architecture"):
        load_recipe(write(tmp_path, f"model: {model}\ndata: {{root: a/b}}\n"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{lora: {}, language_adapter: deu}", "expected either model.lora or model.language_adapter"),
        ("{lora: {}, random_weights: true}", "expected a model.base with its own weights beside model.lora"),
        ("{lora: {}, base: null, architecture: {hidden_size: 32}}", "expected a model.base with its own weights"),
        ("{language_adapter: deu, random_weights: true}", "its own weights beside model.language_adapter"),
        ("{lora: {}, freeze_feature_encoder: false}", "expected model.freeze_feature_encoder=true beside model.lora"),
        ("{lora: {rnak: 8}}", r"model\.lora\.rnak: unknown key; did you mean rank\?"),
        ("{lora: {rank: 0}}", r"model\.lora\.rank: found 0"),
        ("{lora: {target_modules: [query]}}", r"model\.lora\.target_modules\.0: found 'query'.*'q_proj'"),
        ("{lora: {target_modules: []}}", r"model\.lora\.target_modules: found"),
        ("{lora: {save: both}}", r"model\.lora\.save: found 'both'"),
        ("{language_adapter: ../deu}", r"model\.language_adapter: found '\.\./deu'"),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused(tmp_path: Path, model: str, words: str) -> None:
    values = {"base": "some/model", **yaml.safe_load(model)}
    with pytest.raises(UserError, match=words):
        load_recipe(write(tmp_path, yaml.safe_dump({"model": values, "data": {"root": "some/speech"}})))


def test_lora_is_one_line(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST), ["model.lora.rank=8"])
    assert recipe.model.lora is not None and (recipe.model.lora.rank, recipe.model.lora.alpha) == (8, 32)
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    assert load_recipe(write(tmp_path, SMALLEST)).model.lora is None


def test_overrides_are_typed_and_win(tmp_path: Path) -> None:
    file = write(tmp_path, SMALLEST + "training: {max_steps: 7, seed: 3}\n")
    overrides = [
        "training.max_steps=9",
        "training.learning_rate=1e-4",
        "augmentation.speed=[0.9, 1.1]",
        "model.freeze_feature_encoder=false",
        "data.test_split=dev=2",
        "model.revision=null",
        "model.base=null",
        "model.architecture={hidden_size: 32}",
    ]
    recipe = load_recipe(file, overrides)
    assert (recipe.training.max_steps, recipe.training.seed) == (9, 3)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.augmentation.speed == (0.9, 1.1)
    assert recipe.model.freeze_feature_encoder is False
    assert recipe.data.test_split == "dev=2"
    assert (recipe.model.revision, recipe.model.base, recipe.model.architecture) == (None, None, {"hidden_size": 32})


@pytest.mark.parametrize("text", ["#text", "a #text", "[a] # b", "&co", "---"])
def test_an_override_has_no_comments_and_loses_nothing(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST), [f"publishing.title={text}", "data.root=#1"])
    assert recipe.publishing.title == text
    assert recipe.data.root == str(Path.cwd() / "#1")
    for empty in ("", "null", "~"):
        assert load_recipe(write(tmp_path, SMALLEST), [f"publishing.title={empty}"]).publishing.title is None


def test_an_override_reaches_inside_the_architecture(tmp_path: Path) -> None:
    file = write(tmp_path, "model: {architecture: {hidden_size: 64, num_hidden_layers: 3}}\ndata: {root: a/b}\n")
    recipe = load_recipe(file, ["model.architecture.hidden_size=32"])
    assert recipe.model.architecture == {"hidden_size": 32, "num_hidden_layers": 3}


@pytest.mark.parametrize("override", ["max_steps=3", "training.max_steps", "training.=3", ".max_steps=3", "=", "x"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="expected an override like"):
        load_recipe(write(tmp_path, SMALLEST), [override])


def test_an_override_of_an_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainin: unknown key; did you mean training\?"):
        load_recipe(write(tmp_path, SMALLEST), ["trainin.max_steps=3"])


def test_paths_are_relative_to_the_recipe_or_for_overrides_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (recipes / "speech", here / "speech"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    file = write(recipes, "model: {base: ../no/model}\ndata: {root: speech}\n")
    assert load_recipe(file).data.root == str(recipes / "speech")
    assert load_recipe(file).model.base == str(tmp_path / "no" / "model")
    assert load_recipe(file, ["data.root=speech"]).data.root == str(here / "speech")
    assert load_recipe(file, ["data.root=../speech"]).data.root == str(tmp_path / "speech")


def test_sources_in_an_override_are_relative_to_here_and_stay_so_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed compares the recipe with the one in its folder, whose paths are relative to it."""
    (tmp_path / "here" / "speech").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = write(tmp_path, "model: {base: some/model}\ndata: {}\n")
    recipe = load_recipe(file, ["data.sources=[speech, {root: ../other, weight: 2}, user/there]"])
    roots = [str(tmp_path / "here" / "speech"), str(tmp_path / "other"), "user/there"]
    assert [source.root for source in recipe.data.sources] == roots
    assert load_recipe(write(tmp_path / "run", recipe.to_yaml())) == recipe


def test_a_name_that_is_no_path_stays_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, SMALLEST)
    assert load_recipe(file).model.base == "some/model"
    assert load_recipe(file, ["model.base=007"]).model.base == "007"
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert load_recipe(file).model.base == str(tmp_path / "some" / "model")


def test_a_base_on_a_hub_names_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, "model: {base: some/model@refs/pr/1}\ndata: {root: some/data}\n")
    model = load_recipe(file).model
    assert (model.base, model.revision) == ("some/model", "refs/pr/1")
    assert load_recipe(file, ["model.revision=refs/pr/1"]).model == model
    assert load_recipe(file, ["model.base=other@12e4"]).model.revision == "12e4"
    with pytest.raises(UserError, match=r"expected one revision, found refs/pr/1 in model.base and v2 in model.rev"):
        load_recipe(file, ["model.revision=v2"])
    # A path stays one.
    (tmp_path / "some" / "model@refs" / "pr" / "1").mkdir(parents=True)
    assert load_recipe(file).model.base == str(tmp_path / "some/model@refs/pr/1")
    assert load_recipe(file, ["model.base=./other@v1"]).model.base == str(tmp_path / "other@v1")


def test_the_resolved_recipe_loads_back_equal(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    file = write_recipe(
        tmp_path,
        model={"revision": "12e45"},
        training={"learning_rate": 3e-5, "mixed_precision": "no"},
        augmentation={"speed": [0.9, 1.1]},
        publishing={"language": "no", "title": "007: ünïcode # “quoted”\nand a second line", "license": "1e5"},
    )
    recipe = load_recipe(file)
    resolved = tmp_path / "elsewhere" / "resolved.yaml"
    resolved.parent.mkdir()
    resolved.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert (recipe.model.revision, recipe.publishing.license) == ("12e45", "1e5")


def test_the_resolved_recipe_says_the_defaults_too(tmp_path: Path) -> None:
    values = yaml.safe_load(load_recipe(write(tmp_path, SMALLEST)).to_yaml())
    assert values["training"]["batch_seconds"] == 80
    assert set(values) >= {"model", "data", "text", "augmentation", "training", "evaluation", "publishing"}


def test_a_run_has_steps_or_epochs(tmp_path: Path) -> None:
    file = write(tmp_path, SMALLEST + "training: {max_steps: 7}\n")
    with pytest.raises(UserError, match=r"expected either training\.max_steps or training\.max_epochs, not both"):
        load_recipe(file, ["training.max_epochs=2"])
    assert load_recipe(file, ["training.max_epochs=0.5", "training.max_steps=null"]).training.max_epochs == 0.5


def test_windows_have_a_smallest_and_a_largest_right_context(tmp_path: Path) -> None:
    file = write(tmp_path, SMALLEST + "training: {right_context_seconds: [0.3, 4]}\n")
    assert load_recipe(file, []).training.right_context_seconds == (0.3, 4.0)
    with pytest.raises(UserError, match=r"expected training\.right_context_seconds as \[smallest, largest\]"):
        load_recipe(file, ["training.right_context_seconds=[4, 0.3]"])
    with pytest.raises(UserError, match=r"training\.right_context_seconds"):
        load_recipe(file, ["training.right_context_seconds=[0.3, .inf]"])
    with pytest.raises(UserError, match=r"either training\.right_context_seconds or training\.compile"):
        load_recipe(file, ["training.compile=true"])


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_recipe_that_ships_loads(file: Path, corpus_folder: Path) -> None:
    recipe = load_recipe(file, [f"data.root={corpus_folder}"])
    assert recipe.data.root == str(corpus_folder)
    assert recipe.model.base or recipe.model.architecture


def test_recipes_ship() -> None:
    assert {"quickstart", "base", "an4"} <= {file.parent.name for file in RECIPES}


def test_an_old_key_is_read_as_the_new_one(
    write_recipe: Callable[..., Path], tmp_path: Path, logged: list[str]
) -> None:
    recipe = load_recipe(write_recipe(tmp_path, augmentation={"formant_perturbation": 0.2}))
    assert logged == []
    for section, overrides in (({"vocal_tract": 0.2}, []), ({}, ["augmentation.vocal_tract=0.2"])):
        old = load_recipe(write_recipe(tmp_path, augmentation=section), overrides)
        assert old == recipe and "vocal_tract" not in old.to_yaml()
        [line] = logged
        assert line.startswith("note: augmentation.vocal_tract is read as augmentation.formant_perturbation")
        del logged[:]
    with pytest.raises(UserError, match="vocal_tract is its old name"):
        load_recipe(write_recipe(tmp_path, augmentation={"vocal_tract": 0.2, "formant_perturbation": 0.2}))
