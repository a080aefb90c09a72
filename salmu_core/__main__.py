"""`python -m salmu_core` is `salmu`; `accelerate launch -m salmu_core run ...` runs on several processes.

Accelerate's launcher starts a single process on a machine without an accelerator, whatever `--num_processes` says. There this module
starts the processes that were asked for through torch's own launcher.
"""

from __future__ import annotations

import os
import sys


def processes_asked_for() -> int:
    """`--num_processes` of the `accelerate launch` that started this process alone; 1 without a launcher."""
    if "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return 1  # already one of several, or not started by Accelerate
    import psutil

    words = psutil.Process(os.getppid()).cmdline()
    for number, word in enumerate(words):
        flag, sign, value = word.replace("-", "_").partition("=")
        if flag == "__num_processes":
            given = value if sign else (words[number + 1] if number + 1 < len(words) else "1")
            return int(given) if given.isdigit() else 1
    return 1


def start() -> None:
    """Be one process, or become the launcher of several."""
    count = processes_asked_for()
    if count > 1:
        import torch

        if not torch.accelerator.is_available():
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            os.execv(sys.executable, [*launcher, "-m", "salmu_core", *sys.argv[1:]])
    from salmu_core.cli.main import main

    main()


if __name__ == "__main__":
    start()
