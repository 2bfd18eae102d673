"""A few images of each class to a classifier, `model="auto"`: photographs, drawings and digits; refusals; speed.

    METACONTRAST_DATA=DIR python benchmarks/photos.py --records results/photos.jsonl --cache DIR2
    METACONTRAST_DATA=DIR python benchmarks/photos.py --records results/photos.jsonl --only "digits 10x5" --tasks 4
    python benchmarks/photos.py --records results/photos.jsonl --page docs/classifier.md

A row draws its tasks from the test classes. For each, folders of PNG files are written; `FewShotClassifier` is fitted
to one and asked about the other, 15 further images of each class. Beside it stand, on the features that it used
(`transform`), scikit-learn's logistic regression with its defaults, the nearest class mean and, where it is installed,
easyfsl's SimpleShot (`pip install easyfsl`; it needs torchvision). Intervals are 95 % over tasks, differences paired by
task; that of the calibration error is a bootstrap over tasks.

The features of frozen encoders are kept by the pixels that they are of, in memory and in DIR2: an image's features do
not depend on what else is asked, so that no answer changes, and a task costs seconds. `speed` keeps nothing.

A row that the records have with as many tasks is left out. The classes of miniImageNet, and most of CIFAR-FS's, are
among those that `photos` was trained on.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn
from tqdm import tqdm

import metacontrast as mc
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.training.records import read_records
from photos_page import draw as draw_diagram
from photos_page import page_of, reliability

QUERIES, PER_CLASS, COVERAGE, REJECT = 15, 100, 0.9, 0.1


class Row(NamedTuple):
    """What is measured: the data, classes and images of each, tasks, and how many images of a class there are."""

    data: str
    ways: int
    shots: int
    refuses: bool = False
    kept: int = PER_CLASS
    tasks: int = 100


ROWS = {
    "mini-imagenet 5x5": Row("mini-imagenet", 5, 5),
    "mini-imagenet 5x1": Row("mini-imagenet", 5, 1),
    "mini-imagenet 20x5": Row("mini-imagenet", 20, 5),
    "mini-imagenet 5x500": Row("mini-imagenet", 5, 500, kept=600, tasks=20),
    "cifar-fs 5x5": Row("cifar-fs", 5, 5),
    "cifar-fs 5x1": Row("cifar-fs", 5, 1),
    "omniglot 5x5": Row("omniglot", 5, 5, kept=20),
    "omniglot 20x1": Row("omniglot", 20, 1, kept=20),
    "digits 10x5": Row("digits", 10, 5),
    "digits 10x20": Row("digits", 10, 20),
    "refusals 5x5": Row("mini-imagenet", 5, 5, refuses=True),
    "refusals 10x5": Row("mini-imagenet", 10, 5, refuses=True),
    "refusals 5x20": Row("mini-imagenet", 5, 20, refuses=True),
    "speed": Row("mini-imagenet", 5, 5),
}


class Remembering(nn.Module):
    """An encoder that computes no image twice; answers are bit for bit its own."""

    def __init__(self, encoder: nn.Module, file: Path | None):
        super().__init__()
        self.encoder, self.file, self.known = encoder, file, dict[bytes, torch.Tensor]()
        if file is not None and file.exists():
            stored = np.load(file)
            pairs = zip(stored["keys"], stored["features"], strict=True)
            self.known = {key.tobytes(): torch.from_numpy(features) for key, features in pairs}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._features(image) for image in images])

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.encoder(image[None])[0].clone()
        return self.known[key]

    def save(self) -> None:
        if self.file is not None and self.known:
            keys = np.stack([np.frombuffer(key, np.uint8) for key in self.known])
            np.savez(self.file, keys=keys, features=torch.stack(list(self.known.values())).numpy())


@contextlib.contextmanager
def remembering(cache: Path | None) -> Iterator[dict[str, Remembering]]:
    """Inside the block every frozen encoder remembers; gives them by name, as they come to be used."""
    made: dict[str, Remembering] = {}
    own = StartingPoint.frozen_encoder

    def remembered(start: StartingPoint) -> Remembering:
        if start.name not in made:
            made[start.name] = Remembering(own.func(start), None if cache is None else cache / f"{start.name}.npz")
        return made[start.name]

    StartingPoint.frozen_encoder = property(remembered)
    try:
        yield made
    finally:
        StartingPoint.frozen_encoder = own


def load(name: str, kept: int) -> list[list[Image.Image]]:
    """The test classes with `kept` images of each; of Omniglot every fourth character."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = (found.images * (255 / 16)).astype(np.uint8)
        return [[Image.fromarray(x) for x in pixels[found.target == k][:kept]] for k in range(10)]
    images = mc.load_dataset(name, split="test")
    borders, pixels = [*images.starts.tolist(), len(images.images)], images.images.numpy()
    order = sorted(range(len(images.classes)), key=images.classes.__getitem__)
    classes = [pixels[borders[k] : borders[k + 1]][:kept] for k in (order[::4] if name == "omniglot" else order)]
    return [[Image.fromarray(x.transpose(1, 2, 0).squeeze()) for x in some] for some in classes]


