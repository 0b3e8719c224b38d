"""Report hardware, versions and settings on one screen, for bug reports."""

import importlib
import importlib.util
import os
import platform
import shutil
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.resources.addresses import public_address
from finetune.resources.machine import (
    choose_device,
    choose_precision,
    count_cores,
    count_threads,
    count_workers,
    format_gib,
    list_gpus,
    list_instruction_sets,
    measure_disk,
    measure_memory,
    name_cpu,
)

# Packages that affect results, in the order in which a bug report is read.
_PACKAGES = (
    *("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "jiwer", "numba"),
    *("numpy", "scipy", "soundfile", "av"),
)
# The extras of pyproject.toml with their packages and the features that need them.
EXTRAS = {
    "numbers": (("num2words",), "digits in transcripts to words"),
    "serve": (
        ("fastapi", "uvicorn", "websockets", "python-multipart", "prometheus-client"),
        "finetune serve",
    ),
    "kafka": (("confluent-kafka", "prometheus-client"), "finetune consume"),
    "feedback": (("sqlalchemy", "alembic", "cryptography", "psycopg"), "finetune feedback, improve and models"),
    "notebook": (("ipykernel", "jupytext", "nbclient"), "the notebooks in recipes/notebooks"),
    "denoise": (("noisereduce",), "data.preprocessing with denoise"),
    "lora": (("peft",), "model.lora"),
    "deepspeed": (("deepspeed",), "training with recipes/accelerate/deepspeed.yaml"),
    "silero": (("onnxruntime", "silero-vad"), "--vad silero"),
    "microphone": (("sounddevice",), "finetune live --microphone"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "finetune export, and what it writes"),
    "s3": (("s3fs",), "corpora at s3:// URLs"),
    "ray": (("ray",), "many machines: --engine ray"),
    "gcs": (("gcsfs",), "corpora at gs:// URLs"),
    "docs": (("sphinx", "myst-parser", "furo", "sphinx-copybutton"), ""),  # only for the manual's site
    "kenlm": (("kenlm",), ""),  # only for our tests
}
_PROGRAMS = {"git": "the commit in a run's recipe.yaml", "lmplz": "language models of billions of words"}
_HUB_SECONDS = 1.0  # A slower hub is reported as not reachable.
_WIDTH = 100


def examine_environment() -> dict[str, Any]:
    """Collect all facts as JSON values: without secrets, and with `~` for the home folder.

    If torch cannot be imported, that is reported like any other fact.
    """
    hub = _Answer(_examine_hub)
    gpus = _Answer(list_gpus)
    broken = _find_broken("torch")
    if not broken and importlib.util.find_spec("torchaudio"):  # Where it is installed Transformers imports it.
        broken = _find_broken("torchaudio")
    memory = measure_memory()
    return {
        "finetune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _find_version(name) for name in _PACKAGES},
        "broken": broken,
        "cpu": {"name": name_cpu(), "instruction_sets": list_instruction_sets()},
        "cores": {"usable": count_cores(), "machine": os.cpu_count()},
        "memory": vars(memory),
        "gpus": [vars(gpu) for gpu in gpus.wait([])],
        "computing": None if "torch" in broken else _examine_torch(),
        "disk": {name: {"folder": _hide_home(each), "free": measure_disk(each)} for name, each in _list_folders()},
        "extras": {name: all(map(_find_version, packages)) for name, (packages, _) in EXTRAS.items()},
        "programs": {name: shutil.which(name) is not None for name in _PROGRAMS},
        "hub": hub.wait({**_examine_token(), "reachable": False}),
    }


def describe_environment(found: Mapping[str, Any]) -> list[str]:
    """Format the facts of `examine_environment` in lines of up to 100 characters."""
    rows = [("finetune", f"{found['finetune']}, Python {found['python']}, {found['platform']}")]
    packages = [f"{name} {number or 'missing'}" for name, number in found["packages"].items()]
    rows.append(("packages", ", ".join(packages)))
    rows += [("broken", f"{name} can't be imported: {reason}") for name, reason in found["broken"].items()]
    sets = ", ".join(found["cpu"]["instruction_sets"]) or "no instruction sets that matter"
    rows.append(("CPU", f"{found['cpu']['name']} ({sets})"))
    rows.append(("cores", _describe_cores(found)))
    memory = found["memory"]
    limit = ", the limit of a cgroup" if memory["limited"] else ""
    rows.append(("memory", f"{format_gib(memory['available'])} free of {format_gib(memory['total'])}{limit}"))
    rows += [("GPU", _describe_gpu(gpu)) for gpu in found["gpus"]] or [("GPU", "none")]
    rows.append(("precision", _describe_precision(found)))
    disk = [f"{name} {format_gib(each['free'])}" for name, each in found["disk"].items()]
    rows.append(("free disk", ", ".join(disk)))
    rows.append(("hub", _describe_hub(found["hub"])))
    extras = [name for name, there in found["extras"].items() if there]
    programs = [name for name, there in found["programs"].items() if there]
    rows.append(("there", ", ".join([*(f"finetune[{name}]" for name in extras), *programs]) or "no extra, no program"))
    for name, there in found["extras"].items():
        if not there and EXTRAS[name][1]:
            rows.append(("missing", f"{EXTRAS[name][1]}: pip install 'finetune[{name}]'"))
    missing = [(name, what) for name, what in _PROGRAMS.items() if not found["programs"][name]]
    rows += [("missing", f"{what}: {name} is not on the PATH") for name, what in missing]
    return [line for label, text in rows for line in _format(label, text)]


class _Answer:
    """The result of a slow function, called in a daemon thread."""

    def __init__(self, ask: Any) -> None:
        self._given: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._given.append(ask()), daemon=True)
        self._thread.start()

    def wait(self, default: Any) -> Any:
        """Return the result, or the default after `_HUB_SECONDS`."""
        self._thread.join(_HUB_SECONDS)
        return self._given[0] if self._given else default


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _find_broken(package: str) -> dict[str, str]:
    """Return why a package cannot be imported, if so; any exception counts."""
    try:
        importlib.import_module(package)
    except Exception as error:
        return {package: _hide_home(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")}
    return {}


def _examine_torch() -> dict[str, Any]:
    import torch

    device = choose_device()
    return {
        "device": device.type,
        "precision": choose_precision("auto", device, training=True),
        "threads": torch.get_num_threads(),
        "workers": count_workers(device),
        "cuda": torch.version.cuda,
    }


def _list_folders() -> Iterator[tuple[str, Path]]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()
    yield "runs", Path("runs")
    yield "hub's cache", Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    yield "data sets", Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    beside = Path(__file__).parents[1] / "decoding"
    compiled = beside / "__pycache__" if os.access(beside, os.W_OK) else cache / "numba"
    yield "compiled code", Path(os.environ.get("NUMBA_CACHE_DIR") or compiled)


def _examine_token() -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    endpoint = public_address(constants.ENDPOINT)
    return {"endpoint": endpoint, "offline": constants.HF_HUB_OFFLINE, "token": get_token() is not None}


def _examine_hub() -> dict[str, Any]:
    found = _examine_token()
    if found["offline"]:
        return {**found, "reachable": None}
    try:
        urllib.request.urlopen(urllib.request.Request(found["endpoint"], method="HEAD"), timeout=_HUB_SECONDS).close()
    except (OSError, ValueError) as error:
        # An HTTP error is an answer: the hub is there, and only that page is not.
        return {**found, "reachable": isinstance(error, urllib.error.HTTPError)}
    return {**found, "reachable": True}


def _describe_cores(found: Mapping[str, Any]) -> str:
    cores, computing = found["cores"], found["computing"]
    text = f"{cores['usable']:g} usable of {cores['machine']}"
    if computing is None:
        return f"{text}: {count_threads()} to compute"
    workers = computing["workers"]
    readers = f"{workers} worker{'s' if workers > 1 else ''} to read audio" if workers else "no worker to read audio"
    return f"{text}: {computing['threads']} thread{'s' if computing['threads'] > 1 else ''} to compute, {readers}"


def _describe_gpu(gpu: Mapping[str, Any]) -> str:
    others = {"compute capability": gpu["compute_capability"], "driver": gpu["driver"]}
    details = [f"{name} {value}" for name, value in others.items() if value]
    return ", ".join([gpu["name"], format_gib(gpu["memory"]), *details])


def _describe_precision(found: Mapping[str, Any]) -> str:
    computing = found["computing"]
    if computing is None:
        return "unknown without torch"
    precision, cuda, on_gpu = computing["precision"], computing["cuda"], computing["device"] == "cuda"
    device = "GPU" if on_gpu else "CPU"
    support = "instructions for it" if precision == "bf16" else "no instructions for bf16 and would emulate it"
    text = f"auto is {precision}: this {device} has {support}"
    if found["gpus"] and not on_gpu:
        text += f"; torch can't use the GPU ({f'CUDA {cuda}' if cuda else 'built without CUDA'})"
    return text


def _describe_hub(hub: Mapping[str, Any]) -> str:
    reached = {None: "not asked, HF_HUB_OFFLINE is set", True: "reachable", False: "not reachable"}[hub["reachable"]]
    return f"{hub['endpoint']}: {reached}; {'a token is set' if hub['token'] else 'no token (hf auth login)'}"


def _format(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label:11}{text}", _WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False)


def _hide_home(text: str | Path) -> str:
    return str(text).replace(str(Path.home()), "~") if str(Path.home()) != "/" else str(text)
