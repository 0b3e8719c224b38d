"""The rules of alarms for consumers, evaluated by promtool: each fires at its trouble only, and reads our metrics."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune.streams.metrics import StreamMetrics

RULES = Path(__file__).parents[2] / "scripts" / "deploy" / "alerts.yaml"
ALERTS = next(
    group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"] if group["name"] == "finetune-consume"
)
# Values of a series each minute, for an hour.
WELL = {
    'up{instance="a"}': "1x60",
    'up{instance="b"}': "1x60",
    'finetune_stream_lag_messages{instance="a",topic="t",partition="0"}': "300 0 0 900 3 0x55",
    'finetune_stream_lag_messages{instance="b",topic="t",partition="1"}': "500x60",  # Much, but no more than before.
    'finetune_stream_messages_total{instance="a",kind="recording",outcome="result"}': "0+100x60",
    'finetune_stream_errors_total{instance="a",reason="audio"}': "0+1x60",
}
TROUBLES = {
    "FinetuneStreamDown": {'up{instance="b"}': "1x30 0x30"},
    "FinetuneStreamLag": {
        'finetune_stream_lag_messages{instance="a",topic="t",partition="0"}': "0x10 10+20x50",
    },
    "FinetuneStreamErrors": {'finetune_stream_errors_total{instance="a",reason="audio"}': "0x10 0+20x50"},
}


@pytest.mark.parametrize("alert", [None, *TROUBLES])
def test_each_trouble_fires_its_alert_and_no_other(alert: str | None, tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        assert os.environ.get("FINETUNE_PROMTOOL") != "required", "promtool is not installed"
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    series = {**WELL, **(TROUBLES[alert] if alert else {})}
    given = [
        {"series": name.replace("{", '{job="finetune-consume",'), "values": values} for name, values in series.items()
    ]
    given.append({"series": 'up{job="finetune",instance="s"}', "values": "1x60"})
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    fired = 'group by (alertname) (ALERTS{alertstate="firing"})'
    check = {"expr": fired, "eval_time": "60m", "exp_samples": expected}
    tests = [{"interval": "1m", "input_series": given, "promql_expr_test": [check]}]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([program, "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_read_metrics_that_consumers_have() -> None:
    assert [rule["alert"] for rule in ALERTS] == list(TROUBLES)
    used = set(re.findall(r"finetune_stream_\w+", " ".join(rule["expr"] for rule in ALERTS)))
    metrics = StreamMetrics()
    metrics.message("recording", "result")
    metrics.error("audio")
    metrics.lag({("speech", 0): 1})
    assert used <= {sample.name for family in metrics.registry.collect() for sample in family.samples}


def test_a_partition_that_went_has_no_lag() -> None:
    metrics = StreamMetrics()
    metrics.lag({("speech", 0): 7, ("speech", 1): 1})
    metrics.lag({("speech", 1): 2})
    labels = [
        (sample.labels["partition"], sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "finetune_stream_lag_messages"
    ]
    assert labels == [("1", 2.0)]