class Files(NamedTuple):
    """All images as files, and a folder for tasks beside them."""

    by_class: list[list[Path]]
    place: Path

    def link(self, part: str, places: Sequence[tuple[int, int]]) -> list[Path]:
        """Some of the images in class folders of their own; `places` are class and number."""
        links = []
        for k, row in places:
            source = self.by_class[k][row]
            links.append(self.place / part / source.parent.name / source.name)
            links[-1].parent.mkdir(parents=True, exist_ok=True)
            links[-1].hardlink_to(source)
        return links


def write(images: list[list[Image.Image]], place: Path) -> Files:
    """Every image as a PNG file."""
    by_class = []
    for k, row in enumerate(images):
        folder = place / "all" / f"{k:04d}"
        folder.mkdir(parents=True)
        by_class.append([folder / f"{number:04d}.png" for number in range(len(row))])
        for image, file in zip(row, by_class[-1], strict=True):
            image.save(file)
    return Files(by_class, place)


class Task(NamedTuple):
    """Classes and numbers of the images to learn from, and of those that are asked about."""

    support: list[tuple[int, int]]
    queries: list[tuple[int, int]]


def draw(files: Files, row: Row, generator: np.random.Generator) -> Task:
    """One task."""
    support, queries = [], []
    for k in generator.choice(len(files.by_class), row.ways, replace=False).tolist():
        numbers = generator.permutation(len(files.by_class[k]))[: row.shots + QUERIES].tolist()
        support += [(k, number) for number in numbers[: row.shots]]
        queries += [(k, number) for number in numbers[row.shots :]]
    return Task(support, queries)


def answer(files: Files, row: Row, number: int, task: Task) -> dict[str, Any]:
    """All numbers of one task."""
    part = f"task {number}"
    learned = files.link(f"{part}/support", task.support)
    asked = files.link(f"{part}/queries", task.queries)
    classifier = mc.FewShotClassifier(reject=REJECT if row.refuses else None).fit(files.place / part / "support")
    truth = np.array([file.parent.name for file in asked])
    if row.refuses:
        known = {k for k, _ in task.support}
        others = [row[:QUERIES] for k, row in enumerate(files.by_class) if k not in known]
        return {
            "model": classifier.state_.start.name,
            "known": float(classifier.is_rejected(asked).mean()),
            "unknown": float(classifier.is_rejected([file for some in others for file in some]).mean()),
        }
    probabilities = classifier.predict_proba(asked)
    right = classifier.classes_[probabilities.argmax(1)] == truth
    found = {"model": classifier.state_.start.name, "accuracy": float(right.mean())}
    found |= {"head": classifier.state_.fitted.candidate.method}
    if row.shots >= 100:  # the features of all images are known by now
        found["refit_seconds"] = _timed(lambda: classifier.fit(files.place / part / "support"))
    found |= {"confidence": probabilities.max(1).tolist(), "right": right.tolist()}
    x, q, y = classifier.transform(learned), classifier.transform(asked), [file.parent.name for file in learned]
    found["logistic"] = float((LogisticRegression(max_iter=1000).fit(x, y).predict(q) == truth).mean())
    found["nearest_mean"] = float((nearest_mean(x, np.array(y), q) == truth).mean())
    if importlib.util.find_spec("easyfsl") is not None:
        found["simple_shot"] = float((simple_shot(x, np.array(y), q) == truth).mean())
    if len(classifier.state_.fitted.true_probabilities) >= COVERAGE / (1 - COVERAGE):
        sets = classifier.predict_set(asked, COVERAGE)
        found["covered"] = mean(label in some for label, some in zip(truth, sets, strict=True))
        found["set_size"] = mean(map(len, sets))
    return found


