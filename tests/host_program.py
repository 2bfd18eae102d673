"""What the machines of `test_hosts` run: a training, shared updates in float64, or a grid on Ray."""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from metacontrast.cli.main import run
from metacontrast.experiments.runners import Grid, RunContext, execute_all
from metacontrast.experiments.runners.ray import ray_runner
from metacontrast.training import distributed
from metacontrast.training.distributed import joined
from planned_runs import planned
from rank_program import CONFIGS, trained

SHARED = CONFIGS["learned head, two steps"]
UPDATES = 4
RUNS = [planned(seed, 400) for seed in (0, 1)]


def train(*words: str) -> None:
    """The command, which gives up a silent machine sooner."""
    distributed.SILENCE = 15.0
    sys.exit(run(["train", *words]))


def float64(folder: str) -> None:
    """Parameters after a few slow updates; how many are done stands in a file."""

    def note(number: int) -> None:
        (Path(folder) / "update").write_text(str(number + 1))
        time.sleep(2)

    with joined("cpu") as ranks:
        found = trained(SHARED, ranks, UPDATES, note)
    save_file({"found": found}, Path(folder) / f"{ranks.rank}.safetensors")


def grid(folder: str, address: str) -> None:
    """Runs on the machines of a Ray cluster; every outcome is a line."""
    context = RunContext(Path(folder))
    torch.set_num_threads(1)
    with ray_runner(context, 2, address, list, print) as runner:
        for report in execute_all(Grid(RUNS, context, 2, lambda: False), runner):
            print(report.status.value, file=sys.stderr, flush=True)


if __name__ == "__main__":
    {"train": train, "float64": float64, "grid": grid}[sys.argv[1]](*sys.argv[2:])
