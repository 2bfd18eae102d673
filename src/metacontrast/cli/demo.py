"""`metacontrast demo`: train with and without the zeroing trick, evaluate, and write a report."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.config_flags import config_from_flags
from metacontrast.cli.train import train_with_progress
from metacontrast.data import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.demo import DemoResult, demo_configs, results_table, write_report
from metacontrast.training.evaluate import Evaluation, Row, evaluate
from metacontrast.training.run import TrainedRun, load_run

_COLORS = ("orange", "blue")


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "demo",
        help="the main job in minutes: train with and without the zeroing trick, report",
        description="Meta-train first-order MAML twice with the same seed, with a learned and with a zeroed head, "
        "evaluate both and write a report folder. A finished part is not done again.",
    )
    parser.add_argument("--dataset", default="glyphs", metavar="NAME", help="data set (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=120, metavar="N", help="outer updates (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-report"), metavar="DIR", help="default: %(default)s")
    shared.add_data_root_flag(parser)
    shared.add_compute_flags(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute, recipe=None, resume=True, tensorboard=False)


def execute(args: argparse.Namespace) -> int:
    """Train both, evaluate both, write the report, print the table."""
    base = replace(config_from_flags(args), eval_every=max(1, args.updates // 6), eval_steps=(1,))
    images = load_dataset(base.dataset, "test", args.data_root, base.read_options())
    results = []
    for (label, config), color in zip(demo_configs(base).items(), _COLORS, strict=True):
        place = (
            args.out / "runs" / f"{config.dataset}-{config.head}-{config.updates}-seed{config.seed}".replace("/", "_")
        )
        status, _ = train_with_progress(config, argparse.Namespace(**{**vars(args), "out": place}), label)
        if status == "stopped":
            shared.say("stopped and saved; the same command continues")
            return shared.INTERRUPTED
        run = load_run(place)
        rows = _evaluate(run, images, args, label)
        results.append(DemoResult(label, color, place, run, rows))
    command = f"metacontrast demo --dataset {args.dataset} --updates {args.updates} --seed {args.seed}"
    page = write_report(args.out, results, images, command)
    print(results_table(results))
    print(f"\nreport: {page}")
    if args.json:
        shared.print_json({"report": str(page), "results": {r.label: [vars(row) for row in r.rows] for r in results}})
    return 0


def _evaluate(run: TrainedRun, images: ClassImages, args: argparse.Namespace, label: str) -> list[Row]:
    evaluation = Evaluation((run.config.eval_steps[0],), episodes=args.episodes)
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=args.episodes, desc=f"testing {label}", unit="task", disable=None, leave=False) as bar,
    ):
        tasks = run.config.test_tasks(images.to(resources.device))
        model, params = run.model.to(resources.device), run.params_on(resources.device)
        return evaluate(model, params, tasks, run.config.inner(), evaluation, resources.executor, bar.update)
