"""What must be settled before torch is loaded and when all is over: processes, threads, kernels, their end."""

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from finetune.machine import find_thread_limit

# What names Accelerate's launcher in a command: its options follow.
_LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")


def join_processes() -> None:
    """Start again as N processes when Accelerate's launcher was asked for N and started one.

    Accelerate 1.x spreads over CPUs only through MPI; without it the launcher ignores `--num_processes` in silence
    (`simple_launcher` in accelerate/commands/launch.py). torchrun needs no MPI, so this process becomes torchrun.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "MASTER_ADDR" not in os.environ or "RANK" in os.environ:
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


def limit_threads() -> None:
    """Have torch and NumPy compute with no more threads than a cgroup's quota has cores; before either is loaded.

    They follow the process's affinity but not a quota, whose cores their threads would take turns on. What
    `OMP_NUM_THREADS` says already stands. Commands that a command starts inherit it.
    """
    threads = find_thread_limit()
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def keep_kernels() -> None:
    """Have oneDNN, which computes on CPUs, keep the kernels of more shapes; to be called before torch is loaded.

    It keeps 1,024 unless told: those of about 25 lengths of a batch, where training meets 50 to 100. More than that
    would take memory for little: up to 0.8 MB each (scripts/bench_shapes.py).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4000")


def run(command: Callable[[], int]) -> NoReturn:
    """Run a command and end this process with its code; one of a group ends without Python's last destructors.

    These end the group with Python's lock in hand, for which a thread of gloo (torch 2.12) may be waiting: forever, now
    and then, and the launcher with it.
    """
    if "RANK" not in os.environ:
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
