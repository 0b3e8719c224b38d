"""Environments for releases: the lower bounds that are pinned, and the interpreters that are found."""

import sys

from check_versions import find_python, list_lower_bounds


def test_each_lower_bound_is_pinned_once() -> None:
    project = {
        "dependencies": ["torch>=2.11,<2.15", "httpx2>=2,<3"],
        "optional-dependencies": {
            "onnx": ["onnx>=1.18", "onnxruntime>=1.20"],
            "silero": ["onnxruntime>=1.20"],
            "test": ["own[onnx]", "boto3==1.43.117", "moto[server]>=5", "types-tqdm"],
        },
    }
    expected = ["httpx2==2", "moto==5", "onnx==1.18", "onnxruntime==1.20", "torch==2.11"]
    assert list_lower_bounds(project) == expected


def test_only_interpreters_that_start_are_found() -> None:
    assert find_python("3.999") is None
    assert find_python(f"{sys.version_info.major}.{sys.version_info.minor}") is not None
