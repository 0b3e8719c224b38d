"""The OpenAPI document against the service: schemathesis sends what it allows and what it forbids."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

# Random bytes are allowed by the document, and are no audio.
EXCLUDED = [positive_data_acceptance, unsupported_method]


def test_answers_are_as_described(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    labels = {operation.label for operation in operations}
    assert {"POST /v1/audio/transcriptions", "POST /models/{name}", "GET /health/ready", "GET /metrics"} <= labels
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _try(operation, mode)


def _try(operation: Any, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def send(case: Any) -> None:
        case.call_and_validate(excluded_checks=EXCLUDED)

    try:
        send()
    except Unsatisfiable:  # Any bytes and any name are what the document allows.
        assert mode is GenerationMode.NEGATIVE
