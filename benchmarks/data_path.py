"""What share of an outer update is its data: drawing the tasks, picking their images, scaling the pixels?

    python benchmarks/data_path.py

Random images in the numbers and shapes of the real sets. Batch and update alternate in one process, run as
`metacontrast
train` runs them on this machine's processors. Medians of the rounds; `least` is the fastest round.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch

from metacontrast.data.images import ClassImages
from metacontrast.device import keep_freed_memory
from metacontrast.training.config import TrainConfig
from metacontrast.training.recipes import recipe
from metacontrast.training.records import device_name
from metacontrast.training.step import Resources
from metacontrast.training.train_run import initial_state, outer_step

CASES = {
    "omniglot-5w1s-released": (32, 1200, 20, (1, 28, 28)),
    "cifar-fs-5w5s-released": (4, 64, 600, (3, 32, 32)),
    "mini-imagenet-5w1s-released": (4, 64, 600, (3, 84, 84)),
}


def random_images(classes: int, per_class: int, shape: tuple[int, int, int]) -> ClassImages:
    pixels = torch.randint(256, (classes * per_class, *shape), dtype=torch.uint8)
    starts = torch.arange(classes + 1) * per_class
    scale = (0.5,) * shape[0] if shape[0] == 3 else (0.0,)
    return ClassImages(
        "random", pixels, starts, tuple(map(str, range(classes))), scale, (0.5,) if any(scale) else (1.0,)
    )


def measure(name: str, config: TrainConfig, images: ClassImages, resources: Resources, rounds: int) -> dict:
    """Seconds of both, after one round that is not counted."""
    model = config.model(images.shape)
    state, tasks = initial_state(config, model, "cpu"), config.training_tasks(images)
    seconds = []
    for index in range(rounds + 1):
        first = perf_counter()
        batch = tasks.batch(range(index * config.meta_batch, (index + 1) * config.meta_batch))
        middle = perf_counter()
        outer_step(config, model, resources)(state, batch)
        seconds.append((middle - first, perf_counter() - middle))
    data, rest = zip(*seconds[1:], strict=True)
    return {
        "case": name,
        "tasks": config.meta_batch,
        "data_ms": round(1e3 * median(data), 2),
        "least_data_ms": round(1e3 * min(data), 2),
        "update_ms": round(1e3 * median(rest), 1),
        "least_update_ms": round(1e3 * min(rest), 1),
        "percent": round(100 * median(data) / (median(data) + median(rest)), 2),
    }


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for name, (tasks, *sizes) in CASES.items():
            config = replace(recipe(name), meta_batch=tasks)
            rows.append(measure(name, config, random_images(*sizes), Resources(executor=executor), args.rounds))
            print("{case:<28} {tasks:>2} tasks: data {data_ms} ms (least {least_data_ms}), update {update_ms} ms "
                  "(least {least_update_ms}), data {percent} % of both".format(**rows[-1]), flush=True)  # fmt: skip
    print(device_name("cpu"))
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
