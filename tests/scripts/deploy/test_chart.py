"""The Helm chart: its objects for each values file, checked as strictly as an API server, and what it refuses."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from finetune.cli import build_parser
from finetune.serving.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[3] / "scripts" / "deploy"
CHART = DEPLOY / "helm" / "finetune"
FILES = {"default": None, **{f.stem.removeprefix("values-"): f for f in sorted(CHART.glob("values-*.yaml"))}}
VERSIONS = ("1.29", "1.37")  # The oldest that Chart.yaml allows, and the newest.

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """A schema that refuses unknown keys."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


TEXT, NUMBER, ANY = {"type": "string"}, {"type": "integer"}, {"type": "object"}
OF_PROMETHEUS = closed(
    ["type", "metadata"],
    type={"const": "prometheus"},
    metricType={"enum": ["Value", "AverageValue"]},
    metadata=closed(["serverAddress", "query", "threshold"], serverAddress=TEXT, query=TEXT, threshold=TEXT),
)
KAFKA = ("bootstrapServers", "consumerGroup", "topic", "lagThreshold", "offsetResetPolicy", "sasl", "tls")
OF_KAFKA = closed(
    ["type", "metadata"],
    type={"const": "kafka"},
    metadata=closed(list(KAFKA), **dict.fromkeys(KAFKA, TEXT)),
    authenticationRef=closed(["name"], name=TEXT),
)
SECRET_KEY = closed(["parameter", "name", "key"], parameter=TEXT, name=TEXT, key=TEXT)
ENDPOINTS = {"type": "array", "items": closed(["port"], port=TEXT, path=TEXT, interval=TEXT)}
FALLBACK = closed(["failureThreshold", "replicas"], failureThreshold=NUMBER, replicas=NUMBER, behavior=TEXT)
RULE = closed(["alert", "expr"], alert=TEXT, expr=TEXT, labels=STRINGS, annotations=STRINGS, **{"for": TEXT})
GROUP = closed(["name", "rules"], name=TEXT, rules={"type": "array", "items": RULE})
# The parts of the CRDs that the chart uses, as of KEDA 2.17 and the Prometheus operator 0.80.
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=closed(["name"], name=TEXT),
        minReplicaCount=NUMBER,
        maxReplicaCount=NUMBER,
        pollingInterval=NUMBER,
        fallback=FALLBACK,
        advanced=closed([], horizontalPodAutoscalerConfig=closed([], behavior=ANY)),
        triggers={"type": "array", "items": {"oneOf": [OF_PROMETHEUS, OF_KAFKA]}},
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        ["selector", "endpoints"],
        jobLabel=TEXT,
        selector=closed(["matchLabels"], matchLabels=STRINGS),
        endpoints=ENDPOINTS,
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        ["selector", "podMetricsEndpoints"],
        jobLabel=TEXT,
        selector=closed(["matchLabels"], matchLabels=STRINGS),
        podMetricsEndpoints=ENDPOINTS,
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): closed(
        ["secretTargetRef"], secretTargetRef={"type": "array", "items": SECRET_KEY}
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(["groups"], groups={"type": "array", "items": GROUP}),
}


class Chart:
    """Renders the chart; the objects of a values file are kept."""

    def __init__(self, helm: Any) -> None:
        self.helm = helm
        self._kept: dict[str, list[dict[str, Any]]] = {}

    def run(self, values: str, *more: str) -> "subprocess.CompletedProcess[str]":
        file = FILES[values]
        chosen = ["-f", str(file)] if file else []
        versions = ["--kube-version", VERSIONS[-1]]
        return self.helm("template", "speech", CHART, "--namespace", "voices", *versions, *chosen, *more)

    def render(self, values: str, *more: str) -> list[dict[str, Any]]:
        key = " ".join([values, *more])
        if key not in self._kept:
            done = self.run(values, *more)
            assert done.returncode == 0, done.stderr
            self._kept[key] = [each for each in yaml.safe_load_all(done.stdout) if each]
        return self._kept[key]


@pytest.fixture(scope="session")
def chart(helm: Any) -> Chart:
    return Chart(helm)


