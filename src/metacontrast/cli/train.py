"""`metacontrast train`: meta-train into a run directory."""

import argparse
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from metacontrast.cli import shared
from metacontrast.cli.asked import asked_sweep, check_effects, check_place, command_that_goes_on, configs_of, goes_on
from metacontrast.cli.config_flags import COMMON, add_config_flags, field_and_values
from metacontrast.cli.grid import add_grid_flags, check_grid_flags, chosen_runner, execute_grid, jobs_at_once
from metacontrast.cli.parser import Parser
from metacontrast.cli.progress import Progress, row_in_words, stop_on_interrupt
from metacontrast.cli.shared import check_destinations, determinism, images_folder
from metacontrast.data.catalog import data_root, dataset_files
from metacontrast.data.images import ClassImages
from metacontrast.device import find_device, free_bytes
from metacontrast.errors import InputError, require_extra
from metacontrast.experiments.runners import Grid, RunContext, RunStatus, run_locally
from metacontrast.maml.engine import EngineName
from metacontrast.training.config import TrainConfig
from metacontrast.training.distributed import ALONE, Distributed, joined
from metacontrast.training.memory import fit_to_memory
from metacontrast.training.records import Record, read_records, tensorboard_writer
from metacontrast.training.run import RECORDS, NullRunDirectory, data_digests, open_run
from metacontrast.training.sweep import Sweep, load_sweep
from metacontrast.training.train_run import load_images, train_run
from metacontrast.version import INTERRUPTED


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        usage="%(prog)s --out DIR [flags]",
        description="Meta-train with MAML, or with the method that --method names. Ctrl-C saves and stops; --resume "
        "continues where it stopped.",
        common=(*COMMON, "seeds", "vary"),
        examples=(
            ("train on the embedded characters", "metacontrast train --recipe glyphs --out runs/glyphs"),
            ("go on to 600 updates", "metacontrast train --resume --updates 600 --out runs/glyphs"),
            (
                "compare two heads on three seeds",
                "metacontrast train --recipe glyphs --seeds 3 --vary head=learned,zeroed --out runs/heads",
            ),
            ("show the defaults of a recipe", "metacontrast train --recipe cifar-fs-5w5s-paper --help"),
        ),
    )
    parser.add_argument("--out", type=shared.out_folder, required=True, metavar="DIR", help="run directory to write")
    groups = add_config_flags(parser)
    shared.add_data_root_flag(groups["data"])
    run = groups["run"]
    run.add_argument("--resume", action="store_true", help="continue the run in --out if there is one")
    run.add_argument(
        "--seeds", "--replicas", type=int, metavar="N", help="train N seeds, from --seed on, into DIR/seed-S each"
    )
    run.add_argument(
        "--vary",
        type=field_and_values,
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="train variants of any field, such as head=learned,zeroed or inner-lr=.1,.4, each into "
        "DIR/FIELD=VALUE/seed-S; may be given several times for all combinations",
    )
    shared.add_compute_flags(run)
    engines = get_args(EngineName)
    run.add_argument(
        "--engine", choices=engines, default="auto", help="how tasks run; auto: loop on a CPU, vmap on a GPU"
    )
    run.add_argument("--chunk", type=int, metavar="N", help="tasks at once under vmap (default: as fits in memory)")
    run.add_argument(
        "--memory", type=_gigabytes, metavar="GB", help="memory that may be used (default: what is free at the start)"
    )
    add_grid_flags(run, default_jobs=1)
    run.add_argument(
        "--deterministic", action="store_true", help="use only deterministic kernels, on GPUs; CPU kernels always are"
    )
    run.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events (an extra)")
    shared.add_json_flag(run)


def _gigabytes(text: str) -> int:
    """Parse a number of gigabytes; return bytes."""
    if not 0 < (size := float(text)) < float("inf"):
        raise ValueError
    return int(size * 1e9)


_gigabytes.__name__ = "number of gigabytes above 0"


