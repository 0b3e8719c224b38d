"""The metric scripts are loaded as users load them, without a network."""

import json
import os
import subprocess
import sys

import pytest

from finetune.errors import UserError
from finetune.evaluation.metrics import metric_path

# Any use of the network fails, regardless of HF_HUB_OFFLINE.
LOAD_BOTH = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("this test reached for the network")

socket.socket.connect = refuse
socket.getaddrinfo = refuse

import evaluate
from finetune.evaluation.metrics import metric_path

references, predictions = ["a b c d", "x", ""], ["a b c d", "y z", "q"]
rates = {}
for name in ("wer", "cer"):
    metric = evaluate.load(metric_path(name))
    rates.update(metric.compute(references=references, predictions=predictions))
    metric.add_batch(references=[""], predictions=[""])
    rates["silent " + name] = metric.compute()[name]
print(json.dumps(rates))
"""


@pytest.mark.long
def test_metrics_load_and_count_offline(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    # In another folder: the script must import the installed package.
    done = subprocess.run(
        [sys.executable, "-c", LOAD_BOTH], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # 3 errors in 5 words, 4 in 8 characters.
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "wer": 0.6,
        "cer": 0.5,
        "silent wer": None,
        "silent cer": None,
    }


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match=r"'mer'.*wer, cer"):
        metric_path("mer")
