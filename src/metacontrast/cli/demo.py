"""`metacontrast demo`: train with and without the zeroing trick, evaluate, and write a report."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from metacontrast import html
from metacontrast.cli import shared
from metacontrast.cli.config_flags import COMMON, add_config_flags, config_from_fields, given_fields
from metacontrast.cli.parser import Parser
from metacontrast.cli.train import train_with_progress
from metacontrast.data import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError, one_line
from metacontrast.files import write_text
from metacontrast.maml.inner import adapt
from metacontrast.plots import save_figure
from metacontrast.plots.curves import learning_curves, select_curve
from metacontrast.plots.images import EpisodePicture, draw_episodes, drawable
from metacontrast.report.findings import Findings, explain_run, headline
from metacontrast.report.report import write_report
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, Row, as_table, evaluate
from metacontrast.training.records import read_records
from metacontrast.training.run import RECORDS, TrainedRun, load_run
from metacontrast.version import INTERRUPTED

_COLORS = ("orange", "blue")
UPDATES = 120
_AS_IN_TRAIN: dict[str, Any] = {
    **{"resume": True, "seeds": None, "vary": [], "tensorboard": False, "deterministic": False},
    **{"jobs": None, "runner": "local", "address": None},
}
"""The flags of `train` that the demonstration has none of."""


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        usage="%(prog)s [flags]",
        common=({*COMMON, "episodes"} - {"head", "resume"}),
        description="Meta-train first-order MAML twice with the same seed, with a learned and with a zeroed head, "
        "evaluate and explain both, and write a report folder. Finished parts are reused.",
    )
    parser.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    parser.add_argument(
        "--out", type=shared.out_folder, default=Path("demo-report"), metavar="DIR", help="default: %(default)s"
    )
    groups = add_config_flags(parser, **_own_defaults(UPDATES))
    shared.add_data_root_flag(groups["data"])
    shared.add_compute_flags(groups["run"])
    shared.add_json_flag(groups["run"])
    parser.set_defaults(**_AS_IN_TRAIN)


def execute(args: argparse.Namespace) -> int:
    """Train both, evaluate both, write the report, print the table."""
    for flag in ("head", "head_init_scale"):
        if hasattr(args, flag):
            raise InputError(f"demo compares a learned and a zeroed head: leave out --{flag.replace('_', '-')}")
    base = config_from_fields(args.recipe, _own_defaults(getattr(args, "updates", UPDATES)), given_fields(args))
    if base.method != "maml":
        raise InputError(f"demo compares two trainings of MAML: leave out --method {base.method}, or use train")
    Evaluation(episodes=args.episodes)
    shared.check_destinations(shared.images_folder(base.dataset), folders=[args.out])
    images = load_dataset(base.dataset, "test", args.data_root, base.read_options())
    results = []
    for (label, config), color in zip(demo_configs(base).items(), _COLORS, strict=True):
        place = args.out / "runs" / f"{config.head}-{config.digest()[:8]}"
        status, _ = train_with_progress({Path(): config}, argparse.Namespace(**{**vars(args), "out": place}), label)
        if status == "stopped":
            shared.say("stopped and saved; the same command continues")
            return INTERRUPTED
        run = load_run(place)
        rows, findings = _measure(run, images, args, label)
        results.append(DemoResult(label, color, place, run, rows, findings))
    page = write_demo_page(args.out, results, images, shlex.join(["metacontrast", *sys.argv[1:]]))
    print("\n\n".join(f"{r.label}\n{as_table(r.rows)}\n{headline(r.findings)}" for r in results))
    print(f"\nreport: {one_line(str(page))}")
    if args.json:
        shared.print_json({"report": str(page), "results": {r.label: [vars(row) for row in r.rows] for r in results}})
    return 0


def _own_defaults(updates: int) -> dict[str, Any]:
    """The fields of a short training with a handful of evaluations."""
    return {
        "updates": updates,
        "eval_every": max(1, updates // 6),
        "eval_steps": (1,),
        "eval_episodes": 100,
        "eval_split": "test",
    }


def _measure(run: TrainedRun, images: ClassImages, args: argparse.Namespace, label: str) -> tuple[list[Row], Findings]:
    evaluation = Evaluation((run.config.eval_steps[0],), episodes=args.episodes)
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=args.episodes, desc=f"testing {label}", unit="task", disable=None, leave=False) as bar,
    ):
        tasks = run.config.test_tasks(images.to(resources.device))
        model, params = run.model.to(resources.device), run.params_on(resources.device)
        rows = evaluate(model, params, tasks, run.config.inner(), evaluation, resources.executor, bar.update)
        return rows, explain_run(run, [], tasks, run.config.meta_batch, resources)


SHOWN_QUERIES = 5


@dataclass(frozen=True)
class DemoResult:
    """One of the two trainings: its name, colour in pictures and run directory, and what was found of it."""

    label: str
    color: str
    folder: Path
    run: TrainedRun
    rows: Sequence[Row]
    findings: Findings


def demo_configs(base: TrainConfig) -> dict[str, TrainConfig]:
    """Return two configurations that differ in the head: learned and zeroed."""
    return {
        "learned head": replace(base, head="learned", head_init_scale=1.0),
        "zeroing trick": replace(base, head="zeroed"),
    }


def write_demo_page(folder: Path, results: Sequence[DemoResult], images: ClassImages, command: str) -> Path:
    """Write pictures, `results.json`, an `explain` folder per run and one self-contained page; return its path."""
    for result in results:
        write_report(_explain_folder(folder, result), result.findings, command)
    episodes = draw_episodes([_episode_picture(results[-1], images, index) for index in (0, 1)])
    pictures = [
        save_figure(_curves(results), folder / "learning-curves.png"),
        save_figure(episodes, folder / "episodes.png"),
    ]
    facts = {"command": command, "results": {r.label: [asdict(row) for row in r.rows] for r in results}}
    write_text(folder / "results.json", json.dumps(facts, indent=1) + "\n")
    report = folder / "report.html"
    write_text(report, _page(folder, results, pictures, images, command))
    return report


def _explain_folder(folder: Path, result: DemoResult) -> Path:
    return folder / f"explain-{result.run.config.head}"


def _curves(results: Sequence[DemoResult]) -> Figure:
    config = results[0].run.config
    steps = config.eval_steps[0]
    curves = []
    for result in results:
        records = read_records(result.folder / RECORDS)
        zeroed = {"method": "maml", "head": "zeroed", "steps": steps}
        if result.run.config.head == "zeroed":
            curves.append(select_curve(records, zeroed, result.label, result.color))
        else:
            kept = zeroed | {"head": "kept"}
            curves.append(select_curve(records, zeroed, f"{result.label}, zeroed at test", result.color))
            curves.append(select_curve(records, kept, f"{result.label}, kept at test", result.color, dashed=True))
    name = one_line(short_name(config.dataset)).replace("$", r"\$")  # in which matplotlib sees no formula
    title = f"{name}, {config.ways}-way {config.shots}-shot, inner steps: {steps}"
    return learning_curves(curves, title, chance=1 / config.ways)


def short_name(dataset: str) -> str:
    """Shorten a data set's name for a title: of a folder only its own name."""
    return Path(dataset.removeprefix("folder:")).name if dataset.startswith("folder:") else dataset