def nearest_mean(x: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The class whose mean feature vector is nearest."""
    classes = np.unique(y)
    means = np.stack([x[y == label].mean(0) for label in classes])
    return classes[((q[:, None] - means) ** 2).sum(2).argmin(1)]


def simple_shot(x: np.ndarray, y: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What easyfsl's SimpleShot answers: the class mean at the smallest angle."""
    from easyfsl.methods import SimpleShot

    classes, labels = np.unique(y, return_inverse=True)
    method = SimpleShot(nn.Identity())
    method.process_support_set(torch.from_numpy(x), torch.from_numpy(labels))
    return classes[method(torch.from_numpy(q)).argmax(1).numpy()]


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % interval of their mean."""
    return 1.96 * stdev(values) / len(values) ** 0.5


def summary(tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over tasks with half their 95 % intervals, what was chosen how often, and the calibration."""
    line: dict[str, Any] = {"tasks": len(tasks)}
    for name in ("model", "head"):
        chosen = [task[name] for task in tasks if name in task]
        line |= {f"{name}s": {each: chosen.count(each) for each in sorted(set(chosen))}} if chosen else {}
    names = ("accuracy", "logistic", "nearest_mean", "simple_shot", "covered", "set_size", "known", "unknown")
    values = {name: [task[name] for task in tasks if name in task] for name in names}
    for name in ("logistic", "nearest_mean", "simple_shot"):
        if values[name]:
            values[f"more_than_{name}"] = [a - b for a, b in zip(values["accuracy"], values[name], strict=True)]
    for name, some in values.items():
        line |= {name: mean(some), f"{name}_ci95": half_interval(some)} if len(some) > 1 else {}
    if "refit_seconds" in tasks[0]:
        line["refit_seconds"] = median(task["refit_seconds"] for task in tasks)
    return line | (calibration(tasks) if values["accuracy"] else {})


def calibration(tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The reliability diagram of all tasks' answers, its error, and the error's bootstrap interval over tasks."""
    each = [(np.array(task["confidence"]), np.array(task["right"], dtype=float)) for task in tasks]

    def of(chosen: Sequence[int]) -> list[dict[str, float]]:
        return reliability(*(np.concatenate([each[k][part] for k in chosen]) for part in (0, 1)))

    def error(bins: list[dict[str, float]]) -> float:
        return sum(each["share"] * abs(each["confidence"] - each["accuracy"]) for each in bins)

    generator = np.random.default_rng(0)
    errors = [error(of(generator.integers(len(each), size=len(each)))) for _ in range(1000)]
    bins = of(range(len(each)))
    return {"ece": error(bins), "ece_interval": np.quantile(errors, (0.025, 0.975)).tolist(), "reliability": bins}


def speed(files: Files, generator: np.random.Generator) -> dict[str, Any]:
    """Seconds and memory of the commands on photographs of 640×480, of processes that remember nothing."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for k in range(5):
            (place / "support" / str(k)).mkdir(parents=True)
            for file in files.by_class[k][:5]:
                _photograph(file, place / "support" / str(k))
        (place / "many").mkdir()
        for number in range(1000):
            k, row = number % len(files.by_class), generator.integers(PER_CLASS)
            _photograph(files.by_class[k][row], place / "many", f"{number:04d}")
        fits = [_run("fit", place / "support", "--out", place / "out") for _ in range(5)]
        seconds, memory = _run("predict", place / "out", place / "many")
        classifier = mc.FewShotClassifier.load(place / "out")
        pictures = sorted((place / "many").iterdir())[:30]
        each = [_timed(lambda file=file: classifier.predict([file])) for file in pictures]
    return {
        "fit_seconds": median(found for found, _ in fits),
        "fit_megabytes": max(found for _, found in fits),
        "prediction_milliseconds": 1000 * median(each[5:]),
        "images_per_second": 1000 / seconds,
        "predict_megabytes": memory,
        "model": classifier.state_.start.name,
    }


def _photograph(file: Path, folder: Path, name: str = "") -> None:
    with Image.open(file) as image:
        image.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{name or file.stem}.jpg", quality=90)


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


_COMMAND = """
import atexit, runpy, sys
from pathlib import Path
tell = lambda: print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
atexit.register(tell)
runpy.run_module("metacontrast", run_name="__main__", alter_sys=True)
"""


def _run(*words: Any) -> tuple[float, float]:
    """Seconds and megabytes of a command, which tells its own memory at its end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _COMMAND, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed: {done.stderr}")
    return time.perf_counter() - start, int(done.stderr.split()[-1]) / 1e3


def measure(name: str, tasks: int, seed: int) -> dict[str, Any]:
    """One row."""
    row, generator = ROWS[name], np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        files = write(load(row.data, row.kept), Path(folder))
        if name == "speed":
            return speed(files, generator)
        drawn = [draw(files, row, generator) for _ in range(tasks)]
        found = [answer(files, row, *each) for each in enumerate(tqdm(drawn, name, disable=None))]
    return summary(found)


def processor() -> str:
    """Its name and how many threads are used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def is_there(records: Sequence[dict[str, Any]], name: str, tasks: int, seed: int) -> bool:
    """Whether the records have the row with as many tasks."""
    return any(
        (line["row"], line["seed"]) == (name, seed) and (name == "speed" or line["tasks"] >= tasks) for line in records
    )


def main(words: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(words)
    records = read_records(args.records) if args.records and args.records.exists() else []
    if args.page:
        args.page.write_text(page_of(args.page, records), encoding="utf-8")
        draw_diagram(records, args.page.parent)
        return
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    asked = args.only or list(ROWS)
    with remembering(args.cache) as encoders:
        records = add_rows(args, records, [name for name in asked if name != "speed"], encoders)
    add_rows(args, records, [name for name in asked if name == "speed"], {})


def add_rows(
    args: argparse.Namespace, records: list[dict[str, Any]], names: Sequence[str], encoders: dict[str, Remembering]
) -> list[dict[str, Any]]:
    """Measure the rows of these names that the records lack, and write the records after each."""
    for name in names:
        tasks = args.tasks or ROWS[name].tasks
        if is_there(records, name, tasks, args.seed):
            continue
        words = f'--only "{name}" --tasks {tasks} --seed {args.seed}'
        line = {"row": name, "seed": args.seed, **measure(name, tasks, args.seed)}
        line |= {"processor": processor(), "torch": torch.__version__}
        line |= {"command": f"python benchmarks/photos.py --records results/photos.jsonl {words}"}
        print(json.dumps({key: value for key, value in line.items() if key != "reliability"}), flush=True)
        records = [*(each for each in records if (each["row"], each["seed"]) != (name, args.seed)), line]
        if args.records:
            args.records.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
        for encoder in encoders.values():
            encoder.save()
    return records


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=Path)
    parser.add_argument("--cache", type=Path, help="keep features here; without it, in memory")
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--tasks", type=int, help="default: 100, and 20 of 5x500")
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument("--page", type=Path, help="write the tables of the records into this page, and nothing else")
    return parser


if __name__ == "__main__":
    main()
