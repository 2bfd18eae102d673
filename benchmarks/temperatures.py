"""The best temperature of each head's probabilities from one image of each class, on validation classes.

    METACONTRAST_DATA=DIR python benchmarks/temperatures.py photos mini-imagenet --records results/temperatures.jsonl

Tasks of K classes are drawn from the first 60 images of each validation class: one image to learn from, five to ask
about. The temperature printed is the one with the least cross entropy over all tasks' answers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metacontrast as mc
from metacontrast.classifier.candidates import FIT_METHODS
from metacontrast.classifier.confidence import fit_temperature
from photos import processor, remembering

WAYS, QUERIES, KEPT = (2, 5, 10, 16), 5, 60


def draw(
    images: mc.ClassImages, ways: int, generator: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One image of each class, and the ones that are asked about, class by class."""
    starts, pixels = [*images.starts.tolist(), len(images.images)], images.images.numpy()
    support, queries = [], []
    for k in generator.choice(len(images.classes), ways, replace=False).tolist():
        rows = generator.choice(np.arange(starts[k], min(starts[k + 1], starts[k] + KEPT)), QUERIES + 1, replace=False)
        first, *others = (pixels[row].transpose(1, 2, 0).squeeze() for row in rows)
        support.append(first)
        queries += others
    return support, queries


def measure(model: str, images: mc.ClassImages, ways: int, tasks: int, seed: int) -> dict[str, dict[str, float]]:
    """Temperature and accuracy by head."""
    generator, logits = np.random.default_rng((seed, ways)), {head: [] for head in FIT_METHODS}
    for _ in range(tasks):
        support, queries = draw(images, ways, generator)
        for head in FIT_METHODS:
            classifier = mc.FewShotClassifier(model, head=head, folds=0).fit(support, list(range(ways)))
            probabilities = np.clip(classifier.predict_proba(queries), 1e-300, None)
            logits[head].append(torch.from_numpy(np.log(probabilities)) * classifier.temperature_)
    y = torch.arange(ways).repeat_interleave(QUERIES).repeat(tasks)
    found = {head: torch.cat(parts) for head, parts in logits.items()}
    return {
        head: {"temperature": fit_temperature(z, y), "accuracy": (z.argmax(1) == y).double().mean().item()}
        for head, z in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    images = mc.load_dataset(args.dataset, split="val")
    with remembering(None):
        for ways in WAYS:
            heads = measure(args.model, images, ways, args.tasks, args.seed)
            line: dict[str, Any] = {"model": args.model, "dataset": args.dataset, "ways": ways, "tasks": args.tasks}
            line |= {"seed": args.seed, "heads": heads, "processor": processor(), "torch": torch.__version__}
            words = f"{args.model} {args.dataset} --tasks {args.tasks} --seed {args.seed}"
            line |= {"command": f"python benchmarks/temperatures.py {words}"}
            print(json.dumps(line), flush=True)
            if args.records:
                with args.records.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
