"""How the time of an outer gradient grows with tasks, inner steps, ways and image size; a plot and the numbers.

    python benchmarks/growth.py [--picture docs/pictures/cost-growth.png] [--records results/growth.jsonl]

Random images, conv4-released with 32 filters on colour images; from 4 tasks of 5-way 1-shot, 15 queries, 1 inner step,
42×42 pixels each quantity is varied alone. Median of five, tasks spread over all processors, float32.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import FormatStrFormatter, LogLocator

import metacontrast as mc
from gradients.table import hardware
from metacontrast.device import keep_freed_memory
from metacontrast.plots import COLORS

BASE = {"tasks": 4, "steps": 1, "ways": 5, "size": 42}
VARIED = {"tasks": (1, 2, 4, 8, 16), "steps": (1, 2, 5, 10), "ways": (2, 5, 10, 20), "size": (28, 42, 63, 84)}
LABELS = {"tasks": "tasks", "steps": "inner steps", "ways": "ways", "size": "side of an image, pixels"}


def seconds(executor: ThreadPoolExecutor, order: str, tasks: int, steps: int, ways: int, size: int) -> float:
    generator = torch.Generator().manual_seed(0)
    model = mc.Model(mc.encoders.build_encoder("conv4-released", (3, size, size), 32), ways)
    params, labels = model.init(generator), torch.arange(ways)
    images = [torch.rand(tasks, ways * count, 3, size, size, generator=generator) for count in (1, 15)]
    episodes = mc.Episode(images[0], labels.repeat(tasks, 1), images[1], labels.repeat(tasks, 15))
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        mc.meta_gradient(model, params, episodes, mc.Inner(steps, 0.01, order=order), executor)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def main(picture: Path, records: Path | None) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    lines = [{"kind": "header", **hardware("cpu"), "base": BASE}]
    figure, axes = plt.subplots(1, len(VARIED), figsize=(9, 2.4), sharey=True, layout="constrained")
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for axis, (name, values) in zip(axes, VARIED.items(), strict=True):
            for order, color in (("first", COLORS["blue"]), ("second", COLORS["orange"])):
                taken = [seconds(executor, order, **BASE | {name: value}) for value in values]
                lines += [
                    {"kind": "growth", "order": order, **BASE | {name: v}, "seconds": s}
                    for v, s in zip(values, taken, strict=True)
                ]
                axis.plot(values, taken, marker="o", color=color, label=f"{order} order")
                print(order, name, dict(zip(values, (round(s, 4) for s in taken), strict=True)), flush=True)
            axis.set(xlabel=LABELS[name], xscale="log", yscale="log")
            axis.set_xticks(values, [str(value) for value in values], minor=False)
            axis.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(picture, dpi=150)
    if records:
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/cost-growth.png"))
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    main(args.picture, args.records)