def _episode_picture(result: DemoResult, images: ClassImages, index: int) -> EpisodePicture:
    """A test task, predicted by the model of the result."""
    config, model, params = result.run.config, result.run.model, result.run.params
    tasks = config.test_tasks(images)
    episode, rows = tasks[index], tasks.rows(index)
    inner = replace(config.inner(), steps=config.eval_steps[0], order="first")
    adapted = adapt(model, params, episode.support_x, episode.support_y, inner)
    with torch.no_grad():
        predicted = model.query_logits(adapted, episode.support_x, episode.query_x).argmax(1).numpy()
    right = 100 * (predicted == rows.query_y).mean()
    shown = slice(0, SHOWN_QUERIES)
    return EpisodePicture(
        f"test task {index}: {right:.0f} % of {len(predicted)} right",
        _by_way(images, rows.support, config.ways),
        _by_way(images, rows.query, config.ways)[:, shown],
        predicted.reshape(config.ways, -1)[:, shown],
    )


def _by_way(images: ClassImages, rows: np.ndarray, ways: int) -> np.ndarray:
    """Arrange images as `(way, image, height, width)`, with a last axis of 3 for colour."""
    pixels = drawable(images.images[torch.from_numpy(rows)].numpy())
    return pixels.reshape(ways, -1, *pixels.shape[1:])


def _page(
    folder: Path, results: Sequence[DemoResult], pictures: Sequence[Path], images: ClassImages, command: str
) -> str:
    config = results[0].run.config
    tested = "test" if config.eval_split == "test" else "validation"
    captions = (
        f"Accuracy during training on {tested} tasks, the head zeroed at test (dashed: kept as trained). The two runs "
        "differ in one thing: whether the linear head is set to zero after every outer update.",
        "Two test tasks, predicted with the zeroing trick. Green frame: right. Orange frame: wrong, with the "
        "class that was predicted.",
    )
    setting = (
        f"{config.ways}-way {config.shots}-shot, {config.order}-order MAML, {config.updates} updates of "
        f"{config.meta_batch} tasks, {config.inner_steps} inner steps of size {config.inner_lr}, "
        f"seed {config.seed}; tested on {results[0].rows[0].episodes} tasks of {images.name} "
        f"({len(images)} classes)."
    )
    body = [
        html.paragraph(setting),
        *map(html.figure, pictures, captions),
        html.heading("Accuracy at the end"),
        *(piece for r in results for piece in (html.heading(r.label, 3), _html_table(r.rows))),
        html.paragraph(_NOTES),
        html.heading("Why"),
        *(piece for r in results for piece in _why(folder, r)),
        html.footer(command, images.digest),
    ]
    return html.render_page(f"MAML with and without the zeroing trick: {short_name(config.dataset)}", body)


def _why(folder: Path, result: DemoResult) -> Sequence[str]:
    place = _explain_folder(folder, result)
    caption = f"The parts of the gradient with the {result.label}. More in {place.name}/explain.html beside this page."
    return (
        html.heading(result.label, 3),
        html.paragraph(headline(result.findings)),
        html.figure(place / "gradient-parts.png", caption),
    )


def _html_table(rows: Sequence[Row]) -> str:
    head = ("method", "head at test", "inner steps", "accuracy", "statistics")
    lines = ((r.method, r.head, str(r.steps), f"{100 * r.accuracy:.2f} ± {100 * r.ci95:.2f} %", r.norm) for r in rows)
    return html.table(head, lines)


_NOTES = (
    "Intervals are 95 % over test tasks; they do not cover the choice of the training seed. nearest-mean is a "
    "nearest-centroid classifier on the same features, without adaptation. transductive: the query images of a task "
    "normalize one another."
)
