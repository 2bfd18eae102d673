"""What `reject=` really refuses: a bundled model on alphabets that it never saw.

    METACONTRAST_DATA=... python benchmarks/refusals.py [--records results/refusals.jsonl]

For every task the twelve alphabets of Omniglot's test characters of which none was trained on are halved. A classifier
is fitted to characters of one half, five drawings of each, and asked about five more drawings of each (known), of as
many other characters of these alphabets (same alphabets), of the other half's (other alphabets), and about
pixels of noise (noise). Shares are means over tasks with their 95 % interval, and the standard deviation between tasks.
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from tqdm import tqdm

import metacontrast as mc
from own_images import from_command_line, held_out_alphabets, interval

WAYS = (5, 20)
RATES = (0.05, 0.1, 0.2)
SHOTS = QUERIES = 5
SEEDS = (0, 1, 2)
TASKS = 12

Drawings = dict[str, list[np.ndarray]]


def main(model: str, records: Path | None) -> None:
    torch.set_num_threads(1)  # two spin on a busy machine, and gain nothing on images this small
    images = held_out_alphabets()
    lines = [{"kind": "header", "model": model, "shots": SHOTS, "queries": QUERIES, "seeds": SEEDS, "tasks": TASKS}]
    for ways in WAYS:
        found = defaultdict(list)
        for seed in SEEDS:
            generator = np.random.default_rng((seed, ways))
            for _ in tqdm(range(TASKS), f"{ways} classes, seed {seed}", disable=None):
                for rate, shares in one_task(model, images, ways, generator).items():
                    found[rate].append(shares)
        for rate, shares in found.items():
            lines.append({"kind": "refusals", "ways": ways, "reject": rate, **summary(shares)})
            print(json.dumps(lines[-1]), flush=True)
    if records:
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))


def one_task(model: str, images: Drawings, ways: int, generator: np.random.Generator) -> dict[float, dict[str, float]]:
    """For every rate the share of each group that is refused, and the accuracy with and without refusals."""
    support, labels, groups = draw(images, ways, generator)
    fits = {rate: mc.FewShotClassifier.from_pretrained(model, reject=rate).fit(support, labels) for rate in RATES}
    classifier = fits[RATES[0]]  # the rate changes nothing but the threshold
    answers = {name: classifier.answer(group) for name, group in groups.items()}
    truth = [label for label in labels[::SHOTS] for _ in range(QUERIES)]
    right = classifier.classes_[answers["known"].probabilities.argmax(1)] == truth
    found = {}
    for rate, fitted in fits.items():
        refused = {name: (each.similarity < fitted.threshold_).numpy() for name, each in answers.items()}
        found[rate] = {name: float(each.mean()) for name, each in refused.items()}
        found[rate] |= {"right": float(right.mean()), "right of those answered": float(right[~refused["known"]].mean())}
    return found


def draw(
    images: Drawings, ways: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    """Support drawings, their labels, and the drawings to ask about by group."""
    alphabets = generator.permutation(sorted({name.split("/")[0] for name in images}))
    here = set(alphabets[: len(alphabets) // 2])
    halves = [sorted(name for name in images if (name.split("/")[0] in here) == wanted) for wanted in (True, False)]
    known, same = np.split(generator.choice(halves[0], 2 * ways, replace=False), 2)
    other = generator.choice(halves[1], ways, replace=False)
    support, asked = zip(*(np.split(of_class(images, name, generator), [SHOTS]) for name in known), strict=True)
    groups = {"known": np.concatenate(asked)}
    for group, names in (("same alphabets", same), ("other alphabets", other)):
        groups[group] = np.concatenate([of_class(images, name, generator)[:QUERIES] for name in names])
    groups["noise"] = generator.integers(0, 256, groups["known"].shape, dtype=np.uint8)
    return np.concatenate(support), [name for name in known for _ in range(SHOTS)], groups


def of_class(images: Drawings, name: str, generator: np.random.Generator) -> np.ndarray:
    chosen = generator.permutation(len(images[name]))[: SHOTS + QUERIES]
    return np.stack([images[name][drawing].squeeze() for drawing in chosen])


def summary(shares: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By group: mean over tasks, half its 95 % interval, standard deviation between tasks."""
    columns = {name: [each[name] for each in shares] for name in shares[0]}
    return {
        name: {"mean": mean(values), "ci95": interval(values)[1], "between_tasks": stdev(values)}
        for name, values in columns.items()
    }


if __name__ == "__main__":
    from_command_line(main, __doc__)