def execute(args: argparse.Namespace) -> int:
    """Train, with a progress bar."""
    check_grid_flags(args)
    sweep = asked_sweep(args)
    configs = configs_of(args, sweep)
    check_effects(args, list(configs.values()))
    check_destinations({path for each in configs.values() for path in images_folder(each.dataset)}, folders=[args.out])
    with joined(find_device(args.device)) as processes, _reported_by(processes):
        processes.check_same({f"configuration ({run})": each.digest() for run, each in configs.items()})
        if processes.is_main:
            check_place(args, sweep, configs)
        status, results = train_with_progress(configs, args, processes=processes, sweep=sweep)
        if status == "stopped" and sweep is not None and load_sweep(args.out) is None:
            shared.say("stopped before any run began: the same command begins again")
        elif status == "stopped":
            shared.say(f"stopped and saved; continue with: metacontrast {command_that_goes_on(args)}")
        if args.json:
            shared.print_json({"run": str(args.out), "status": status, "results": results})
    return INTERRUPTED if status == "stopped" else 0


def train_with_progress(
    configs: dict[Path, TrainConfig],
    args: argparse.Namespace,
    label: str = "training",
    processes: Distributed = ALONE,
    sweep: Sweep | None = None,
) -> tuple[str, list[Record]]:
    """Train every run into its folder below `args.out`; return the outcome and the last evaluations.

    Args:
        sweep: what the runs are made from, if there are several.
    """
    if args.tensorboard:
        require_extra("--tensorboard", "tensorboard", "tensorboard")
    status = _train(configs, args, label, processes, sweep)
    runs = configs.items() if processes.is_main else ()
    return status, [_told(row, run, each) for run, each in runs for row in last_evaluation(args.out / run)]


def _told(row: Record, run: Path, config: TrainConfig) -> Record:
    """Return a record with the variant and seed of its run, as far as there are several, and what it was trained by."""
    place: dict[str, Any] = {"variant": run.parts[0]} if len(run.parts) > 1 else {}
    place |= {"seed": config.seed} if run.parts else {}
    return place | row | ({"method": config.method} if row["method"] == "maml" else {})  # the others are a solver's


@contextlib.contextmanager
def _reported_by(processes: Distributed) -> Iterator[None]:
    """Silence all processes but the main one inside the block."""
    if processes.is_main:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _train(
    configs: dict[Path, TrainConfig],
    args: argparse.Namespace,
    label: str,
    processes: Distributed,
    sweep: Sweep | None,
) -> str:
    """Train one run, or a grid of them."""
    jobs = jobs_at_once(args, len(configs), default=1)
    if args.runner == "ray" or (len(configs) > 1 and jobs > 1):
        if processes.count > 1:
            raise InputError("--jobs and --runner ray start processes of their own: leave them out under torchrun")
        return _train_apart(configs, args, jobs, sweep)
    names = ["".join(f"{part}, " for part in run.parts) for run in configs]
    bar = contextlib.closing(Progress(list(configs.values()), names, label))
    with bar as progress, stop_on_interrupt() as should_stop:
        runs = [
            SweepRun(folder, config, args, sweep, processes, partial(progress.show, number), is_first=number == 0)
            for number, (folder, config) in enumerate(configs.items())
        ]
        context = RunContext(args.out, args.data_root, args.device)
        if len(runs) == 1 or processes.count > 1:
            is_done = all(run.execute(context, should_stop) is RunStatus.COMPLETE for run in runs)
        else:
            is_done = execute_grid(Grid(runs, context, 1, should_stop), run_locally)
    if is_done and not progress.seen:
        updates = next(iter(configs.values())).updates
        shared.say(f"{args.out} has all its {updates} updates already; more with --updates")
    return "finished" if is_done else "stopped"


def _train_apart(configs: dict[Path, TrainConfig], args: argparse.Namespace, jobs: int, sweep: Sweep | None) -> str:
    """Train several runs at a time, each with one thread of its own process; print a line for each that ends."""
    args = argparse.Namespace(**vars(args) | {"workers": 1, "memory": _share_of_memory(args, min(jobs, len(configs)))})
    runs = [SweepRun(*each, args, sweep) for each in configs.items()]
    context = RunContext(args.out.absolute(), data_root(args.data_root).absolute(), args.device)
    check_data = partial(_check_data, list(configs.values()), context.data_root)
    with stop_on_interrupt() as should_stop, chosen_runner(args, context, jobs, check_data) as runner:
        is_done = execute_grid(Grid(runs, context, jobs, should_stop), runner)
    return "finished" if is_done else "stopped"


