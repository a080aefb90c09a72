"""Run toy methods in a process of its own: `python toy_run.py METHOD,METHOD,... OUT [SECONDS_PER_STEP]`.

Prints a line per step. Each method's run directory is OUT/METHOD.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from salmu_core.runner.run import Settings, run
from toy_methods import Hooks, toy_plugins


def main() -> None:
    torch.set_num_threads(1)
    methods, out, pause = sys.argv[1].split(","), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    plugins = toy_plugins()

    def run_progress(event):
        if event.stage == "unlearn":
            print(f"step {event.done}", flush=True)
            time.sleep(pause)

    plugins.watch(Hooks(run_progress=run_progress))
    settings = Settings(cache=out.parent / "cache", checkpoint_seconds=0, cpu=True)
    for method in methods:
        run(method, benchmark="toy", out=out / method, settings=settings, plugins=plugins)


if __name__ == "__main__":
    main()
