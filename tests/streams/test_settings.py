"""Properties of librdkafka from a file: what they may set, and that no secret is shown."""

from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.streams.connection import Watch, describe_failure, make_consumer
from finetune.streams.settings import StreamSettings, read_properties


def make(**options: Any) -> StreamSettings:
    return StreamSettings(
        **{"brokers": "h:1", "topics": ("a",), "results": "b", "group": "g", "dead_letters": "c", **options}
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "security.protocol: SASL_SSL\nsasl.password: a#b=c\n"),
        ("a.properties", "# ours\nsecurity.protocol=SASL_SSL\n\n! old\nsasl.password = a#b=c\n"),
    ],
)
def test_properties_are_read_from_yaml_and_from_lines(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = read_properties(tmp_path / name)
    assert found == {"security.protocol": "SASL_SSL", "sasl.password": "a#b=c"}
    settings = make(properties=found)
    assert settings.consumer_properties()["security.protocol"] == "SASL_SSL"
    assert settings.producer_properties("x")["sasl.password"] == "a#b=c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hunter2: [1]\n", "is not a list of properties"),
        ("- hunter2\n", "is not a list of properties"),
        ("a: 'hunter2\n", "is not YAML"),
        ("enable.auto.commit: true\n", "sets enable.auto.commit, which can't be changed"),
        ("group.id: hunter2\n", "it is --group"),
        ("acks: 1\n", "acknowledged by all"),
    ],
)
def test_a_wrong_file_is_one_sentence_without_its_values(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_properties(tmp_path / "a.yaml")
    assert said in str(refused.value) and "hunter2" not in str(refused.value)
    with pytest.raises(UserError, match="can't be read"):
        read_properties(tmp_path / "none.yaml")


def test_results_never_depend_on_the_file() -> None:
    settings = make(properties={"isolation.level": "read_uncommitted", "message.timeout.ms": 5})
    assert settings.consumer_properties()["enable.auto.commit"] is False
    assert settings.producer_properties("x")["acks"] == "all"
    assert settings.producer_properties("x")["enable.idempotence"] is True
    assert make().is_cooperative and not make(properties={"partition.assignment.strategy": "range"}).is_cooperative
    with pytest.raises(UserError, match="expected other topics"):
        make(results="a")


@pytest.mark.parametrize(
    "properties", [{"sasl.passwrd": "hunter2"}, {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "x": 1}]
)
def test_properties_that_librdkafka_refuses_are_one_sentence(properties: dict[str, Any]) -> None:
    settings = make(properties={**properties, "sasl.password": "hunter2"})
    with pytest.raises(UserError) as refused:
        make_consumer(settings, Watch(settings))
    assert "No such configuration property" in str(refused.value) and "hunter2" not in str(refused.value)


def test_secrets_are_hidden_in_what_librdkafka_says() -> None:
    settings = make(properties={"sasl.password": "hunter2", "ssl.key.password": "tiger", "sasl.username": "anna"})
    assert describe_failure("login of anna with hunter2 and tiger failed.", settings) == (
        "login of anna with *** and *** failed"
    )