def _share_of_memory(args: argparse.Namespace, jobs: int) -> int | None:
    """Return the bytes that one of several runs on this machine may take; on a cluster what is asked for."""
    if args.runner == "ray":
        return args.memory
    size = free_bytes(find_device(args.device)) if args.memory is None else args.memory
    return None if size is None else size // jobs


def _check_data(configs: list[TrainConfig], data_root: Path | None) -> None:
    """Raise `InputError` where a data set is missing."""
    for name in {config.dataset for config in configs}:
        dataset_files(name, data_root)


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep, executed with the command's flags.

    Args:
        folder: of its run directory below the sweep's.
        sweep: what it is a run of; None of a single one.
        show: sees every record as it is written.
        is_first: whether to say how much memory it takes.
    """

    folder: Path
    config: TrainConfig
    args: argparse.Namespace
    sweep: Sweep | None = None
    processes: Distributed = ALONE
    show: Callable[[Record], None] | None = None
    is_first: bool = False

    @property
    def label(self) -> str:
        """Name of the run in messages."""
        return str(self.folder)

    @property
    def key(self) -> str:
        """Name of the run within the sweep."""
        return str(self.folder)

    def is_complete(self, root: Path) -> bool:
        """Whether the run's last update is recorded."""
        done = [each["update"] for each in _records_in(root / self.folder) if each["kind"] == "training"]
        return max(done, default=0) >= self.config.updates

    def summary(self, root: Path) -> str:
        """Summarize the last evaluation in a few words."""
        rows = last_evaluation(root / self.folder)
        return ", ".join(f"{row_in_words(row)} {100 * row['accuracy']:.1f} %" for row in rows)

    def execute(self, context: RunContext, should_stop: Callable[[], bool]) -> RunStatus:
        """Train the run from its last saved state."""
        config, args, folder, at_once = self.config, self.args, context.runs / self.folder, self.config.tasks_at_once
        parts = len(self.processes.shard(range(config.meta_batch), at_once)) // at_once
        with self.processes.main_first():
            images = _load(config, context.data_root)
        with contextlib.ExitStack() as stack:
            stack.enter_context(determinism(args.deterministic))
            asked = stack.enter_context(shared.resources(args, parts))
            resources, need = fit_to_memory(config, images, replace(asked, distributed=self.processes))
            self.processes.check_same(data_digests(config, images) if self.processes.count > 1 else {})
            if self.processes.is_main and self.sweep is not None:
                self.sweep.save(context.runs)
            if self.processes.is_main:
                run = stack.enter_context(open_run(folder, config, images, resources.device, resume=goes_on(args)))
            else:
                run = NullRunDirectory(folder, {})
            is_logged = args.tensorboard and self.processes.is_main
            log = stack.enter_context(tensorboard_writer(folder if is_logged else None))
            if self.is_first:
                shared.say(need)

            def on_record(record: Record) -> None:
                log(record)
                if self.show is not None:
                    self.show(record)

            status = train_run(config, run, *images, resources, on_record=on_record, should_stop=should_stop)
        return RunStatus.COMPLETE if status == "finished" else RunStatus.STOPPED


def _load(config: TrainConfig, root: Path | None) -> tuple[ClassImages, ClassImages]:
    """Load the images of the training, with a note where classes are in both splits."""
    train_images, test_images = load_images(config, root)
    if both := set(train_images.classes) & set(test_images.classes):
        shared.say(f"note: {len(both)} classes are trained on and tested on: accuracy says little about new classes")
    return train_images, test_images


def last_evaluation(run: Path) -> list[Record]:
    """Return the records of a run's last evaluation; none of a run that has not begun."""
    rows = [record for record in _records_in(run) if record["kind"] == "evaluation"]
    return [row for row in rows if row["update"] == rows[-1]["update"]]


def _records_in(run: Path) -> list[Record]:
    file = run / RECORDS
    return read_records(file) if file.exists() else []
