"""`metacontrast evaluate`: accuracy of a trained run on fixed test tasks."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.data import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.model.normalization import NORMS
from metacontrast.training.evaluate import Evaluation, TestHead, as_table, evaluate
from metacontrast.training.run import TrainedRun, load_run


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained run, ± its 95 %% interval",
        description="Accuracy over fixed test tasks, per number of inner steps, head kept and zeroed, "
        "beside the nearest class mean on the same features. Equal seeds give equal tasks.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--steps", type=shared.step_list, metavar="N,N", help="inner steps (default: the run's own)")
    parser.add_argument("--head", choices=("kept", "zeroed", "both"), help="start of the head (default: both)")
    parser.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    parser.add_argument("--dataset", metavar="NAME", help="another data set to test on (default: the run's own)")
    parser.add_argument("--split", default="test", help="split to test on (default: %(default)s)")
    for name in ("ways", "shots", "queries", "seed"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{name} of the tasks (default: the run's own)")
    parser.add_argument("--inner-lr", type=float, metavar="X", help="inner step size (default: the run's own)")
    parser.add_argument("--norm", choices=NORMS, help="whose statistics normalize queries (default: the run's own)")
    shared.add_data_root_flag(parser)
    shared.add_compute_flags(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Evaluate and print the table."""
    run = load_run(args.run)
    config = replace(run.config, **{n: v for n in _TASK_FIELDS if (v := getattr(args, n)) is not None})
    heads = _heads(args.head, config.ways, run.config.ways, run.config.head)
    evaluation = Evaluation(args.steps or config.eval_steps, heads, args.episodes)
    images = images_like_the_runs(args, run)
    tasks = config.test_tasks(images)
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=args.episodes, desc="evaluating", unit="task", disable=None, leave=False) as bar,
    ):
        model = run.model.with_norm(config.norm).to(resources.device)
        params = run.params_on(resources.device)
        tasks = replace(tasks, images=images.to(resources.device))
        rows = evaluate(model, params, tasks, config.inner(), evaluation, resources.executor, bar.update)
    shared.say(f"{args.run}: {run.updates} updates; {config.ways}-way {config.shots}-shot tasks of {images.name}")
    if args.json:
        results = {"results": [asdict(row) for row in rows], "run": str(args.run), "data": images.name}
        shared.print_json(results | {"ways": config.ways, "shots": config.shots, "seed": config.seed})
    else:
        print(as_table(rows))


_TASK_FIELDS = ("ways", "shots", "queries", "seed", "norm", "inner_lr")


def _heads(asked: str | None, ways: int, trained_ways: int, trained_head: str) -> tuple[TestHead, ...]:
    """Kept and zeroed, unless asked otherwise or the trained head cannot be kept for so many classes."""
    cannot_keep = ways != trained_ways and trained_head in ("learned", "zeroed")
    if cannot_keep and asked in ("kept", "both"):
        raise InputError(
            f"--head {asked} with {ways} ways, but the head was trained for {trained_ways}: use --head zeroed"
        )
    if asked == "zeroed" or cannot_keep:
        return ("zeroed",)
    return ("kept",) if asked == "kept" else ("kept", "zeroed")


def images_like_the_runs(args: argparse.Namespace, run: TrainedRun) -> ClassImages:
    """The test images, shaped and normalized as the run's own."""
    dataset = args.dataset or run.config.dataset
    size = run.image_shape[1]
    options = run.config.read_options()
    if dataset != run.config.dataset:
        options = replace(type(options)(), image_size=size)
    images = load_dataset(dataset, args.split, args.data_root, options)
    if images.shape != run.image_shape:
        raise InputError(
            f"{images.name} has images of (channels, height, width) {images.shape}, but the run was trained on "
            f"{run.image_shape}: choose a data set of the same kind"
        )
    return replace(images, mean=run.mean, std=run.std)
