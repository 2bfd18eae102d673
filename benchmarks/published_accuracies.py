"""Accuracies that a paper published of methods, beside ours with the same data, tasks and size of encoder.

    METACONTRAST_DATA=... python benchmarks/published_accuracies.py --records results/published-accuracies.jsonl

Trains each method on three seeds, keeps the model that is best on the validation split, tests it on 1,000 common tasks
of the test split, and prints a table. Finished runs are kept in --out; a run that was stopped continues.

The published numbers are those of Bertinetto, Henriques, Torr and Vedaldi, Meta-learning with differentiable
closed-form solvers (ICLR 2019), who trained all of them: CIFAR-FS, 5-way 5-shot, four blocks of 64 filters ("R2-D2 with
64C" for ridge regression). Ours are blocks of convolution, batch norm, ReLU and max-pooling. What differs: their budget
is not known in images, ours is 10,000 tasks of 100 images; their R2-D2 takes the features of the last two blocks, ours
those of the last; ours normalizes by the support images' statistics in training and at test.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from metacontrast import Evaluation, TrainConfig, load_run, train_config, with_fields
from metacontrast.data.catalog import load_evaluation_split
from metacontrast.experiments.statistics import over_seeds_and_tasks
from metacontrast.training.evaluate import evaluate_tasks
from metacontrast.training.records import read_records
from metacontrast.training.run import BEST

PUBLISHED = {"protonet": (0.720, 0.006), "ridge": (0.774, 0.002)}
"""By method: the published accuracy and half its 95 % interval."""
TASKS, TASK_SEED = 1000, 2022
SETTING = {
    "dataset": "cifar-fs",
    "encoder": "conv4",
    "shots": 5,
    "queries": 15,
    "norm": "inductive",
    "meta_batch": 1,
    "updates": 10_000,
    "lr_schedule": "cosine",
    "eval_every": 500,
    "eval_episodes": 300,
    "checkpoint_every": 500,
    "select": True,
}


def main() -> None:
    """Train, test, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, of one thread each")
    parser.add_argument("--records", type=Path, help="where to write what was found")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        cases = list(product(args.methods, range(args.seeds)))
        found = list(pool.map(measured, [args.out] * len(cases), *zip(*cases, strict=True)))
    if args.records:
        args.records.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="utf-8")
    print("\n".join(table(found)))


def measured(out: Path, method: str, seed: int) -> dict:
    """Train one seed unless that is done, and measure its accuracy on every test task."""
    torch.set_num_threads(1)
    folder = out / f"{method}-seed-{seed}"
    train_config(with_fields(TrainConfig(), method=method, seed=seed, **SETTING), folder, resume=True)
    run, header = load_run(folder / BEST), read_records(folder / "records.jsonl")[0]
    config = replace(run.config, seed=TASK_SEED)
    tasks = config.test_tasks(load_evaluation_split("cifar-fs", "test", None, config.read_options()))
    scores = evaluate_tasks(run.model, run.params, tasks, config.inner(), Evaluation((0,), ("kept",), TASKS))
    return {"method": method, "seed": seed, "updates": run.updates, "accuracies": scores[:, 0].tolist(), "run": header}


def table(found: list[dict]) -> Iterator[str]:
    """A row per method: the published accuracy and ours, whose interval covers seeds and test tasks."""
    yield "| method | published | ours | seeds |"
    yield "|---|---|---|---|"
    for method in dict.fromkeys(record["method"] for record in found):
        accuracies = np.array([record["accuracies"] for record in found if record["method"] == method])
        ours = over_seeds_and_tasks(accuracies)
        cells = [_percent(*PUBLISHED[method]), _percent(ours.mean, ours.interval()[1] - ours.mean)]
        yield f"| `{method}` | {' | '.join(cells)} | {len(accuracies)} |"


def _percent(mean: float, half: float) -> str:
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


if __name__ == "__main__":
    main()
