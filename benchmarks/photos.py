"""A few images of each class to a classifier, `model="auto"`: accuracy on photographs, drawings and digits.

    METACONTRAST_DATA=... python benchmarks/photos.py --cache DIR [--records results/photos.jsonl] [--settings NAME,...]

Every task draws classes and images of the test classes; the classifier chooses its model among those that are
installed, learns, and answers 15 other images of each class. Features of the frozen photo encoders are computed once
for every image and kept in DIR: a task costs a second. The first `--check` tasks of each setting also run
through `fit` and `predict` on folders of PNG files, and must give the same answers. Beside it stand, on the same
features of `photos`: the nearest class mean by angle, and scikit-learn's logistic regression with its defaults.
Intervals are 95 % over tasks, differences paired by task.

The classes of miniImageNet, and most of CIFAR-FS's, are among those that `photos` was trained on.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

import metacontrast as mc
from metacontrast.classifier.candidates import make_plan
from metacontrast.classifier.choice import choose
from metacontrast.classifier.confidence import expected_calibration_error, prediction_sets, set_threshold
from metacontrast.classifier.cross_validation import similarity
from metacontrast.classifier.fitted import each_alone, fit_support
from metacontrast.classifier.model_folder import load_starting_point
from metacontrast.classifier.reading import Read, pictures
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.classifier.support import make_support
from metacontrast.data.decode import MAX_PIXELS, Item

QUERIES, PER_CLASS = 15, 100
SETTINGS = {
    "mini-imagenet 5x5": ("mini-imagenet", 5, 5),
    "mini-imagenet 5x1": ("mini-imagenet", 5, 1),
    "mini-imagenet 20x5": ("mini-imagenet", 20, 5),
    "cifar-fs 5x5": ("cifar-fs", 5, 5),
    "cifar-fs 5x1": ("cifar-fs", 5, 1),
    "omniglot 5x5": ("omniglot", 5, 5),
    "omniglot 20x1": ("omniglot", 20, 1),
    "digits 10x5": ("digits", 10, 5),
    "digits 10x20": ("digits", 10, 20),
}


class Data(NamedTuple):
    """Images by class, and where their features are kept."""

    name: str
    images: list[list[Image.Image]]
    cache: Path
    arrays: dict[str, np.ndarray]

    def features(self, start: StartingPoint) -> np.ndarray:
        """Features `(class, image, feature)`, computed once."""
        if start.name in self.arrays:
            return self.arrays[start.name]
        file = self.cache / f"{self.name}-{start.name}.npy"
        if not file.exists():
            rows = [_encode(start, row) for row in tqdm(self.images, f"{self.name}, {start.name}", disable=None)]
            self.cache.mkdir(parents=True, exist_ok=True)
            np.save(file, np.stack(rows))
        return self.arrays.setdefault(start.name, np.load(file))

    def renew(self, start: StartingPoint, places: Sequence[tuple[int, int]]) -> None:
        """Compute the features of some images again: a file of another processor differs in the last digits."""
        features = self.features(start)
        for k, row in places:
            features[k, row] = _encode(start, [self.images[k][row]])[0]


def _encode(start: StartingPoint, images: Sequence[Image.Image]) -> np.ndarray:
    _, pixels = start.images.read([Item("", "", image) for image in images])
    return torch.cat(each_alone(lambda some: start.frozen_encoder(start.images.to_input(some)), pixels)).numpy()


def load(name: str, cache: Path) -> Data:
    """The test classes, at most 100 images of each; of Omniglot every fourth character."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = (found.images * (255 / 16)).astype(np.uint8)
        by_class = [[Image.fromarray(x) for x in pixels[found.target == k][:PER_CLASS]] for k in range(10)]
        return Data(name, by_class, cache, {})
    images = mc.load_dataset(name, split="test")
    borders, pixels = [*images.starts.tolist(), len(images.images)], images.images.numpy()
    order = sorted(range(len(images.classes)), key=images.classes.__getitem__)
    order = order[::4] if name == "omniglot" else order
    classes = [pixels[borders[k] : borders[k + 1]][:PER_CLASS] for k in order]
    pictures_of = [[Image.fromarray(x.transpose(1, 2, 0).squeeze()) for x in some] for some in classes]
    return Data(name, pictures_of, cache, {})


class Task(NamedTuple):
    """Rows `(class, image)` of support and query images, and their labels."""

    support: list[tuple[int, int]]
    queries: list[tuple[int, int]]


