"""OPERATIONS.md: a section for each alert, its tables from capacity.py, and its commands, which are run."""

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from deploy import capacity
from operations import Shell, block, make_shell

from finetune.errors import UserError
from finetune.feedback.records import NewUtterance
from finetune.feedback.store import Store

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "scripts" / "deploy"
TEXT = (DEPLOY / "OPERATIONS.md").read_text()
GROUPS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
ALERTS = [rule["alert"] for group in GROUPS for rule in group["rules"]]


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    incidents = TEXT.split("\n## Incidents\n")[1]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=\n### |\Z)", incidents, re.MULTILINE | re.DOTALL))
    assert list(sections) == ALERTS
    assert all(section.count("\n1. ") == 1 and section.count("\n2. ") == 1 for section in sections.values())
    assert re.findall(r"^\*\*(\w+)\*\*: ", (DEPLOY / "README.md").read_text(), re.MULTILINE) == ALERTS


def test_options_and_values_that_it_names_are_there() -> None:
    values = yaml.safe_load((DEPLOY / "helm" / "finetune" / "values.yaml").read_text())
    schema = json.loads((DEPLOY / "helm" / "finetune" / "values.schema.json").read_text())["properties"]
    for first, second in re.findall(r"`(\w+)\.(\w+)`", TEXT):
        if first in values and second != "yaml":  # store.yaml is a file.
            assert second in values[first] or second in schema[first]["properties"], f"{first}.{second}"
    for place in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (DEPLOY / place).exists(), place


def test_tables_are_those_of_the_script() -> None:
    done = subprocess.run([sys.executable, DEPLOY / "capacity.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    tables = done.stdout.strip().split("\n\n")
    assert len(tables) == 2 and all(table in TEXT for table in tables)


def test_lost_share_is_erlangs_and_that_of_a_simulation() -> None:
    assert capacity.lost_share(10, 5) == pytest.approx(0.018385, abs=1e-6)  # of the tables
    pods, of_a_pod = 13, 8
    for least_busy in (True, False):
        simulated = capacity.simulate_sessions(100, pods, of_a_pod, least_busy=least_busy, count=60_000, seed=1)
        servers, load = (pods * of_a_pod, 100.0) if least_busy else (of_a_pod, 100 / pods)
        assert simulated == pytest.approx(capacity.lost_share(servers, load), rel=0.1)
        found = capacity.count_live_pods(100, of_a_pod, least_busy=least_busy)
        servers, load = (found * of_a_pod, 100.0) if least_busy else (of_a_pod, 100 / found)
        assert capacity.lost_share(servers, load) <= capacity.MOST_LOST


def test_a_simulated_day_computes_all_its_recordings() -> None:
    day = capacity.simulate_day(100_000, 120.0, 4, 200)
    mean = 100_000 * 3600 / capacity.DAY / 120
    assert day.audio_hours == pytest.approx(100_000, rel=0.01)
    assert 24 * mean < day.pod_hours < 24 * 1.8 * mean and 1.8 * mean <= day.most_pods < 2.7 * mean
    assert day.median_wait <= day.wait_of_95_percent < 60
    too_few = capacity.simulate_day(10_000, 120.0, 2, 2)
    assert too_few.audio_hours < 6000 and too_few.most_pods == 2 and too_few.wait_of_95_percent > 3600


def test_the_simulated_autoscaler_is_that_of_the_chart() -> None:
    names = (DEPLOY / "helm" / "finetune" / "templates" / "_names.tpl").read_text()
    behaviour = yaml.safe_load(names.split('define "finetune.scalingBehavior" -}}')[1].split("{{- end }}")[0])
    up, down = behaviour["scaleUp"], behaviour["scaleDown"]
    assert {each["type"]: (each["value"], each["periodSeconds"]) for each in up["policies"]} == {
        "Percent": (100 * capacity.UP_SHARE, capacity.UP_SECONDS),
        "Pods": (capacity.UP_PODS, capacity.UP_SECONDS),
    }
    assert down["policies"] == [{"type": "Pods", "value": capacity.DOWN_PODS, "periodSeconds": capacity.DOWN_SECONDS}]
    assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (0, capacity.STABLE_SECONDS)
    values = yaml.safe_load((DEPLOY / "helm" / "finetune" / "values.yaml").read_text())
    assert float(values["autoscaling"]["queueWaitSeconds"]) == capacity.TARGET_WAIT


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`shell(commands)` runs a block with STORE, BACKUP and AUDIT, and finetune on its path."""
    return make_shell(tmp_path)


def add(store: Store, number: int) -> int:
    audio = b"RIFF" + str(number).encode() * 50
    values = {"suffix": ".wav", "seconds": 1.0, "source": "test", "consent": "all, for tests"}
    new = NewUtterance(audio=audio, speaker=f"speaker {number}", **values)  # type: ignore[arg-type]
    return store.add(new, "tester", f"text {number}").id


def test_a_backup_beside_a_writer_comes_back_without_what_was_forgotten(tmp_path: Path, shell: Shell) -> None:
    with closing(Store.create(tmp_path / "store")) as store:
        first, second = add(store, 1), add(store, 2)
        stopped, added = threading.Event(), list[int]()

        def write() -> None:
            number = 10
            while not stopped.is_set():
                added.append(add(store, number := number + 1))
                time.sleep(0.02)

        writer = threading.Thread(target=write)
        writer.start()
        shell(block("backup"))
        stopped.set()
        writer.join(60)
        store.erase([first], "tester")
        shell('finetune feedback audit "$STORE" --json > "$AUDIT"; mv "$STORE" "$STORE-lost"')
    assert "audio" in {each.name for each in (tmp_path / "backup").iterdir()}
    shell(block("restore"))
    with closing(Store(tmp_path / "store")) as store:
        assert store.read_audio(second).startswith(b"RIFF2")
        with pytest.raises(UserError):
            store.read_audio(first)
        there = [utterance.id for utterance in store.iterate_corrected()]
        assert second in there and first not in there
        for number in there:  # Each row has its file.
            assert store.read_audio(number)
    assert added and (tmp_path / "backup" / "audit.jsonl").is_file()
