"""`metacontrast evaluate`: accuracy of a trained run on fixed test tasks."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any, get_args

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.data import ReadOptions, load_dataset
from metacontrast.data.catalog import FOLDER, DatasetSpec, find_dataset, is_same_dataset
from metacontrast.data.image_format import read_folder_like
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.model.head import TestHead
from metacontrast.model.normalization import NORMS
from metacontrast.model.solvers import Solver
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, Row, as_table, evaluate
from metacontrast.training.run import TrainedRun
from metacontrast.training.start import format_of


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Measure the accuracy on fixed test tasks for each number of inner steps, with the head kept and "
        "zeroed, next to a nearest-centroid classifier on the same features. Equal seeds give equal tasks.",
        examples=(
            ("accuracy after 1, 3 and 10 inner steps", "metacontrast evaluate runs/glyphs --steps 1,3,10"),
            ("20-way tasks, which a zeroed head allows", "metacontrast evaluate runs/glyphs --ways 20 --head zeroed"),
            ("queries normalized by the support set", "metacontrast evaluate runs/glyphs --norm inductive"),
        ),
    )
    shared.add_run_argument(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME", help="another data set to test on (default: the run's own)")
    data.add_argument(
        "--split",
        help="split to test on, where train has the tasks of the training (default: test, or everything of a folder "
        "without splits)",
    )
    shared.add_data_root_flag(data)
    task = parser.add_argument_group("task")
    for name, what in (("ways", "classes per task"), ("shots", "support images per class")):
        task.add_argument(
            f"--{name}", type=shared.step_list, metavar="N,N", help=f"{what}, one or several (default: the run's own)"
        )
    for name, what in (("queries", "query images per class"), ("seed", "seed of the tasks")):
        task.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: the run's own)")
    task.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    inner = parser.add_argument_group("inner loop")
    inner.add_argument("--steps", type=shared.step_list, metavar="N,N", help="inner steps (default: the run's own)")
    inner.add_argument("--inner-lr", type=float, metavar="X", help="inner step size (default: the run's own)")
    inner.add_argument("--head", choices=("kept", "zeroed", "both"), help="head at the start (default: both)")
    inner.add_argument("--norm", choices=NORMS, help="batch-norm statistics of queries (default: the run's own)")
    inner.add_argument(
        "--solvers",
        type=shared.word_list,
        default=("nearest-mean",),
        metavar="NAME,NAME",
        help=f"what classifies the un-adapted features: {', '.join(get_args(Solver))} (default: nearest-mean)",
    )
    run = parser.add_argument_group("run")
    shared.add_compute_flags(run)
    shared.add_json_flag(run)


def execute(args: argparse.Namespace) -> None:
    """Evaluate and print the table."""
    from metacontrast.classifier.starting_point import load_model

    run = load_model(args.run)
    if args.inner_lr is not None and run.params.rates:
        raise InputError("--inner-lr, but the run's inner learning rates are learned: leave it out")
    steps = args.steps or run.config.eval_steps
    if max(steps) == 0 and (args.inner_lr is not None or args.head == "zeroed"):
        flag = "--head zeroed answers at chance" if args.head == "zeroed" else "--inner-lr changes nothing"
        raise InputError(f"{flag} without inner steps: add --steps 1, or leave it out")
    fields = {name: value for name in _TASK_FIELDS if (value := getattr(args, name)) is not None}
    configs = [
        replace(run.config, ways=ways, shots=shots, **fields)
        for ways, shots in product(args.ways or (run.config.ways,), args.shots or (run.config.shots,))
    ]
    evaluations = [
        Evaluation(steps, _heads(args.head, config.ways, run.config), args.episodes, args.solvers) for config in configs
    ]
    images = images_like_the_runs(args, run)
    tasks = [config.test_tasks(images) for config in configs]
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=args.episodes * len(configs), desc="evaluating", unit="task", disable=None, leave=False) as bar,
    ):
        model, params = run.model.with_norm(configs[0].norm).to(resources.device), run.params_on(resources.device)
        images = images.to(resources.device)
        found = [
            evaluate(
                model, params, replace(of_size, images=images), config.inner(), wanted, resources.executor, bar.update
            )
            for config, wanted, of_size in zip(configs, evaluations, tasks, strict=True)
        ]
    method = run.config.method  # of the adapted model's rows; the others are a solver's
    rows = [[replace(row, method=method) if row.method == "maml" else row for row in of_size] for of_size in found]
    sizes = [f"{config.ways}-way {config.shots}-shot" for config in configs]
    shared.say(f"{args.run}: {run.updates} updates; {', '.join(sizes)} tasks of {images.name}")
    if args.json:
        shared.print_json(_as_json(run, configs, rows, images, args))
        return
    for size, of_size in zip(sizes, rows, strict=True):
        if len(configs) > 1:
            print(size)
        print(as_table(of_size))


def _as_json(
    run: TrainedRun, configs: list[TrainConfig], rows: list[list[Row]], images: ClassImages, args: argparse.Namespace
) -> dict[str, Any]:
    """Build the JSON result: every row with its size, and the facts that all rows share."""
    results = [
        asdict(row) | {"ways": config.ways, "shots": config.shots}
        for config, found in zip(configs, rows, strict=True)
        for row in found
    ]
    facts = {"results": results, "run": str(args.run), "data": images.name, "updates": run.updates}
    facts |= {"split": args.split, "data_digest": images.digest}
    names = ("queries", "seed", "inner_lr") if len(configs) > 1 else ("ways", "shots", "queries", "seed", "inner_lr")
    return facts | {name: getattr(configs[0], name) for name in names}


_TASK_FIELDS = ("queries", "seed", "norm", "inner_lr")


def _heads(asked: str | None, ways: int, trained: TrainConfig) -> tuple[TestHead, ...]:
    """Choose kept and zeroed heads, unless asked otherwise, or where one of them cannot work."""
    cannot_keep = ways != trained.ways and trained.head in ("learned", "zeroed")
    cannot_zero = trained.inner_scope == "encoder"
    if cannot_keep and asked in ("kept", "both"):
        raise InputError(
            f"--head {asked} with {ways} ways, but the head was trained for {trained.ways}: use --head zeroed"
        )
    if cannot_zero and (cannot_keep or asked in ("zeroed", "both")):
        raise InputError("a zeroed head stays zero: the run's inner loop adapts only the encoder; use --head kept")
    if asked == "zeroed" or cannot_keep:
        return ("zeroed",)
    if asked == "kept" or cannot_zero:
        return ("kept",)
    return ("kept", "zeroed") if asked == "both" else trained.test_heads()


def images_like_the_runs(args: argparse.Namespace, run: TrainedRun) -> ClassImages:
    """Load the test images, shaped and normalized as the run's own."""
    dataset = args.dataset or run.config.dataset
    options = run.config.read_options()
    if not is_same_dataset(dataset, run.config.dataset):
        spec, place = find_dataset(dataset, args.data_root)
        if spec is FOLDER:
            return read_folder_like(format_of(run), place, args.split)
        options = _options_elsewhere(spec, run)
    images = load_dataset(dataset, args.split or "test", args.data_root, options)
    if run.config.start is not None:
        images = images.with_channels(run.image_shape[0])
    if images.shape != run.image_shape:
        raise InputError(
            f"{images.name} has images of (channels, height, width) {images.shape}, but the run was trained on "
            f"{run.image_shape}: choose a data set of the same kind"
        )
    return replace(images, mean=run.mean, std=run.std)


def _options_elsewhere(spec: DatasetSpec, run: TrainedRun) -> ReadOptions:
    """Carry the run's reading options over to another data set, as far as they apply; polarity must carry over."""
    ours = run.config.read_options()
    if ours.invert and "invert" not in spec.options:
        raise InputError(f"the run was trained on inverted images, and {spec.name} cannot be inverted: choose another")
    kept = {name: getattr(ours, name) for name in ("resample", "invert") if name in spec.options}
    return ReadOptions(image_size=run.image_shape[1], **kept)