def draw(data: Data, ways: int, shots: int, generator: np.random.Generator) -> Task:
    """One task."""
    support, queries = [], []
    for k in generator.choice(len(data.images), ways, replace=False).tolist():
        rows = generator.permutation(len(data.images[k]))[: shots + QUERIES].tolist()
        support += [(k, row) for row in rows[:shots]]
        queries += [(k, row) for row in rows[shots:]]
    return Task(support, queries)


def answers(data: Data, task: Task) -> tuple[str, torch.Tensor, tuple[float, ...], list[int]]:
    """The chosen model, the queries' probabilities, the held-out ones for prediction sets, and the classes."""
    items = [Item(str(i), f"{k}/{row}", data.images[k][row]) for i, (k, row) in enumerate(task.support)]
    labels = [k for k, _ in task.support]

    def read(start: StartingPoint, some: Sequence[Item]) -> Read:
        places = [task.support[int(item.label)] for item in some]
        kept, pixels = start.images.read(some)
        if not start.keeps_features(start.inner):
            return Read(kept, pixels, None)
        return Read(kept, pictures(pixels), _rows(data.features(start), places))

    start, _, seen = choose(items, labels, read, 5, MAX_PIXELS)
    kept, images, features = seen or read(start, items)
    own = [labels[int(item.label)] for item in kept]
    support = make_support(images, own, [item.name for item in kept], features)
    wishes = dict.fromkeys(("steps", "lr", "scope", "reject"))
    fitted = fit_support(start, support, make_plan(start.inner, **wishes, folds=5, default_head=start.head))
    if features is None:
        _, pixels = start.images.read([Item("", "", data.images[k][row]) for k, row in task.queries])
        probabilities = fitted.answer(pixels).probabilities
    else:
        head, phi = fitted.network, _rows(data.features(start), task.queries)
        probabilities = ((phi @ head.weight.T + head.bias).double() / fitted.temperature).softmax(1)
    return start.name, probabilities, fitted.true_probabilities, list(support.classes)


def _rows(features: np.ndarray, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([features[k, row] for k, row in places]))


def beside(data: Data, task: Task, start: StartingPoint) -> dict[str, float]:
    """The nearest class mean by angle and scikit-learn's logistic regression on the photo encoder's features."""
    x, q = (_rows(data.features(start), places).double() for places in (task.support, task.queries))
    y, truth = (np.array([k for k, _ in places]) for places in (task.support, task.queries))
    classes = np.unique(y)
    means = torch.stack([x[torch.from_numpy(y == k)].mean(0) for k in classes])
    nearest = classes[(q @ torch.nn.functional.normalize(means, dim=1).T).argmax(1).numpy()]
    logistic = LogisticRegression(max_iter=1000).fit(x.numpy(), y).predict(q.numpy())
    return {"nearest_mean": float((nearest == truth).mean()), "logistic": float((logistic == truth).mean())}


