"""The resources of the machine: from prepared file trees, and under real limits where they can be set."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import execute

from finetune.commands import environment
from finetune.commands.launch import settle_threads
from finetune.errors import UserError
from finetune.resources import machine

GIB = 1 << 30
MEMINFO = "MemTotal:       25165824 kB\nMemFree: 1 kB\nMemAvailable:   20971520 kB\n"
STATUS = "Name: python\nCpus_allowed_list:\t0-2,5\n"
NESTED = {
    "proc/self/cgroup": "0::/outer/inner\n",
    "sys/fs/cgroup/outer/cpu.max": "50000 100000",
    "sys/fs/cgroup/outer/inner/cpu.max": "max 100000",
    "sys/fs/cgroup/outer/memory.max": str(2 * GIB),
    "sys/fs/cgroup/outer/memory.current": str(GIB),
    "sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max",
}
VERSION_1 = {
    "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "250000",
    "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 * GIB),
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(GIB),
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
}
# In a container the path is the host's, and what is mounted is the container's own group.
CONTAINER = {
    "proc/self/cgroup": "0::/system.slice/docker-0123.scope\n",
    "sys/fs/cgroup/cpu.max": "150000 100000",
    "sys/fs/cgroup/memory.max": str(GIB),
    "sys/fs/cgroup/memory.current": str(GIB // 4),
}


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Writes files that are read in place of the machine's own."""

    def write(files: dict[str, str]) -> None:
        for name, text in ({"proc/meminfo": MEMINFO, "proc/self/status": STATUS} | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setenv("FINETUNE_MACHINE_ROOT", str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("files", "cores", "threads", "total", "available"),
    [
        ({}, 4, 4, 24 * GIB, 20 * GIB),
        ({"proc/self/cgroup": "0::/\n"}, 4, 4, 24 * GIB, 20 * GIB),
        (NESTED, 0.5, 1, 2 * GIB, 1.5 * GIB),
        (VERSION_1, 2.5, 2, 2 * GIB, GIB),
        (CONTAINER, 1.5, 1, GIB, 0.75 * GIB),
    ],
    ids=["no cgroup", "no limit", "the outer of two groups limits", "version 1", "container"],
)
def test_cores_and_memory_respect_limits(
    prepare: Callable[[dict[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    cores: float,
    threads: int,
    total: int,
    available: int,
) -> None:
    prepare(files)
    assert machine.count_cores() == cores
    assert machine.count_threads() == threads
    assert machine.measure_memory() == machine.Memory(total, available, total < 24 * GIB)
    limited = cores < 4
    assert machine.find_thread_limit() == (threads if limited else None)
    assert machine.find_thread_limit(2) == max(1, int(cores / 2))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    settle_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ.get("OMP_NUM_THREADS") == (str(threads) if limited else None)
    for name, chosen in (("OMP_NUM_THREADS", "7"), ("OMP_WAIT_POLICY", "ACTIVE")):
        monkeypatch.setenv(name, chosen)
        settle_threads()
        assert os.environ[name] == chosen


@pytest.mark.parametrize("meminfo", ["", "MemTotal:\n", "MemTotal: many kB\n"])
def test_memory_is_known_without_a_readable_meminfo(prepare: Callable[[dict[str, str]], None], meminfo: str) -> None:
    prepare({"proc/meminfo": meminfo})
    found = machine.measure_memory()
    assert found.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < found.available <= found.total and not found.limited


def test_odd_lines_of_cgroups_set_no_limit(prepare: Callable[[dict[str, str]], None]) -> None:
    odd = {
        "proc/self/cgroup": "\nno group\n0:\n0::/job\n",
        "sys/fs/cgroup/job/cpu.max": "some 100000",
        "sys/fs/cgroup/job/memory.max": "²",
    }
    prepare(odd)
    assert (machine.count_cores(), machine.measure_memory().total) == (4, 24 * GIB)
    odd |= {"sys/fs/cgroup/job/memory.max": str(GIB), "sys/fs/cgroup/job/memory.current": "?"}
    prepare({**odd, "sys/fs/cgroup/job/memory.stat": "inactive_file\n"})
    assert machine.measure_memory() == machine.Memory(GIB, GIB, True)


def test_workers_follow_cores(prepare: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU none with one core, else one; with a GPU all cores of a process but one."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for allowed, processes, on_cpu, on_gpu in [("0", 1, 0, 1), ("0-3", 1, 1, 3), ("0-63", 1, 1, 8), ("0-3", 2, 1, 1)]:
        prepare({"proc/self/status": f"Cpus_allowed_list:\t{allowed}\n"})
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert (machine.count_workers(cpu), machine.count_workers(gpu)) == (on_cpu, on_gpu)
    prepare(NESTED)
    assert machine.count_workers(cpu) == 0


def test_instruction_sets_can_be_capped(
    prepare: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = dict.fromkeys(("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"), True)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: every)
    cpu = torch.device("cpu")
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert machine.list_instruction_sets() == list(every)
    assert machine.choose_precision("auto", cpu) == "bf16"
    for name, value, expected in [
        (names[0], "avx2", ["avx2", "avx_vnni"]),
        (names[0], "default", []),
        (names[1], "AVX2", ["avx2"]),
        (names[2], "AVX2_VNNI", ["avx2", "avx_vnni"]),
        (names[1], "AVX512_CORE_VNNI", ["avx2", "avx512_f", "avx_vnni", "avx512_vnni"]),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert machine.list_instruction_sets() == expected, value
            assert machine.choose_precision("auto", cpu, training=True) == "float32"
            with pytest.raises(UserError, match="no instructions for bf16"):
                machine.choose_precision("bf16", cpu)
    # Where torch can't be loaded the operating system tells, on x86 and on Arm.
    monkeypatch.setitem(sys.modules, "torch", None)
    prepare({"proc/cpuinfo": "model name\t: A CPU of tests\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"})
    assert (machine.name_cpu(), machine.list_instruction_sets()) == (
        "A CPU of tests",
        ["avx2", "avx512_f", "avx512_bf16"],
    )
    prepare({"proc/cpuinfo": "Features\t: fp asimd asimddp bf16 svebf16\n"})
    assert machine.list_instruction_sets() == ["neon", "dot", "bf16", "sve_bf16"]


@pytest.mark.parametrize(
    ("capability", "training", "expected"),
    [((8, 0), True, "bf16"), ((9, 0), False, "bf16"), ((7, 5), True, "fp16"), ((7, 5), False, "float32")],
)
def test_precision_of_a_gpu_follows_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], training: bool, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    gpu = torch.device("cuda")
    assert machine.choose_precision("auto", gpu, training=training) == expected
    assert machine.choose_precision("fp16", gpu) == "fp16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        machine.choose_precision("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="int3 is not a precision"):
        machine.choose_precision("int3", gpu)


@pytest.mark.parametrize(
    ("device", "precision", "kept", "expected"),
    [
        ("cpu", "bf16", "600", 600 * machine.KERNEL_BYTES),
        ("cpu", "bf16", None, 1024 * machine.KERNEL_BYTES),
        ("cpu", "float32", "600", 0),
        ("cuda", "bf16", "600", 0),
    ],
)
def test_kernels_take_memory_in_bf16_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: machine.Precision, kept: str | None, expected: int
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    if kept:
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", kept)
    assert machine.limit_kernels(torch.device(device), precision) == expected


def test_gpus_that_torch_cannot_use_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.list_gpus() == []
    program.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360, 7.5, 535.54.03'\n")
    program.chmod(0o755)
    assert machine.list_gpus() == [machine.Gpu("NVIDIA T4", 15 * GIB, "7.5", "535.54.03")]
    program.write_text("#!/bin/sh\necho 'Field \"compute_cap\" is not a valid field to query.'; exit 2\n")
    assert machine.list_gpus() == []


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {name: each for name, each in project["optional-dependencies"].items() if name not in ("test", "dev")}
    told = {name: list(packages) for name, (packages, _) in environment.EXTRAS.items()}
    assert told == {
        name: [each.split(">")[0].split("[")[0] for each in packages] for name, packages in declared.items()
    }


def test_environment_fits_one_screen_also_without_torch(tmp_path: Path) -> None:
    """On one core, in a folder where torch is broken, nothing is on the PATH and a token lies in the environment."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    program = f"""
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
sys.path.insert(0, {str(tmp_path)!r})
from finetune.commands import environment
found = environment.examine_environment()
assert found["broken"]["torch"] == "ImportError: libcudart.so.13: cannot open shared object file", found["broken"]
assert found["computing"] is None and found["cpu"]["name"] and found["memory"]["available"] > 0
assert found["cores"]["usable"] <= 1 or not hasattr(os, "sched_setaffinity")
assert found["hub"] == {{"endpoint": "http://127.0.0.1:9", "offline": False, "token": True, "reachable": False}}
compiled = found["disk"]["compiled code"]["folder"]
assert compiled.endswith(("finetune/decoding/__pycache__", "/numba")), compiled
found["extras"] = dict.fromkeys(found["extras"], False)
print("\\n".join(environment.describe_environment(found)))
"""
    variables = {"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://user:word@127.0.0.1:9"}
    said = execute([sys.executable, "-c", program], tmp_path, PATH="", HOME=str(tmp_path), **variables)
    lines = said.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 100
    assert "torch can't be imported: ImportError: libcudart" in said
    assert "corpora at gs:// URLs: pip install 'finetune[gcs]'" in said
    assert "a token is set" in said
    assert not any(secret in said for secret in ("hf_secret", "word@", str(tmp_path)))


class _Groups:
    """New cgroups with such limits below this process's own; skips the test where none can be made."""

    def __init__(self, cores: float, memory: int) -> None:
        quota = round(cores * 100_000)
        self._values = {
            "cpu": {
                "cpu.max": f"{quota} 100000",
                "cpu.cfs_period_us": "100000",
                "cpu.cfs_quota_us": str(quota),
            },
            "memory": {"memory.max": str(memory), "memory.limit_in_bytes": str(memory)},
        }
        self.folders: list[Path] = []

    def __enter__(self) -> "_Groups":
        try:
            for controller, values in self._values.items():
                own = next(machine._list_cgroups(Path("/"), controller), None)
                if own is None:
                    pytest.skip(f"there is no cgroup for {controller}")
                folder = own / f"finetune-test-{os.getpid()}"
                if folder not in self.folders:
                    folder.mkdir()
                    self.folders.append(folder)
                found = [name for name in values if (folder / name).exists()]
                if not found:
                    pytest.skip(f"the cgroup {own} hands on no limit for {controller}")
                for name in found:
                    (folder / name).write_text(values[name])
        except OSError as error:
            self.__exit__()
            pytest.skip(f"no cgroup can be made: {error}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self.folders:
            folder.rmdir()

    def enter(self) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self) -> int:
        """The most bytes that the group took."""
        files = [folder / name for folder in self.folders for name in ("memory.peak", "memory.max_usage_in_bytes")]
        return next((int(file.read_text()) for file in files if file.exists()), 0)


@pytest.mark.long
def test_half_a_core_and_2_gib_are_detected_and_enough(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """`finetune env`, a training with all that is automatic, and a transcription in one limited process."""
    recipe = write_recipe(tmp_path, training={"batch_seconds": "auto", "num_workers": "auto"})
    audio = next(Path(json.loads(recipe.read_text())["data"]["root"]).rglob("*.wav"))
    run = tmp_path / "run"
    program = f"""
from finetune.cli import main
assert main(["env", "--json"]) == 0
print("end of env")
import torch
assert torch.get_num_threads() == 1, torch.get_num_threads()
assert main(["train", {str(recipe)!r}, "--output", {str(run)!r}]) == 0
assert main(["transcribe", {str(run / "model")!r}, {str(audio)!r}]) == 0
"""
    groups = _Groups(0.5, 2 * GIB)
    environment_variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with groups:
        finished = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            preexec_fn=groups.enter,
            env=environment_variables,
            check=False,
        )
        peak = groups.peak()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads(finished.stdout.partition("end of env")[0])
    assert found["cores"]["usable"] == 0.5
    assert (found["memory"]["total"], found["memory"]["limited"]) == (2 * GIB, True)
    assert (found["computing"]["threads"], found["computing"]["workers"]) == (1, 0)
    assert 0 < peak < 2 * GIB
    told = json.loads((run / "model" / "training.json").read_text())
    assert told["versions"]["machine"]["cores"] == 0.5
    assert told["versions"]["machine"]["memory_gib"] == 2.0
    assert told["hardware"]["device"].startswith(f"1 thread of {told['versions']['machine']['cpu']}")
    assert "0.5 core of" in (run / "report" / "index.html").read_text()
    assert "0.5 core of" in (run / "model" / "README.md").read_text()
