"""The alert rules, tried by Prometheus's promtool on simulated weeks of a service, and the dashboard."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.serving.metrics import Metrics
from finetune.streams.metrics import StreamMetrics

DEPLOY = Path(__file__).parents[2] / "scripts" / "deploy"
RULES, DASHBOARD = DEPLOY / "alerts.yaml", DEPLOY / "dashboard.json"
GROUPS = {group["name"]: group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"]}
ALERTS = GROUPS["finetune"]  # The others are tried in tests/streams/test_alarms.py.

MINUTES = 10  # between two scrapes
DAY = 24 * 60 // MINUTES  # scrapes
ROUTE = "/v1/audio/transcriptions"


@pytest.fixture
def promtool(tmp_path: Path) -> Any:
    """`promtool(*arguments, stdin="")` runs it.

    Without it the test is skipped, or fails if FINETUNE_PROMTOOL=required.
    """
    program = shutil.which("promtool")
    if program is None:
        reason = "promtool is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("FINETUNE_PROMTOOL") == "required":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments: str | Path, stdin: str = "") -> None:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@dataclass(frozen=True)
class Load:
    """How a service does: means of exponential distributions, and shares."""

    errors: float = 0.005
    wait_seconds: float = 3.0
    lag_seconds: float = 0.2
    real_time_factor: float = 0.2
    less_confidence: float = 0.0  # than on the validation split
    memory: float = 0.5  # of the limit
    feedback_failures: float = 0.0
    up: bool = True


@dataclass
class Service:
    """Simulates a service with real `Metrics` from six in the morning, by night with a tenth of the day's requests."""

    rng: np.random.Generator
    samples: dict[str, list[str]] = field(default_factory=dict)
    metrics: Metrics = field(init=False)
    scraped: int = 0

    def __post_init__(self) -> None:
        self.statistics = UtteranceStatistics(
            Distribution.measure(self.rng.beta(14, 1.6, 300).tolist()),
            Distribution.measure(self.rng.beta(30, 20, 300).tolist()),
        )
        self.start()

    def start(self) -> None:
        """Start the service, again with counters at 0."""
        self.metrics = Metrics(["small"])
        self.metrics.watch("small", self.statistics)

    def run(self, load: Load, scrapes: int) -> None:
        """Handle requests, and scrape the metrics every ten minutes."""
        for _ in range(scrapes):
            busy = 0.1 + 0.9 * np.sin(np.pi * (self.scraped / DAY + 0.25)) ** 2
            for _ in range(self.rng.poisson(4 * MINUTES * busy)):
                self._handle(load)
            self._scrape(load)

    def _handle(self, load: Load) -> None:
        metrics, rng = self.metrics, self.rng
        status = 500 if rng.random() < load.errors else int(rng.choice([200, 200, 200, 200, 400, 401, 429]))
        seconds, wait = rng.exponential(6.0), rng.exponential(load.wait_seconds)
        metrics.request("POST", ROUTE, status, wait + seconds * load.real_time_factor)
        if rng.random() < load.feedback_failures:
            metrics.feedback_failed("key")
        if status != 200:
            return
        metrics.queued(rng.poisson(1))
        metrics.waited(wait)
        metrics.batch(seconds, seconds * load.real_time_factor * rng.uniform(0.8, 1.2))
        metrics.audio("small", "file", seconds)
        metrics.live_lag(rng.exponential(load.lag_seconds))
        confidence = max(0.0, rng.beta(14, 1.6) - load.less_confidence)
        metrics.utterance("small", confidence, rng.beta(30, 20))

    def _scrape(self, load: Load) -> None:
        for _ in range(20):
            self.metrics.request("GET", "/metrics", 200, 0.002)
        values = dict(line.rsplit(" ", 1) for line in self.metrics.render().decode().splitlines() if line[0] != "#")
        values["process_resident_memory_bytes"] = str(load.memory * float(values["finetune_memory_limit_bytes"]))
        values = {name: value for name, value in values.items() if load.up} | {"up": str(int(load.up))}
        for name, value in values.items():
            if USED.match(name):
                self.samples.setdefault(name, ["_"] * self.scraped).append(value)
        self.scraped += 1
        for each in self.samples.values():
            each += ["_"] * (self.scraped - len(each))

    def series(self) -> list[dict[str, str]]:
        """The input series of promtool."""
        return [
            {"series": add_labels(name, 'job="finetune"', 'instance="here:8000"'), "values": " ".join(values)}
            for name, values in self.samples.items()
        ]


def add_labels(series: str, *labels: str) -> str:
    name, _, others = series.partition("{")
    return f"{name}{{{','.join([*labels, *filter(None, [others.rstrip('}')])])}}}"


def list_names(expression: str) -> set[str]:
    """The metrics that an expression of PromQL uses."""
    without_labels = re.sub(r'\{[^}]*\}|\b(by|on) \([^)]*\)|\[[^\]]*\]|"[^"]*"', " ", expression)
    return set(re.findall(r"\b(?:up|[a-z]+_[a-z0-9_]+)\b(?! *\()", without_labels)) - {"label_values"}


USED = re.compile(rf"({'|'.join(set().union(*(list_names(rule['expr']) for rule in ALERTS)))})(\{{|$)")


def require_alerts(promtool: Any, service: Service, folder: Path, expected: Mapping[int, Sequence[str]]) -> None:
    """Have promtool evaluate the rules; `expected` are the alerts that have fired up to some scrapes."""
    fired = 'group by (alertname) (present_over_time(ALERTS{alertstate="firing"}[30d]))'
    checks = [
        {
            "expr": fired,
            "eval_time": f"{scrape * MINUTES}m",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
        }
        for scrape, names in expected.items()
    ]
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{MINUTES}m",
        "tests": [{"interval": f"{MINUTES}m", "input_series": service.series(), "promql_expr_test": checks}],
    }
    (folder / "test.yaml").write_text(json.dumps(test))
    promtool("test", "rules", folder / "test.yaml")