def through_folders(data: Data, task: Task) -> tuple[str, np.ndarray, list[int]]:
    """The model and the probabilities of the public class on folders of PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        for part, places in (("support", task.support), ("queries", task.queries)):
            for number, (k, row) in enumerate(places):
                file = Path(folder, part, f"{k:04d}", f"{number:04d}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                data.images[k][row].save(file)
        classifier = mc.FewShotClassifier().fit(Path(folder, "support"))
        files = [Path(folder, "queries", f"{k:04d}", f"{number:04d}.png") for number, (k, _) in enumerate(task.queries)]
        found = classifier.predict_proba(files)
        return classifier.state_.start.name, found, [int(name) for name in classifier.classes_]


def one_task(data: Data, task: Task, start: StartingPoint, check: bool) -> dict[str, object]:
    """All numbers of one task."""
    if check:
        data.renew(start, [*task.support, *task.queries])
    name, probabilities, held_out, classes = answers(data, task)
    truth = torch.tensor([classes.index(k) for k, _ in task.queries])
    row: dict[str, object] = {"model": name, "accuracy": (probabilities.argmax(1) == truth).double().mean().item()}
    row |= {"ece": expected_calibration_error(probabilities, truth), **beside(data, task, start)}
    if len(held_out) >= 9:
        sets = prediction_sets(probabilities, set_threshold(torch.tensor(held_out), 0.9))
        row |= {"covered": sets[torch.arange(len(truth)), truth].double().mean().item()}
        row |= {"set_size": sets.sum(1).double().mean().item()}
    if check:
        other, found, order = through_folders(data, task)
        same = torch.from_numpy(found)[:, [order.index(k) for k in classes]]
        if other != name or (same - probabilities).abs().max() > 1e-4:
            raise SystemExit(
                f"{data.name}: fit and predict on folders chose {other} and differ from the cached features"
            )
    return row


def summary(setting: str, rows: Sequence[dict[str, object]], checked: int) -> dict[str, object]:
    """Means with half their 95 % intervals."""
    line: dict[str, object] = {"kind": "photos", "setting": setting, "tasks": len(rows), "through_folders": checked}
    chosen = [row["model"] for row in rows]
    line["chosen"] = {name: chosen.count(name) for name in sorted(set(map(str, chosen)))}
    for name in ("accuracy", "nearest_mean", "logistic", "ece", "covered", "set_size"):
        values = [float(str(row[name])) for row in rows if name in row]
        if len(values) > 1:
            line |= {name: mean(values), f"{name}_ci95": 1.96 * stdev(values) / math.sqrt(len(values))}
    for name in ("nearest_mean", "logistic"):
        gains = [float(str(row["accuracy"])) - float(str(row[name])) for row in rows]
        line |= {f"less_{name}": mean(gains), f"less_{name}_ci95": 1.96 * stdev(gains) / math.sqrt(len(gains))}
    return line


def refusals(
    data: Data, start: StartingPoint, ways: int, shots: int, seed: int, rate: float = 0.1
) -> dict[str, object]:
    """What share of images of known classes, and of the other classes, 60 classifiers refuse."""
    features, generator = data.features(start), np.random.default_rng(seed)
    wishes = dict.fromkeys(("steps", "lr", "scope"))
    plan = make_plan(start.inner, **wishes, reject=rate, folds=5, default_head=start.head)
    known, unknown = [], []
    for _ in tqdm(range(60), f"{data.name} {ways}x{shots}, refusals", disable=None):
        task = draw(data, ways, shots, generator)
        labels = [k for k, _ in task.support]
        pictures_of = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
        support = make_support(pictures_of, labels, [""] * len(labels), _rows(features, task.support))
        fitted = fit_support(start, support, plan)
        others = [(k, row) for k in range(len(features)) if k not in labels for row in range(QUERIES)]
        for found, places in ((known, task.queries), (unknown, others)):
            scores = similarity(_rows(features, places), fitted.network.means, fitted.network.centre)
            found.append((scores < fitted.threshold).double().mean().item())
    half = {
        name: 1.96 * stdev(found) / math.sqrt(len(found)) for name, found in (("known", known), ("unknown", unknown))
    }
    line = {"kind": "refusals", "setting": f"{data.name} {ways}x{shots}", "rate": rate, "classifiers": 60}
    line |= {"known": mean(known), "known_ci95": half["known"], "unknown": mean(unknown)}
    return line | {"unknown_ci95": half["unknown"]}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # two spin on a busy machine
    start = load_starting_point(args.model)
    loaded: dict[str, Data] = {}
    if args.refusals:
        data = load("mini-imagenet", args.cache)
        for ways, shots in ((5, 5), (10, 5), (5, 20)):
            _write(
                refusals(data, start, ways, shots, args.seed) | {"encoder": args.model, "seed": args.seed}, args.records
            )
        return
    for setting in args.settings:
        name, ways, shots = SETTINGS[setting]
        if name not in loaded:
            loaded[name] = load(name, args.cache)
        data = loaded[name]
        generator = np.random.default_rng(args.seed)
        tasks = [draw(data, ways, shots, generator) for _ in range(args.tasks)]
        rows = [
            one_task(data, task, start, number < args.check)
            for number, task in enumerate(tqdm(tasks, setting, disable=None))
        ]
        line = summary(setting, rows, args.check) | {"encoder": args.model, "seed": args.seed}
        _write(line, args.records)


def _write(line: dict[str, object], records: Path | None) -> None:
    print(json.dumps(line), flush=True)
    if records:
        with records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--settings", type=lambda text: text.split(","), default=list(SETTINGS))
    parser.add_argument("--refusals", action="store_true", help="measure these in place of accuracy")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--check", type=int, default=2)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--seed", type=int, default=2022)
    main(parser.parse_args())
