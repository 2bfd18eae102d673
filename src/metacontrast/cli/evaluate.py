"""`metacontrast evaluate`: accuracy of a trained run on fixed test tasks."""

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.data import ReadOptions, load_dataset
from metacontrast.data.catalog import FOLDER, DatasetSpec, find_dataset
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.model.normalization import NORMS
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, Row, TestHead, as_table, evaluate
from metacontrast.training.run import TrainedRun, load_run


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of a trained run, ± its 95 %% interval",
        description="Accuracy over fixed test tasks, per number of inner steps, head kept and zeroed, "
        "beside the nearest class mean on the same features. Equal seeds give equal tasks.",
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="run directory, a model file in it such as RUN/best.safetensors, or a bundled model",
    )
    parser.add_argument("--steps", type=shared.step_list, metavar="N,N", help="inner steps (default: the run's own)")
    parser.add_argument("--head", choices=("kept", "zeroed", "both"), help="start of the head (default: both)")
    parser.add_argument("--episodes", type=int, default=600, metavar="N", help="test tasks (default: %(default)s)")
    parser.add_argument("--dataset", metavar="NAME", help="another data set to test on (default: the run's own)")
    parser.add_argument(
        "--split", help="split to test on (default: test; of another folder that is not divided, everything)"
    )
    for name in ("ways", "shots"):
        parser.add_argument(
            f"--{name}", type=shared.step_list, metavar="N,N", help=f"{name} of the tasks, one or several sizes"
        )
    for name in ("queries", "seed"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{name} of the tasks (default: the run's own)")
    parser.add_argument("--inner-lr", type=float, metavar="X", help="inner step size (default: the run's own)")
    parser.add_argument("--norm", choices=NORMS, help="whose statistics normalize queries (default: the run's own)")
    shared.add_data_root_flag(parser)
    shared.add_compute_flags(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> None:
    """Evaluate and print the table."""
    from metacontrast.classifier.starting_point import load_model

    run = load_run(args.run) if args.run.is_file() else load_model(args.run)
    fields = {name: value for name in _TASK_FIELDS if (value := getattr(args, name)) is not None}
    configs = [
        replace(run.config, ways=ways, shots=shots, **fields)
        for ways, shots in product(args.ways or (run.config.ways,), args.shots or (run.config.shots,))
    ]
    evaluations = [
        Evaluation(args.steps or config.eval_steps, _heads(args.head, config.ways, run.config), args.episodes)
        for config in configs
    ]
    images = images_like_the_runs(args, run)
    tasks = [config.test_tasks(images) for config in configs]
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=args.episodes * len(configs), desc="evaluating", unit="task", disable=None, leave=False) as bar,
    ):
        model, params = run.model.with_norm(configs[0].norm).to(resources.device), run.params_on(resources.device)
        images = images.to(resources.device)
        rows = [
            evaluate(
                model, params, replace(of_size, images=images), config.inner(), wanted, resources.executor, bar.update
            )
            for config, wanted, of_size in zip(configs, evaluations, tasks, strict=True)
        ]
    shared.say(f"{args.run}: {run.updates} updates; {_sizes(configs)} tasks of {images.name}")
    if args.json:
        shared.print_json(_as_json(run, configs, rows, images, args))
        return
    for config, found in zip(configs, rows, strict=True):
        if len(configs) > 1:
            print(f"{config.ways}-way {config.shots}-shot")
        print(as_table(found))


def _sizes(configs: list[TrainConfig]) -> str:
    return ", ".join(f"{config.ways}-way {config.shots}-shot" for config in configs)


def _as_json(
    run: TrainedRun,
    configs: list[TrainConfig],
    rows: list[list[Row]],
    images: ClassImages,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Every row with its size, and what all have in common."""
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


def _folder_elsewhere(run: TrainedRun, folder: Path, split: str | None) -> ClassImages:
    from metacontrast.classifier.starting_point import from_run
    from metacontrast.data.image_format import read_folder_like

    return read_folder_like(from_run(folder.name, run).images, folder, split)


def _options_elsewhere(spec: DatasetSpec, run: TrainedRun) -> ReadOptions:
    """How the run's images were read, as far as that applies to another data set; polarity must carry over."""
    ours = run.config.read_options()
    if ours.invert and "invert" not in spec.options:
        raise InputError(f"the run was trained on inverted images, and {spec.name} cannot be inverted: choose another")
    kept = {name: getattr(ours, name) for name in ("resample", "invert") if name in spec.options}
    return ReadOptions(image_size=run.image_shape[1], **kept)