@pytest.mark.long
def test_a_normal_week_is_quiet(promtool: Any, tmp_path: Path) -> None:
    """Days and nights, single errors, and a restart."""
    service = Service(np.random.default_rng(1))
    service.run(Load(), 3 * DAY)
    service.run(Load(up=False), 1)
    service.start()
    service.run(Load(), 4 * DAY - 1)
    assert sum(name.startswith("finetune_drift_score{") for name in service.samples) == 2
    assert len(service.samples["up"]) == 7 * DAY
    require_alerts(promtool, service, tmp_path, {7 * DAY - 1: []})


TROUBLES = {
    "FinetuneDown": ({"up": False}, 20),
    "FinetuneErrors": ({"errors": 0.2}, 60),
    "FinetuneQueueWait": ({"wait_seconds": 40.0}, 60),
    "FinetuneLiveLag": ({"lag_seconds": 3.0}, 60),
    "FinetuneSlow": ({"real_time_factor": 1.5}, 60),
    "FinetuneMemory": ({"memory": 0.95}, 30),
    "FinetuneFeedback": ({"feedback_failures": 0.1}, 60),
    "FinetuneDrift": ({"less_confidence": 0.07}, 8 * 60),
}


@pytest.mark.parametrize("alert", TROUBLES)
def test_each_trouble_fires_its_alert_and_no_other(alert: str, promtool: Any, tmp_path: Path) -> None:
    """It begins at nine in the morning, and the alert fires within some minutes or hours."""
    values, minutes = TROUBLES[alert]
    service = Service(np.random.default_rng(2))
    begin, scrapes = 3 * 60 // MINUTES, minutes // MINUTES
    service.run(Load(), begin)
    service.run(replace(Load(), **values), scrapes)
    require_alerts(promtool, service, tmp_path, {begin - 1: [], begin + scrapes - 1: [alert]})


def test_each_alert_is_tried_and_explained() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert sorted(names) == sorted(TROUBLES)
    page = (DEPLOY / "README.md").read_text()
    everything = [rule["alert"] for rules in GROUPS.values() for rule in rules]
    assert re.findall(r"^\*\*(\w+)\*\*: .+ {2}\n\S.+$", page, re.MULTILINE) == everything


def test_rules_are_valid(promtool: Any) -> None:
    promtool("check", "rules", RULES)


def test_a_name_in_an_expression_is_found() -> None:
    expression = 'sum by (job, le) (rate(a_b_bucket{c_d="e_f"}[5m])) / on (job) up{g_h="i"} > 0.05'
    assert list_names(expression) == {"a_b_bucket", "up"}
    assert list_names('label_values(finetune_live_sessions{a_b="c"}, model)') == {"finetune_live_sessions"}


@pytest.fixture(scope="module")
def rendered() -> str:
    """What a service renders after a few hours."""
    service = Service(np.random.default_rng(3))
    service.run(Load(), 50)
    return service.metrics.render().decode()


def test_what_is_rendered_is_valid(rendered: str, promtool: Any) -> None:
    promtool("check", "metrics", stdin=rendered)


def read_panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return panels


def list_expressions() -> list[str]:
    """All expressions of the rules and of the dashboard, also those of its variables."""
    variables = [each["query"]["query"] for each in json.loads(DASHBOARD.read_text())["templating"]["list"][1:]]
    targets = [target["expr"] for panel in read_panels() for target in panel.get("targets", ())]
    return [*(rule["expr"] for rule in ALERTS), *targets, *variables]


def render_streams() -> str:
    """What a consumer renders that has done a message."""
    metrics = StreamMetrics()
    metrics.message("recording", "result")
    metrics.error("unreadable")
    metrics.lag({("speech", 0): 1})
    return generate_latest(metrics.registry).decode()


def test_rules_and_dashboard_use_metrics_and_labels_that_there_are(rendered: str) -> None:
    both = chain(text_string_to_metric_families(rendered), text_string_to_metric_families(render_streams()))
    samples = [sample for family in both for sample in family.samples]
    known = {sample.name for sample in samples} | {"up"}
    used = [list_names(expression) for expression in list_expressions()]
    assert all(used) and set().union(*used) <= known
    labels = {label for sample in samples for label in sample.labels} | {"job", "instance"}
    for expression in list_expressions():
        found = re.findall(r"(\w+) *=~?\"|(\w+) *!~?=?\"", expression)
        grouped = ", ".join(re.findall(r"(?:by|on) \(([^)]*)\)", expression)).split(", ")
        assert {*map("".join, found), *filter(None, grouped)} <= labels, expression
    # What is measured is shown.
    families = {name.removesuffix("_bucket") for name in known if name.endswith("_bucket")}
    shown = " ".join(list_expressions())
    assert [name for name in families if name not in shown] == []


def test_expressions_of_the_dashboard_are_valid(promtool: Any, tmp_path: Path) -> None:
    targets = [target["expr"] for panel in read_panels() for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(targets)
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


def test_panels_are_complete_and_do_not_overlap() -> None:
    panels = read_panels()
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 15
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & covered and place["x"] + place["w"] <= 24, panel["title"]
        covered |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".") and panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    explained = " ".join(panel.get("description", "") for panel in panels)
    assert [name for name in TROUBLES if name not in explained] == []
