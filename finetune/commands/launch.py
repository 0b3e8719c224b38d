"""What must be settled before torch computes and when all is over: processes, threads, kernels, their end."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finetune.resources.machine import find_thread_limit

if TYPE_CHECKING:
    from finetune.recipe.load import Recipe

_LOGGER = logging.getLogger(__name__)


# What names Accelerate's launcher in a command: its options follow.
_LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")

# What the command line sets for libraries, and users for a hub; not a token, which each node has for itself.
_OF_LIBRARIES = (
    *("TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM", "DISABLE_SAFETENSORS_CONVERSION"),
    *("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
)


def join_processes() -> None:
    """Start again as N processes when Accelerate's launcher was asked for N and started one.

    Accelerate 1.x spreads over CPUs only through MPI; without it the launcher ignores `--num_processes` in silence
    (`simple_launcher` in accelerate/commands/launch.py). torchrun needs no MPI, so this process becomes torchrun.
    """
    if not {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= set(os.environ) or _find_rank() is not None:
        return
    processes, threads = _asked_for()
    if processes > 1:
        # Accelerate gives each process one thread unless told; torchrun keeps to what is set.
        os.environ["OMP_NUM_THREADS"] = threads or str(find_thread_limit(processes))
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "finetune", *sys.argv[1:]])


def _asked_for() -> tuple[int, str | None]:
    """`--num_processes` of the launcher that started this process, 1 where another program did, and threads of each.

    These are None unless the launcher was given `--num_cpu_threads_per_process` or `OMP_NUM_THREADS`.
    """
    import psutil
    from accelerate.commands.launch import launch_command_parser

    parent = psutil.Process(os.getppid())
    command = parent.cmdline()
    launcher = next((i for i, part in enumerate(command) if Path(part).name in _LAUNCHERS), None)
    if launcher is None:
        return 1, None
    options, _ = launch_command_parser().parse_known_args(command[launcher + 1 :])
    threads = options.num_cpu_threads_per_process or parent.environ().get("OMP_NUM_THREADS")
    return int(options.num_processes or 1), None if threads is None else str(threads)


def is_main_process() -> bool:
    """Whether this is the only process of a command, or the first of several."""
    return not _find_rank()


def _find_rank() -> int | None:
    """The rank of this process in its group, which torchrun sets; None without a group.

    Accelerate's `PartialState` would load torch, and join the group before processes and threads are settled.
    """
    return int(os.environ["RANK"]) if "RANK" in os.environ else None


def settle_threads() -> None:
    """Have torch and NumPy compute with no more threads than a cgroup's quota has cores; before either is loaded.

    They follow the process's affinity but not a quota, whose cores their threads would take turns on. And threads that
    wait for each other sleep: OpenMP's own spin, which takes the core from the very thread that they wait for as soon
    as another program has work (scripts/bench_waiting.py). What the environment says already stands. Commands that a
    command starts inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (threads := find_thread_limit()) is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def settle_folders() -> None:
    """Have libraries keep caches and temporary files elsewhere where they can't in the folders that they would take.

    Call it before they are loaded, as they read the environment once; each folder that is left out is logged. Without
    it a home that is missing, a cache below a file, on a read-only disk, or a TMPDIR that is gone ends commands that
    need neither.
    """
    for name in ("TMPDIR", "TEMP", "TMP", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        if (place := os.environ.get(name)) and not _can_hold(Path(place), made=name.endswith("_CACHE_DIR")):
            del os.environ[name]
            _LOGGER.warning(f"nothing can be written to {name}={place}: left out")
    try:
        home = Path.home()
    except RuntimeError:  # A number that is no user's, as in containers.
        home = Path(os.environ.setdefault("HOME", _make_temporary()))
        _LOGGER.warning(f"there is no home: caches are in {home}, and go with this command")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = _expand(os.environ.get("HF_HOME") or cache / "huggingface")
    # What is there already can be read: models, and the token.
    if not os.path.isdir(hub) and not _can_hold(hub):  # noqa: PTH112
        _move("HF_HOME", hub)
        hub = Path(os.environ["HF_HOME"])
    # Copies of Parquet, in which files are locked to be read.
    copies = _expand(os.environ.get("HF_DATASETS_CACHE") or hub / "datasets")
    if not _can_hold(copies):
        _move("HF_DATASETS_CACHE", copies)


def _expand(place: str | Path) -> Path:
    return Path(os.path.expanduser(place))  # noqa: PTH111 (which may not raise)


def _can_hold(folder: Path, made: bool = True) -> bool:
    """Whether files can be written into a folder, or into one that may be `made`."""
    while made and not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110 (which may not raise)
        folder = folder.parent
    try:  # Rights alone don't tell: root has them in /proc, too.
        Path(tempfile.mkdtemp(dir=folder)).rmdir()
    except OSError:
        return False
    return True


def _move(name: str, place: Path) -> None:
    os.environ[name] = _make_temporary()
    _LOGGER.warning(f"nothing can be written to {place}: {name} is {os.environ[name]}, and goes with this command")


def _make_temporary() -> str:
    folder = tempfile.mkdtemp(prefix="finetune-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def keep_kernels(mixed_precision: str) -> None:
    """Have oneDNN, which computes on CPUs, keep the kernels of as many shapes as a precision gains from.

    To be called before torch computes. oneDNN keeps 1,024 unless told, each with up to 0.8 MB: those of about 25
    lengths of a batch, where training meets 50 to 100. In bf16 all products are oneDNN's, and keeping them gains a
    fifth of the time (scripts/bench_shapes.py). In float32 it computes convolutions alone: kernels are soon made
    again, and those that were kept are what memory grew by (AN4 in float32: from 1.9 GiB at step 20 to 2.7 at 80; with
    16 of them 1.6 at step 100 and at 160, as fast). In bf16 it grows from 1.7 GiB to 4.1 over AN4's 2,800 steps, so the
    kernels of all processes may take a quarter of the memory at most: 4,000 are kept from 12 GiB on.
    """
    import torch

    from finetune.resources.machine import KERNEL_BYTES, count_local_processes, has_fast_bf16, measure_memory

    in_bf16 = mixed_precision == "bf16" or (mixed_precision == "auto" and has_fast_bf16(torch.device("cpu")))
    fitting = measure_memory().total // (4 * count_local_processes() * KERNEL_BYTES)
    kept = min(4000, max(16, fitting)) if in_bf16 else 16
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(kept))


def settle_cluster() -> tuple[str, ...]:
    """Have Ray report nothing to its makers; the variables that its actors are to have, too."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return _OF_LIBRARIES


def set_training_switches(compiled: bool) -> None:
    """Set what DeepSpeed and `torch.compile` read from the environment or from a global, once for this process.

    Accelerate imports DeepSpeed where it is installed; without a GPU it would print what it lacks. A compiled encoder
    is compiled for more lengths than the 8 that torch allows.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if compiled:
        torch._dynamo.config.recompile_limit = 64


def load_run(options: argparse.Namespace) -> tuple[Recipe, Path]:
    """Join the processes of a launcher, load the recipe that a command names, and set what its training needs.

    Returns the recipe and the run directory.
    """
    join_processes()
    from finetune.commands.arguments import find_run_folder
    from finetune.recipe.load import load_recipe

    recipe = load_recipe(Path(options.recipe), options.overrides)
    keep_kernels(recipe.training.mixed_precision)
    set_training_switches(recipe.training.compile)
    return recipe, Path(options.output) if options.output else find_run_folder(options.recipe)


def quiet_exporter() -> None:
    """Leave out what torch's exporter and ONNX Runtime's quantizer, on the root logger, say to programmers."""
    logging.getLogger("torch").setLevel(logging.ERROR)
    logging.getLogger().addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", module="torch|onnx")


def run(command: Callable[[], int]) -> NoReturn:
    """Run a command and end this process with its code; one of a group ends without Python's last destructors.

    These end the group with Python's lock in hand, for which a thread of gloo (torch 2.12) may be waiting: forever, now
    and then, and the launcher with it.
    """
    if _find_rank() is None:
        sys.exit(command())
    try:
        code = command()
    except Exception:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
