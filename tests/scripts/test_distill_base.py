"""Training with a teacher: its features reach the encoder, and the model that is left has none of it."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from distill_base import Guide, Teacher, count_offset, make_head
from safetensors.torch import load_file
from transformers import Wav2Vec2ForCTC
from transformers.models.whisper.modeling_whisper import sinusoids

from finetune.data.batching import Batch

SCRIPT = Path(__file__).parents[2] / "scripts" / "distill_base.py"


@pytest.fixture(scope="module")
def taught_corpus(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of tones, with features of 8 dimensions: random content, and much that the position tells."""
    root = tmp_path_factory.mktemp("taught")
    for split in ("train", "validation", "test"):
        (root / split).symlink_to(corpus_folder / split)
    with (root / "train" / "metadata.csv").open(newline="") as file:
        lengths = [soundfile.info(root / "train" / row["file_name"]).frames // 320 for row in csv.DictReader(file)]
    (root / "teacher").mkdir()
    np.save(root / "teacher" / "ends.npy", np.cumsum(lengths))
    generator = np.random.default_rng(0)
    content = generator.normal(3, 2, (sum(lengths), 8))
    positions = np.concatenate([sinusoids(length, 8).numpy() for length in lengths])
    np.save(root / "content.npy", content)
    features = content + positions @ generator.normal(0, 5, (8, 8))
    np.save(root / "teacher" / "features.npy", features.astype(np.float16))
    return root


def test_features_lack_positions_are_normalised_and_belong_to_their_row(taught_corpus: Path) -> None:
    teacher = Teacher(taught_corpus / "teacher")
    ends = np.load(taught_corpus / "teacher" / "ends.npy")
    rows = [teacher.features(row, int(count), 0) for row, count in enumerate(np.diff(ends, prepend=0))]
    joined = torch.cat(rows)
    assert joined.mean().abs() < 0.05 and (joined.std() - 1).abs() < 0.05 and teacher.width == 8
    content, raw = np.load(taught_corpus / "content.npy"), np.load(taught_corpus / "teacher" / "features.npy")
    for column in range(8):
        assert np.corrcoef(joined[:, column], content[:, column])[0, 1] > 0.98
        assert np.corrcoef(raw[:, column], content[:, column])[0, 1] < 0.9
    assert torch.equal(teacher.features(5, len(rows[5]) - 1, 0), rows[5][:-1])
    assert torch.equal(teacher.features(5, len(rows[5]) - 1, 2), rows[5][1:])
    with pytest.raises(ValueError, match="row 3 has 5 frames"):
        teacher.features(3, 5, 0)


def test_frames_begin_where_the_students_convolutions_have_their_centre() -> None:
    published = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
    assert count_offset(*published) == 1  # 400 samples every 320: the first has its centre at 200.
    assert count_offset([400, 1, 3, 3], [160, 1, 1, 2]) == 2  # 1,040 samples


def test_a_student_as_wide_as_the_teacher_begins_with_its_features(taught_corpus: Path) -> None:
    teacher = Teacher(taught_corpus / "teacher")
    raw = torch.from_numpy(np.load(taught_corpus / "teacher" / "features.npy").astype(np.float32))
    assert torch.allclose(make_head(8, teacher)(raw).std(0) * teacher.deviation, raw.std(0), rtol=1e-3)
    assert make_head(4, teacher).weight.shape == (8, 4)


def test_a_guide_weighs_all_alignments_of_the_labels(model_folder: Path) -> None:
    """Against the sum over all paths of four frames."""
    samples, labels = 400 + 3 * 320, [2, 3]
    values = torch.randn(2, samples + 500, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, samples + 500, dtype=torch.long)
    mask[0, samples:] = 0
    values[0, samples:] = 0
    lengths = torch.tensor([2, 1])
    batch = Batch(values, mask, 0, torch.tensor([4, 5]), None, None, torch.tensor([*labels, 4]), lengths, ())
    found = Guide(model_folder).align(batch)
    model = Wav2Vec2ForCTC.from_pretrained(model_folder).eval()
    probabilities = model(values[:1, :samples]).logits.softmax(-1)[0].detach()
    expected = torch.zeros_like(probabilities)
    for path in itertools.product(range(probabilities.shape[1]), repeat=4):
        if [token for token, _ in itertools.groupby(path) if token] == labels:
            likelihood = probabilities[range(4), path].prod()
            expected[range(4), path] += likelihood
    assert torch.allclose(found[0, :4], expected / expected[0].sum(), atol=1e-4)
    assert torch.allclose(found.sum(-1), torch.ones(found.shape[:2]), atol=1e-4)


@pytest.mark.slow
def test_the_teacher_and_the_guide_change_the_encoder_and_leave_no_weights(
    taught_corpus: Path, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, model={"freeze_feature_encoder": False})
    weights = []
    guide = tmp_path / "run-0" / "model"
    for number, more in enumerate((["--teacher-weight", "0"], [], ["--guide", str(guide)])):
        output = tmp_path / f"run-{number}"
        command = [sys.executable, str(SCRIPT), str(taught_corpus), str(recipe), "--output", str(output)]
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        weights.append(load_file(output / "model" / "model.safetensors"))
    changed = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    for one, other in itertools.pairwise(weights):
        assert one.keys() == other.keys() and not any("teacher" in name for name in one)
        assert not torch.equal(one[changed], other[changed])
