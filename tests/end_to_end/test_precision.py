"""The precision of a run follows its device, and a resumed run keeps its precision."""

import pytest
import yaml

from finetune.errors import UserError
from finetune.training.processes import settle_precision

AUTO = {"mixed_precision": "auto", "max_steps": 4, "eval_steps": 2}


def begun_in(run):
    return yaml.safe_load((run / "recipe.yaml").read_text())["provenance"]["precision"]


@pytest.fixture
def multiply_bf16(monkeypatch):
    """`multiply_bf16(False)` sets whether this device has instructions for bf16."""
    return lambda has: [
        monkeypatch.setattr(f"{module}.has_fast_bf16", lambda device: has)
        for module in ("finetune.resources.machine", "finetune.training.processes")
    ]


def test_a_resumed_run_keeps_its_precision_on_another_machine(finetune_run, interrupt_run, multiply_bf16, capfd):
    multiply_bf16(False)
    interrupt_run("run", training=AUTO)
    multiply_bf16(True)
    run = finetune_run("run", training=AUTO)
    assert begun_in(run) == "float32"
    assert (
        "note: this run was begun in float32 and goes on in it; a new run would take bf16 here"
        in capfd.readouterr().err
    )
    exact = finetune_run("exact", training={**AUTO, "mixed_precision": "no"})
    assert (run / "model/model.safetensors").read_bytes() == (exact / "model/model.safetensors").read_bytes()
    # What is published says `auto`: on another machine the same recipe runs as well as it can there.
    assert yaml.safe_load((run / "model/recipe.yaml").read_text())["training"]["mixed_precision"] == "auto"


def test_emulated_bf16_is_refused_for_a_new_run_and_named_for_an_old_one(multiply_bf16, logged):
    multiply_bf16(True)
    assert settle_precision("auto", None) == "bf16"
    multiply_bf16(False)
    assert settle_precision("auto", None) == "float32"
    with pytest.raises(UserError, match=r"no instructions for bf16 .* training.mixed_precision=auto or no"):
        settle_precision("bf16", None)
    assert settle_precision("bf16", "bf16") == "bf16"
    assert "only emulates bf16" in logged[-1]
    with pytest.raises(UserError, match="begun in fp16, which needs a GPU"):
        settle_precision("auto", "fp16")
