"""The resources of this machine: CPU, cores, memory, disks and GPUs, and the precision that they support.

Other modules do not query them. All can be limited from outside: instruction sets by `ATEN_CPU_CAPABILITY` and
`ONEDNN_MAX_CPU_ISA`, as torch and oneDNN read them; cores by CPU affinity and a cgroup's quota; memory by a cgroup's
limit. `FINETUNE_MACHINE_ROOT` names a folder to read `proc` and `sys` from instead of `/`.
"""

import contextlib
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.errors import UserError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]

# The names of precisions in recipes and on the command line.
_PRECISIONS: dict[str, Precision] = {
    "no": "float32",
    "float32": "float32",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
}

# NVIDIA's Ampere is the first architecture with bfloat16.
_BF16_COMPUTE_CAPABILITY = (8, 0)

# Instruction sets that decide which CPU operations are fast, by their names in `torch.cpu.get_capabilities()`.
_X86 = ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
_ARM = ("neon", "dot", "bf16", "i8mm", "sve", "sve_bf16")
# Their names in /proc/cpuinfo, where these differ.
_FLAGS = {"avx512_f": "avx512f", "neon": "asimd", "dot": "asimddp", "sve_bf16": "svebf16"}
_ONEDNN_BF16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10", "DEFAULT", "ALL")
_ONEDNN_VNNI = (*_ONEDNN_BF16, "AVX512_CORE_VNNI", "AVX2_VNNI")


KERNEL_BYTES = 800_000  # at most, of oneDNN for one shape
_KERNELS = 1024  # that oneDNN keeps unless told
_MAX_WORKERS = 8
# A driver with a hanging GPU may not answer.
_PROGRAM_SECONDS = 2.0


@dataclass(frozen=True)
class Gpu:
    """A GPU with its memory in bytes; compute capability and driver if they are known."""

    name: str
    memory: int
    compute_capability: str | None
    driver: str | None


@dataclass(frozen=True)
class Memory:
    """The memory that this process may use and the free part of it, in bytes; `limited` if a cgroup limits it."""

    total: int
    available: int
    limited: bool


def list_instruction_sets() -> list[str]:
    """The instruction sets that decide the speed of this CPU, without those that the environment disables."""
    try:
        import torch

        found = torch.cpu.get_capabilities()
        names = [name for name in (*_X86, *_ARM) if found.get(name)]
    except (ImportError, OSError):  # Without torch the operating system is asked.
        information = _root() / "proc/cpuinfo"
        flags = f"{_read_field(information, 'flags')} {_read_field(information, 'Features')}".split()
        names = [name for name in (*_X86, *_ARM) if _FLAGS.get(name, name) in flags]
    aten = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    onednn = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    if aten in ("default", "avx2") or not onednn.startswith(("AVX512", "AVX10", "DEFAULT", "ALL")):
        names = [name for name in names if not name.startswith(("avx512", "amx"))]
    if aten == "default" or onednn in ("SSE41", "AVX"):
        names = [name for name in names if not name.startswith("avx")]
    if not onednn.startswith(_ONEDNN_VNNI):
        names = [name for name in names if not name.endswith("vnni")]
    if not onednn.startswith(_ONEDNN_BF16):
        names = [name for name in names if not name.endswith(("bf16", "fp16", "int8"))]
    return names


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them emulates it, 30 times slower."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BF16_COMPUTE_CAPABILITY
    fast = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}
    return device.type == "cpu" and not fast.isdisjoint(list_instruction_sets())


def choose_precision(asked: str, device: "torch.device", *, training: bool = False) -> Precision:
    """The precision to compute in: the one that is asked for, or for `auto` the fastest suitable one.

    `auto` is bf16 if the device supports it, fp16 for `training`, which scales the loss, on other GPUs, and float32
    otherwise. Raises UserError for an unknown precision, and for one that the device only emulates.
    """
    if asked == "auto":
        if has_fast_bf16(device):
            return "bf16"
        return "fp16" if training and device.type == "cuda" else "float32"
    precision = _PRECISIONS.get(asked)
    if precision is None:
        raise UserError(f"{asked} is not a precision: expected auto, float32, bf16 or fp16.")
    ways = "training.mixed_precision=auto or no" if training else "--precision auto or float32"
    if precision == "bf16" and not has_fast_bf16(device):
        what = "GPU" if device.type == "cuda" else "CPU"
        sets = "" if device.type == "cuda" else f" (it has {', '.join(list_instruction_sets()) or 'none that matter'})"
        raise UserError(
            f"This {what} has no instructions for bf16{sets} and would emulate it many times slower than float32: use "
            f"{ways}."
        )
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"fp16 needs a GPU, and there is none: use {ways}.")
    return precision


