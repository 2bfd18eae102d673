"""A bundled model on alphabets that it never saw, as a user meets it: folders of PNG files, fit, predict.

    METACONTRAST_DATA=... python benchmarks/own_images.py [--records results/own-images.jsonl]

Omniglot's test characters of alphabets of which none was trained on. For every task a folder of PNG files is written,
`FewShotClassifier` is fitted to it and asked about one image at a time. Beside it stands the nearest class mean on the
same features. Intervals are 95 % over tasks; the difference is paired by task.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import metacontrast as mc

SETTINGS = {"20-way 1-shot": (20, 1, 60), "5-way 5-shot": (5, 5, 120)}
QUERIES = 5


def main(model: str, records: Path | None) -> None:
    torch.set_num_threads(1)  # two spin on a busy machine, and gain nothing on images this small
    images = held_out_alphabets()
    lines = [{"kind": "header", "model": model, "queries": QUERIES, "classes": len(images)}]
    for name, (ways, shots, tasks) in SETTINGS.items():
        generator = np.random.default_rng(2022)
        results = [one_task(model, images, ways, shots, generator) for _ in tqdm(range(tasks), name, disable=None)]
        found, baseline, fit_seconds, slowest = (list(column) for column in zip(*results, strict=True))
        difference = [a - b for a, b in zip(found, baseline, strict=True)]
        lines.append(
            {
                "kind": "own-images",
                "setting": name,
                "tasks": tasks,
                **{f"accuracy{suffix}": value for suffix, value in zip(("", "_ci95"), interval(found), strict=True)},
                **{f"baseline{suffix}": value for suffix, value in zip(("", "_ci95"), interval(baseline), strict=True)},
                **{f"difference{s}": value for s, value in zip(("", "_ci95"), interval(difference), strict=True)},
            }
        )
        print(json.dumps(lines[-1]), flush=True)
        print(f"medians over tasks: fit {median(fit_seconds):.2f} s, slowest prediction {median(slowest):.3f} s")
    if records:
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))


def held_out_alphabets() -> dict[str, list[np.ndarray]]:
    """The drawings of every test character whose alphabet has no character in training or validation."""
    test, *known = (mc.load_dataset("omniglot", split=split) for split in ("test", "train", "val"))
    seen = {name.split("/")[0] for other in known for name in other.classes}
    pixels = test.images.numpy()
    borders = [*test.starts.tolist(), len(pixels)]
    return {
        name: list(pixels[borders[i] : borders[i + 1]])
        for i, name in enumerate(test.classes)
        if name.split("/")[0] not in seen
    }


def one_task(
    model: str, images: dict[str, list[np.ndarray]], ways: int, shots: int, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Accuracy, the baseline's, seconds to fit, and the slowest prediction's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        queries = []
        for name in generator.choice(sorted(images), ways, replace=False):
            label = name.replace("/", " ")
            for number, drawing in enumerate(generator.permutation(20)[: shots + QUERIES]):
                part = "support" if number < shots else "query"
                file = Path(folder, part, label, f"{number}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[name][drawing].squeeze()).save(file)
                if part == "query":
                    queries.append((file, label))
        start = time.perf_counter()
        classifier = mc.FewShotClassifier.from_pretrained(model).fit(Path(folder, "support"))
        fit_seconds = time.perf_counter() - start
        baseline = mc.FewShotClassifier.from_pretrained(model, baseline="prototype").fit(Path(folder, "support"))
        right, baseline_right, slowest = 0, 0, 0.0
        for file, label in queries:
            start = time.perf_counter()
            right += classifier.predict([file])[0] == label
            slowest = max(slowest, time.perf_counter() - start)
            baseline_right += baseline.predict([file])[0] == label
        return right / len(queries), baseline_right / len(queries), fit_seconds, slowest


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half its 95 % interval."""
    return mean(values), 1.96 * stdev(values) / math.sqrt(len(values))


def from_command_line(work: Callable[[str, Path | None], None], description: str | None) -> None:
    """Call `work` with the model and the file of records that were asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="omniglot-conv4")
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    work(args.model, args.records)


if __name__ == "__main__":
    from_command_line(main, __doc__)
