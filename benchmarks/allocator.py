"""What keeping freed memory gives: seconds per outer update with and without it, in turn, and their ratio.

    python benchmarks/allocator.py

Random images, 5-way 1-shot with 15 queries, conv4-released, tasks spread over all processors. Each setting is a process
of its own; the two alternate, and the median of the rounds is shown.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import torch

import metacontrast as mc
from metacontrast.cli.allocator import keep_freed_memory

CASES = {
    "28×28, 64 filters, 32 tasks, 1 step": ((1, 28, 28), 64, 32, 1, 0.4),
    "84×84, 32 filters, 4 tasks, 5 steps": ((3, 84, 84), 32, 4, 5, 0.01),
    "84×84, 64 filters, 4 tasks, 1 step": ((3, 84, 84), 64, 4, 1, 0.01),
}
ROUNDS, REPEATS = 3, 5


def measure() -> dict[str, float]:
    """Median seconds of an outer update, by case and order."""
    keep_freed_memory()
    torch.set_num_threads(1)
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for name, (shape, filters, tasks, steps, lr) in CASES.items():
            generator = torch.Generator().manual_seed(0)
            model = mc.Model(mc.encoders.build_encoder("conv4-released", shape, filters), ways=5)
            params, labels = model.init(generator), torch.arange(5)
            images = [torch.rand(tasks, count, *shape, generator=generator) for count in (5, 75)]
            episodes = mc.Episode(images[0], labels.repeat(tasks, 1), images[1], labels.repeat(tasks, 15))
            for order in ("first", "second"):
                inner = mc.Inner(steps, lr, order=order)
                seconds = []
                for _ in range(REPEATS + 1):
                    start = time.perf_counter()
                    mc.meta_gradient(model, params, episodes, inner, executor)
                    seconds.append(time.perf_counter() - start)
                found[f"{name}, {order} order"] = median(seconds[1:])
    return found


def main() -> None:
    """Alternate the two settings and print the table."""
    rounds: dict[str, list[dict[str, float]]] = {"system": [], "kept": []}
    for _ in range(ROUNDS):
        for setting, results in rounds.items():
            environment = {**os.environ, "METACONTRAST_ALLOCATOR": setting}
            done = subprocess.run(
                [sys.executable, __file__, "measure"], env=environment, check=True, capture_output=True, text=True
            )
            results.append(json.loads(done.stdout))
    for case in rounds["kept"][0]:
        system, kept = (median(result[case] for result in rounds[setting]) for setting in ("system", "kept"))
        print(f"{case:<52} system {system:.3f} s   kept {kept:.3f} s   {system / kept:.2f} times as fast")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
    else:
        main()
