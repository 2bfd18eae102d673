"""`metacontrast evaluate`: accuracy of a trained run on fixed test tasks."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.data import ReadOptions, load_dataset
from metacontrast.data.catalog import find_dataset
from metacontrast.data.images import ClassImages
from metacontrast.data.specs import FOLDER
from metacontrast.errors import InputError
from metacontrast.model.normalization import NORMS
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, TestHead, as_table, evaluate
from metacontrast.training.run import TrainedRun


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained run, ± its 95 %% interval",
        description="Accuracy over fixed test tasks, per number of inner steps, head kept and zeroed, "
        "beside the nearest class mean on the same features. Equal seeds give equal tasks.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, or a model that comes with the package")
    parser.add_argument("--steps", type=shared.step_list, metavar="N,N", help="inner steps (default: the run's own)")
    parser.add_argument("--head", choices=("kept", "zeroed", "both"), help="start of the head (default: both)")
    parser.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    parser.add_argument("--dataset", metavar="NAME", help="another data set to test on (default: the run's own)")
    parser.add_argument(
        "--split", help="split to test on (default: test; of another folder that is not divided, everything)"
    )
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
    from metacontrast.classifier.model_folder import load_model

    run = load_model(args.run)
    config = replace(run.config, **{n: v for n in _TASK_FIELDS if (v := getattr(args, n)) is not None})
    heads = _heads(args.head, config.ways, run.config)
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
        fields = ("ways", "shots", "queries", "seed", "inner_lr")
        facts = {"updates": run.updates, "split": args.split, "data_digest": images.digest}
        shared.print_json(results | facts | {name: getattr(config, name) for name in fields})
    else:
        print(as_table(rows))


_TASK_FIELDS = ("ways", "shots", "queries", "seed", "norm", "inner_lr")


def _heads(asked: str | None, ways: int, trained: TrainConfig) -> tuple[TestHead, ...]:
    """Kept and zeroed, unless asked otherwise, or where one of them cannot work."""
    cannot_keep = ways != trained.ways and trained.head in ("learned", "zeroed")
    cannot_zero = trained.inner_scope == "encoder"
    if cannot_keep and asked in ("kept", "both"):
        raise InputError(
            f"--head {asked} with {ways} ways, but the head was trained for {trained.ways}: use --head zeroed"
        )
    if cannot_zero and (cannot_keep or asked in ("zeroed", "both")):
        raise InputError("a zeroed head stays zero, for the run's inner loop moves only the encoder: use --head kept")
    if asked == "zeroed" or cannot_keep:
        return ("zeroed",)
    return ("kept",) if asked == "kept" or cannot_zero else ("kept", "zeroed")


def images_like_the_runs(args: argparse.Namespace, run: TrainedRun) -> ClassImages:
    """The test images, shaped and normalized as the run's own."""
    dataset = args.dataset or run.config.dataset
    options = run.config.read_options()
    if dataset != run.config.dataset:
        spec, place = find_dataset(dataset, args.data_root)
        if spec is FOLDER:
            return _folder_elsewhere(run, place, args.split)
        options = _options_elsewhere(dataset, run, args)
    images = load_dataset(dataset, args.split or "test", args.data_root, options)
    if images.shape != run.image_shape:
        raise InputError(
            f"{images.name} has images of (channels, height, width) {images.shape}, but the run was trained on "
            f"{run.image_shape}: choose a data set of the same kind"
        )
    return replace(images, mean=run.mean, std=run.std)


def _folder_elsewhere(run: TrainedRun, folder: Path, split: str | None) -> ClassImages:
    from metacontrast.classifier.image_format import read_folder_like
    from metacontrast.classifier.starting_point import from_run

    return read_folder_like(from_run(folder.name, run).images, folder, split)


def _options_elsewhere(dataset: str, run: TrainedRun, args: argparse.Namespace) -> ReadOptions:
    """How the run's images were read, as far as that applies to another data set; polarity must carry over."""
    spec, _ = find_dataset(dataset, args.data_root)
    ours = run.config.read_options()
    if ours.invert and "invert" not in spec.options:
        raise InputError(f"the run was trained on inverted images, and {dataset} cannot be inverted: choose another")
    kept = {name: getattr(ours, name) for name in ("resample", "invert") if name in spec.options}
    return ReadOptions(image_size=run.image_shape[1], **kept)
