"""What must be settled before torch is loaded: how many processes run on CPUs, and how many kernels they keep."""

import os
import sys
from pathlib import Path

# What names Accelerate's launcher in a command: its options follow.
_LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")


def join_processes() -> None:
    """Start again as N processes when Accelerate's launcher was asked for N and started one.

    Accelerate 1.x spreads over CPUs only through MPI; without it the launcher ignores `--num_processes` in silence
    (`simple_launcher` in accelerate/commands/launch.py). torchrun needs no MPI, so this process becomes torchrun.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "MASTER_ADDR" not in os.environ or "RANK" in os.environ:
        return
    processes = _asked_for()
    if processes > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "finetune", *sys.argv[1:]])


def _asked_for() -> int:
    """`--num_processes` of the launcher that started this process, 1 where another program did."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    command = psutil.Process(os.getppid()).cmdline()
    launcher = next((i for i, part in enumerate(command) if Path(part).name in _LAUNCHERS), None)
    if launcher is None:
        return 1
    options, _ = launch_command_parser().parse_known_args(command[launcher + 1 :])
    return int(options.num_processes or 1)


def keep_kernels() -> None:
    """Have oneDNN, which computes on CPUs, keep the kernels of more shapes; to be called before torch is loaded.

    It keeps 1,024 unless told: those of about 25 lengths of a batch, where training meets 50 to 100. More than that
    would take memory for little: up to 0.8 MB each (scripts/bench_shapes.py).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4000")