def count_cores() -> float:
    """The cores that this process may use by its affinity and its cgroup's quota, which may be a fraction."""
    cores: float = _count_affinity()
    for folder in _list_cgroups(_root(), "cpu"):
        quota, period = _read_quota(folder)
        if quota > 0 and period > 0:
            cores = min(cores, quota / period)
    return cores


def count_threads() -> int:
    """The number of threads to compute with: one for each whole core, at least one."""
    return max(1, math.floor(count_cores()))


def find_thread_limit(num_processes: int = 1) -> int | None:
    """The number of threads for each of `num_processes`; None if it is torch's default.

    It is for one process without a cgroup's quota: torch and OpenMP respect the affinity, but not a quota.
    """
    cores = count_cores()
    if num_processes == 1 and cores >= _count_affinity():
        return None
    return max(1, math.floor(cores / num_processes))


def count_workers(device: "torch.device") -> int:
    """The number of worker processes that read audio for a training process on a device.

    On a CPU one worker is fast enough; with less than two cores there is none, as it would compete with training and
    need memory. For a GPU it is all cores of this process but one, up to 8.
    """
    cores = count_cores() / count_local_processes()
    if device.type == "cuda":
        return min(_MAX_WORKERS, max(1, math.floor(cores) - 1))
    return 1 if cores >= 2 else 0


def count_local_processes() -> int:
    """The number of training processes on this machine, from the launcher's environment."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def choose_device() -> "torch.device":
    """The first GPU, or the CPU if there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_memory() -> Memory:
    """The memory of the machine, or of the smallest cgroup of this process if that is less."""
    root = _root()
    information = root / "proc/meminfo"
    if not information.is_file():
        import psutil

        found = psutil.virtual_memory()
        return Memory(total=found.total, available=found.available, limited=False)
    # In a sandbox the file may be empty; then the system is asked, as psutil reads the same file.
    total, available = _read_kib(information, "MemTotal:"), _read_kib(information, "MemAvailable:")
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES") if total is None else total
    available = min(total, page * os.sysconf("SC_AVPHYS_PAGES")) if available is None else available
    limited = False
    for folder in _list_cgroups(root, "memory"):
        limit, used = _read_memory(folder)
        if limit is not None and limit < total:
            total, limited = limit, True
        if limit is not None:
            available = min(available, max(limit - used, 0))
    return Memory(total=total, available=available, limited=limited)


def limit_kernels(device: "torch.device", precision: Precision) -> int:
    """The bytes that training's kernels may take in this process besides a step: in bf16 on a CPU, as many as are kept.

    See `finetune.commands.launch.keep_kernels`.
    """
    if device.type != "cpu" or precision != "bf16":
        return 0
    return int(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)) * KERNEL_BYTES


def measure_growth(work: Callable[[], object]) -> int:
    """The peak growth in memory of this process while `work` runs, in bytes; at least 1."""
    import psutil

    process = psutil.Process()
    with contextlib.suppress(OSError):  # Otherwise the peak is that since the start of the process.
        Path("/proc/self/clear_refs").write_text("5")
    before = process.memory_info().rss
    work()
    peak = 1024 * int((_read_field(Path("/proc/self/status"), "VmHWM:") or "0").split()[0])
    return max(1, peak - before, process.memory_info().rss - before)