def find(objects: list[dict[str, Any]], kind: str, part: str = "") -> dict[str, Any]:
    """The object of a kind that belongs to the service, or to a part such as `-consume`."""
    [found] = [
        each
        for each in objects
        if each["kind"] == kind and each["metadata"]["name"].endswith("-consume") == (part == "-consume")
    ]
    return found


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] == "Deployment":
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "CronJob":
            yield each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def validate(document: dict[str, Any], version: str) -> None:
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    if custom is None:
        kubernetes_validate.validate(document, version, strict=True)
    else:
        whole = closed(
            ["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind=TEXT, metadata=ANY, spec=custom
        )
        jsonschema.validate(document, whole)


def test_there_are_the_values_files_of_the_readme() -> None:
    assert set(FILES) == {"default", "gpu", "minimal", "streams", "two-region"}


@pytest.mark.parametrize("values", FILES)
def test_objects_are_what_an_api_server_takes(chart: Chart, values: str) -> None:
    file = FILES[values]
    done = chart.helm("lint", "--strict", CHART, *(["-f", file] if file else []))
    assert done.returncode == 0, done.stdout
    objects = chart.render(values)
    for each in objects:
        for version in VERSIONS:
            validate(each, version)
        assert each["metadata"]["name"].startswith("speech-finetune")
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    kinds = {"Deployment", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget"}
    kinds |= {"NetworkPolicy"} if values != "minimal" else set()
    assert kinds <= {kind for kind, _ in names}


def test_an_unknown_field_is_found() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}
    kubernetes_validate.validate(service, VERSIONS[0], strict=True)
    service["spec"]["selectors"] = {}  # type: ignore[index]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


@pytest.mark.parametrize("values", FILES)
def test_containers_write_nothing_and_gain_nothing(chart: Chart, values: str) -> None:
    for pod in pod_specs(chart.render(values)):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        volumes = {each["name"] for each in pod["volumes"]}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
            assert {each["name"] for each in container["volumeMounts"]} <= volumes
            assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}


@pytest.mark.parametrize("values", FILES)
def test_commands_and_settings_are_those_of_the_service(chart: Chart, values: str, tmp_path: Path) -> None:
    objects = chart.render(values)
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    options = build_parser().parse_args(container["args"])
    [config] = [each for each in objects if each["kind"] == "ConfigMap" and "serve.yaml" in each["data"]]
    file = tmp_path / "serve.yaml"
    file.write_text(config["data"]["serve.yaml"])
    settings = load_settings({"models": options.models}, file, {"FINETUNE_SERVE_HOST": "0.0.0.0"})
    assert settings.insecure == (values == "minimal") and (settings.keys is None) == settings.insecure
    assert (str(settings.feedback_key_file) == "/etc/finetune-store/key") == (values == "gpu")
    assert pod["terminationGracePeriodSeconds"] > settings.grace_seconds + 10  # beside preStop
    limit = container["resources"]["limits"].get("nvidia.com/gpu")
    assert (limit == 1) if values == "gpu" else limit is None


def test_improve_is_called_as_the_command_wants_it(chart: Chart) -> None:
    job = find(chart.render("gpu"), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    options = build_parser().parse_args(job["containers"][0]["args"])
    assert options.store == "/store/corrections" and options.promote and options.min_corrections == 200
    names = {each["name"] for each in job["containers"][0]["env"]}
    assert names == {"PGPASSWORD"} and options.key_file == "/etc/finetune-store/key"


def test_consumers_are_called_as_the_command_wants_it(chart: Chart) -> None:
    objects = chart.render("streams")
    pod = find(objects, "Deployment", "-consume")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    options = build_parser().parse_args(container["args"])
    assert (options.model, options.topic, options.to, options.group) == (
        *("/models/speech", ["speech"], "texts", "transcribers"),
    )
    assert options.transactions and options.dead_letter == "unusable"
    assert pod["initContainers"][0]["args"] == ["s3://finetune-models/speech", options.model]
    assert pod["terminationGracePeriodSeconds"] >= options.grace_seconds + 50  # beside revoking and leaving
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert container["ports"] == [{"name": "metrics", "containerPort": options.metrics_port}]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "kafka"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "kafka"]
    assert f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}" == options.config


