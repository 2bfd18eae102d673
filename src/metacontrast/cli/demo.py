"""`metacontrast demo`: train with and without the zeroing trick, evaluate, and write a report."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.config_flags import COMMON, add_config_flags, config_from_flags
from metacontrast.cli.destinations import check_destinations, images_folder
from metacontrast.cli.train import train_with_progress
from metacontrast.data import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.demo import DemoResult, demo_configs, results_table, write_demo_page
from metacontrast.errors import InputError, one_line
from metacontrast.report.findings import Findings, explain_run
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, Row, evaluate
from metacontrast.training.run import TrainedRun, load_run
from metacontrast.version import INTERRUPTED

_COLORS = ("orange", "blue")
UPDATES = 120
_AS_IN_TRAIN: dict[str, Any] = {
    **{"resume": True, "seeds": None, "vary": [], "tensorboard": False, "deterministic": False},
    **{"jobs": None, "runner": "local", "address": None},
}
"""The flags of `train` that the demonstration has none of."""


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "demo",
        usage="%(prog)s [flags]",
        common=({*COMMON, "episodes"} - {"head", "resume"}),
        help="quick demo: train with and without the zeroing trick, and write a report",
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
    parser.set_defaults(execute=execute, **_AS_IN_TRAIN)


def execute(args: argparse.Namespace) -> int:
    """Train both, evaluate both, write the report, print the table."""
    for flag in ("head", "head_init_scale"):
        if hasattr(args, flag):
            raise InputError(f"demo compares a learned and a zeroed head: leave out --{flag.replace('_', '-')}")
    base = _config(args)
    Evaluation(episodes=args.episodes)
    check_destinations(images_folder(base.dataset), folders=[args.out])
    images = load_dataset(base.dataset, "test", args.data_root, base.read_options())
    results = []
    for (label, config), color in zip(demo_configs(base).items(), _COLORS, strict=True):
        place = args.out / "runs" / f"{config.head}-{config.digest()[:8]}"
        status, _ = train_with_progress(config, argparse.Namespace(**{**vars(args), "out": place}), label)
        if status == "stopped":
            shared.say("stopped and saved; the same command continues")
            return INTERRUPTED
        run = load_run(place)
        rows, findings = _measure(run, images, args, label)
        results.append(DemoResult(label, color, place, run, rows, findings))
    page = write_demo_page(args.out, results, images, shlex.join(["metacontrast", *sys.argv[1:]]))
    print(results_table(results))
    print(f"\nreport: {one_line(str(page))}")
    if args.json:
        shared.print_json({"report": str(page), "results": {r.label: [vars(row) for row in r.rows] for r in results}})
    return 0


def _config(args: argparse.Namespace) -> TrainConfig:
    """A short training with a handful of evaluations, unless flags say otherwise."""
    return config_from_flags(args, **_own_defaults(getattr(args, "updates", UPDATES)))


def _own_defaults(updates: int) -> dict[str, Any]:
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