def measure_disk(folder: Path) -> int:
    """The free bytes on the disk of a folder, which need not exist."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def name_cpu() -> str:
    """The model name of the CPU, from the operating system."""
    name = _read_field(_root() / "proc/cpuinfo", "model name").lstrip(": ")
    return name or platform.processor() or platform.machine()


def list_gpus() -> list[Gpu]:
    """The GPUs of NVIDIA's driver, even if torch can't use them; without nvidia-smi, those of torch."""
    asked = ("name", "memory.total", "compute_cap", "driver_version")
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_SECONDS, check=True).stdout
        rows = [[value.strip() for value in line.split(",")] for line in printed.splitlines()]
        return [
            Gpu(name=name, memory=int(mib) << 20, compute_capability=capability, driver=driver)
            for name, mib, capability, driver in rows
        ]
    except (OSError, subprocess.SubprocessError, ValueError):  # No driver, or an old one without this query.
        return _list_torch_gpus()


def _list_torch_gpus() -> list[Gpu]:
    try:
        import torch
    except (ImportError, OSError):
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        Gpu(name=each.name, memory=each.total_memory, compute_capability=f"{each.major}.{each.minor}", driver=None)
        for each in found
    ]


def describe_device(device: "torch.device") -> str:
    """The name of a device with its compute capability and memory, or its threads and instruction sets."""
    import torch

    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"one {found.name} (compute capability {found.major}.{found.minor}, {format_gib(found.total_memory)})"
    threads = torch.get_num_threads()
    sets = ", ".join(list_instruction_sets())
    return f"{threads} thread{'s' if threads > 1 else ''} of {name_cpu()}" + (f" ({sets})" if sets else "")


def describe_machine() -> dict[str, Any]:
    """CPU, memory and GPUs for the record of a run and its card, without names of the machine or its user."""
    import torch

    gpus = _list_torch_gpus() if torch.cuda.is_available() else []
    return {
        "cpu": name_cpu(),
        "instruction_sets": list_instruction_sets(),
        "cores": count_cores(),
        "memory_gib": round(measure_memory().total / 2**30, 1),
        "gpus": [f"{gpu.name}, compute capability {gpu.compute_capability}, {format_gib(gpu.memory)}" for gpu in gpus],
    }


def format_machine(machine: Mapping[str, Any]) -> str:
    """The result of `describe_machine` in one line."""
    cores, gpus = machine["cores"], machine["gpus"]
    sets = f" ({', '.join(machine['instruction_sets'])})" if machine["instruction_sets"] else ""
    counted = f"{cores:g} core{'s' if cores > 1 else ''} of {machine['cpu']}{sets}"
    return "; ".join([f"{counted}, {machine['memory_gib']:g} GiB of memory", *gpus])


def format_gib(count: int) -> str:
    """A number of bytes in GiB: `2 GiB`, `23.4 GiB`."""
    return f"{count / 2**30:.3g} GiB"


def _count_affinity() -> int:
    root = _root()
    if root == Path("/"):
        available = getattr(os, "sched_getaffinity", None)
        return len(available(0)) if available else os.cpu_count() or 1
    listed = _read_field(root / "proc/self/status", "Cpus_allowed_list:")
    return sum(_count_range(part) for part in listed.split(",")) if listed else os.cpu_count() or 1


def _root() -> Path:
    return Path(os.environ.get("FINETUNE_MACHINE_ROOT") or "/")


def _list_cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the cgroups of this process for a controller, innermost first (versions 1 and 2)."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 mounts controllers separately or together; version 2 does not name them.
        places = [mounts / controllers, mounts / controller] if controllers else [mounts, mounts / "unified"]
        mount = next((place for place in places if place.is_dir()), None)
        if mount is None:
            continue
        folder = mount / path.strip("/")
        # In a container the path may be that of the host, which is not visible: its own group is the mount.
        while folder != mount:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield mount


def _read_quota(folder: Path) -> tuple[float, float]:
    """The CPU time of a cgroup and the period for it, in microseconds; zero without a limit."""
    both = _read(folder / "cpu.max").split()
    if len(both) != 2:
        both = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    quota, period = (float(_read_count(each) or 0) for each in both)  # Without a limit it is "max", or -1.
    return quota, period


def _read_memory(folder: Path) -> tuple[int | None, int]:
    """The memory limit of a cgroup and its usage in bytes, without reclaimable file cache."""
    limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
    cached = _read_field(folder / "memory.stat", "inactive_file")
    return _read_count(limit), max((_read_count(used) or 0) - (_read_count(cached) or 0), 0)


def _read_kib(file: Path, name: str) -> int | None:
    """The bytes of a field in KiB; None where there is no such number."""
    count = _read_count(_read_field(file, name).partition(" ")[0])
    return None if count is None else 1024 * count


def _read_count(text: str) -> int | None:
    """A number of digits, and None for anything else."""
    return int(text) if text.isascii() and text.isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""  # No such limit, or not readable for this process.


def _read_field(file: Path, name: str) -> str:
    """The text after a name at the beginning of a line."""
    lines = _read(file).splitlines()
    return next((line[len(name) :].strip() for line in lines if line.startswith(name)), "")


def _count_range(text: str) -> int:
    first, _, last = text.partition("-")
    return int(last or first) - int(first) + 1


def length_step(samples: int, share: int = 25) -> int:
    """The step to round the length of a batch up to on a CPU: the largest power of two up to 1/`share` of it.

    oneDNN compiles and keeps kernels for each new shape. With 1/25 there are 25 to 50 lengths per octave, for 1.5 %
    more padding on average (scripts/bench_shapes.py).
    """
    return 1 << max((samples // share).bit_length() - 1, 0)