def test_consumers_are_watched_and_scaled_by_their_group(chart: Chart) -> None:
    objects = chart.render("streams")
    labels = find(objects, "Deployment", "-consume")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "finetune-consume"  # the job of the rules
    for kind in ("PodDisruptionBudget", "PodMonitor", "Deployment"):
        selector = find(objects, kind, "-consume")["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
        of_service = find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert not selector.items() <= of_service.items()
    scaled = find(objects, "ScaledObject", "-consume")["spec"]
    assert scaled["scaleTargetRef"]["name"] == find(objects, "Deployment", "-consume")["metadata"]["name"]
    assert "replicas" not in find(objects, "Deployment", "-consume")["spec"]
    [trigger] = scaled["triggers"]
    assert (trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"]) == ("transcribers", "speech")
    assert trigger["metadata"]["sasl"] == "scram_sha512" and trigger["metadata"]["tls"] == "enable"
    access = find(objects, "TriggerAuthentication", "-consume")
    assert trigger["authenticationRef"]["name"] == access["metadata"]["name"]
    assert {each["name"] for each in access["spec"]["secretTargetRef"]} == {"finetune-kafka"}
    policy = find(objects, "NetworkPolicy")["spec"]
    assert {"port": 9093, "protocol": "TCP"} in [each for rule in policy["egress"] for each in rule["ports"]]
    assert {"port": 9100, "protocol": "TCP"} in policy["ingress"][0]["ports"]
    assert not [each for each in chart.render("default") if each["metadata"]["name"].endswith("-consume")]


def test_probes_are_routes_of_the_service(chart: Chart) -> None:
    [container] = find(chart.render("default"), "Deployment")["spec"]["template"]["spec"]["containers"]
    source = (DEPLOY.parents[1] / "finetune" / "serving" / "status.py").read_text()
    for probe, route in (("startup", "ready"), ("readiness", "ready"), ("liveness", "live")):
        assert container[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{route}"
        assert f'"/health/{route}"' in source


def test_schema_knows_the_settings_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = set(schema["properties"]["settings"]["properties"])
    # What the chart sets itself.
    own = {"models", "host", "port", "keys", "insecure", "behind_tls_proxy", "feedback", "feedback_key_file"}
    assert known == set(Settings.model_fields) - own


def test_rules_and_dashboard_are_those_of_this_folder(chart: Chart) -> None:
    objects = chart.render("gpu")
    assert find(objects, "PrometheusRule")["spec"] == yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
    [dashboard] = [each for each in objects if each["metadata"]["name"].endswith("-dashboard")]
    assert json.loads(dashboard["data"]["finetune.json"]) == json.loads((DEPLOY / "dashboard.json").read_text())
    label = find(objects, "ServiceMonitor")["spec"]["jobLabel"]
    assert find(objects, "Service")["metadata"]["labels"][label] == "finetune"  # the job of rules and dashboard


def test_each_region_has_its_record_and_a_name_for_its_health(chart: Chart) -> None:
    other = ["region.name=eu-west-1", "region.role=secondary", "region.healthCheck=other"]
    other += ["region.host=eu-west-1.speech.example.com"]
    regions = [chart.render("two-region"), chart.render("two-region", "--set", ",".join(other))]
    shared, alone = zip(*([each for each in objects if each["kind"] == "Ingress"] for objects in regions), strict=True)
    prefix = "external-dns.alpha.kubernetes.io/"
    notes = [each["metadata"]["annotations"] for each in shared]
    assert [each[f"{prefix}aws-failover"] for each in notes] == ["PRIMARY", "SECONDARY"]
    for name in ("set-identifier", "aws-health-check-id"):
        assert notes[0][f"{prefix}{name}"] != notes[1][f"{prefix}{name}"]
    assert len({each["spec"]["rules"][0]["host"] for each in shared}) == 1
    assert len({each["spec"]["rules"][0]["host"] for each in alone}) == 2
    for each in alone:
        assert [path["path"] for path in each["spec"]["rules"][0]["http"]["paths"]] == ["/health/ready"]
        assert "annotations" not in each["metadata"]


def test_secret_has_the_keys_that_were_given(chart: Chart, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n- name: anna\n  sha256: " + "0" * 64 + "\n  scopes: [transcribe]\n")
    objects = chart.render("default", "--set", "keys.existingSecret=", "--set-file", f"keys.content={keys}")
    secret = find(objects, "Secret")
    assert secret["stringData"] == {"keys.yaml": keys.read_text()}
    volumes = find(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    [volume] = [each for each in volumes if each["name"] == "keys"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]


@pytest.mark.parametrize(
    ("values", "change", "sentence"),
    [
        ("default", "keys.existingSecret=", "needs keys"),
        ("default", "keys.content=x", "both given"),
        ("default", "ingress.enabled=true", "ingress.host and ingress.tlsSecret"),
        ("default", "store.enabled=true", "SQLite is on one node"),
        ("gpu", "store.audio=", "store.audio"),
        ("gpu", "improve.recipe=", "improve.recipe"),
        ("two-region", "region.healthCheck=", "region.healthCheck"),
        ("two-region", "region.host=", "region.host"),
        ("default", "models[0].name=a,models[0].champion=true", "a model with url or path"),
        ("gpu", "models[0].url=s3://a/b", "oneOf"),
        ("default", "models[0].name=a,models[0].path=relative", "pattern"),
        ("default", "settings.quue=3", "quue"),
        ("default", "replica=3", "replica"),
        ("default", "store.database=postgresql://me:secret@host/a", "pattern"),
        ("default", "autoscaling.kind=both", "kind"),
        ("streams", "consume.group=", "consume.group"),
        ("streams", "consume.brokers=broker", "pattern"),
        ("streams", "consume.model=other", "consume.model is not the name"),
        ("streams", "consume.secret=", "consume.secret"),
        ("streams", "consume.autoscaling.secretKeys=null", "needs consume.autoscaling.secretKeys"),
    ],
)
def test_what_does_not_fit_is_refused(chart: Chart, values: str, change: str, sentence: str) -> None:
    done = chart.run(values, "--set", change)
    assert done.returncode != 0 and sentence in done.stderr, done.stderr


def test_a_store_in_sqlite_is_one_pod_with_a_volume_of_its_node(chart: Chart) -> None:
    changes = ["replicas=1", "store.enabled=true", "improve.enabled=true", "improve.recipe=a", "models[0].name=a"]
    objects = chart.render("default", "--set", ",".join([*changes, "models[0].path=/m"]))
    assert find(objects, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert find(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert "podAffinity" in next(pod for pod in pod_specs(objects) if "affinity" in pod)["affinity"]
    for each in objects:
        validate(each, VERSIONS[-1])


def test_autoscaling_follows_the_wait(chart: Chart, promtool: Any, tmp_path: Path) -> None:
    """The queries of KEDA and of prometheus-adapter, evaluated by promtool: waits of 6 s on average, 0 without any."""
    triggers = find(chart.render("gpu"), "ScaledObject")["spec"]["triggers"]
    rules = yaml.safe_load((DEPLOY / "helm" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    labels = 'namespace="voices",pod="a"'
    queries = [rule["metricsQuery"].replace("<<.LabelMatchers>>", labels) for rule in rules]
    queries = [query.replace("<<.GroupBy>>", "namespace, pod") for query in queries]
    own = 'job="finetune",namespace="voices",service="speech-finetune",pod="a"'
    series = {"queue_wait_seconds_sum": "0+120x10 1200x20", "queue_wait_seconds_count": "0+20x10 200x20"}
    series |= {'live_sessions{model="a"}': "3x30", 'live_sessions{model="b"}': "4x30"}
    other = [("finetune_queue_wait_seconds_sum", "0+1000x30"), ("finetune_queue_wait_seconds_count", "0+1x30")]

    def name(series: str, labels: str) -> str:
        start, _, rest = series.partition("{")
        return f"finetune_{start}{{{labels}{',' + rest if rest else '}'}"

    given = [{"series": name(each, own), "values": values} for each, values in series.items()]
    given += [{"series": f'{each}{{job="finetune",namespace="other"}}', "values": values} for each, values in other]
    pod = '{namespace="voices", pod="a"}'
    expected = [(triggers[0]["metadata"]["query"], "{}", 6, 0), (triggers[1]["metadata"]["query"], "{}", 7, 7)]
    expected += [(queries[0], pod, 6, 0), (queries[1], pod, 7, 7)]
    checks = [
        {"expr": query, "eval_time": at, "exp_samples": [{"labels": labels, "value": value}]}
        for query, labels, busy, idle in expected
        for at, value in (("8m", busy), ("25m", idle))
    ]
    test = {"tests": [{"interval": "1m", "input_series": given, "promql_expr_test": checks}]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_store_is_prepared_once(tmp_path: Path) -> None:
    """files/prepare_store.sh with the real commands: a store with a champion, left as it is by the second call."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "finetune").write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune "$@"\n')
    (programs / "finetune").chmod(0o755)
    base = DEPLOY.parents[1] / "recipes" / "quickstart" / "base"
    command = ["sh", str(CHART / "files" / "prepare_store.sh"), str(tmp_path / "volume" / "corrections"), str(base)]
    key = tmp_path / "key"
    key.write_text(base64.b64encode(bytes(range(32))).decode())
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(DEPLOY.parents[1])}
    environment |= {"STORE_REVIEWERS": "2", "STORE_KEY_FILE": str(key)}
    (tmp_path / "volume").mkdir()
    for number in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("is a store (encrypted)") == (not number)  # The second one makes nothing.
    champion = tmp_path / "volume" / "corrections" / "models" / "champion"
    assert champion.resolve().name == "first" and (champion / "config.json").is_file()
