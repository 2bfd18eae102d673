"""`metacontrast train`: meta-train into a run directory."""

import argparse
import contextlib
import io
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.config_flags import add_config_flags, config_from_flags
from metacontrast.cli.determinism import add_deterministic_flag, determinism
from metacontrast.data import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.training.config import TrainConfig
from metacontrast.training.follower import Follower
from metacontrast.training.memory import fit_to_memory
from metacontrast.training.ranks import ALONE, Ranks, is_restarted, joined
from metacontrast.training.records import Record, read_records
from metacontrast.training.run import RunDirectory, open_run
from metacontrast.training.step import Resources
from metacontrast.training.tensorboard import require_tensorboard, tensorboard_writer
from metacontrast.training.train import train
from metacontrast.version import INTERRUPTED


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "train",
        help="meta-train into a run directory",
        description="Meta-train with MAML. Ctrl-C saves and stops; --resume continues where it stopped.",
    )
    parser.add_argument("--out", type=shared.out_folder, required=True, metavar="DIR", help="run directory to write")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out if there is one")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events (an extra)")
    add_config_flags(parser)
    shared.add_data_root_flag(parser)
    shared.add_compute_flags(parser)
    shared.add_engine_flags(parser)
    add_deterministic_flag(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Train, with a progress bar."""
    config = config_from_flags(args)
    with joined(shared.device_of(args)) as ranks, _reported_by(ranks), determinism(args.deterministic):
        status, last = train_with_progress(config, args, ranks=ranks)
        if status == "stopped":
            shared.say(
                f"stopped and saved; continue with: metacontrast train --resume --out {shlex.quote(str(args.out))}"
            )
        if args.json:
            shared.print_json({"run": str(args.out), "status": status, "results": last})
    return INTERRUPTED if status == "stopped" else 0


def train_with_progress(
    config: TrainConfig, args: argparse.Namespace, label: str = "training", ranks: Ranks = ALONE
) -> tuple[str, list[Record]]:
    """Train into `args.out`; the outcome, and the records of the last evaluation.

    Args:
        ranks: the processes that share the training.
    """
    if args.tensorboard:
        require_tensorboard()
    with ranks.leader_first():
        images = _load(config, args)
    with shared.resources(args, len(ranks.own(range(config.meta_batch)))) as asked:
        resources, need = fit_to_memory(config, images, replace(asked, ranks=ranks))
        return _train(config, args, images, resources, need, label)


@contextlib.contextmanager
def _reported_by(ranks: Ranks) -> Iterator[None]:
    """Messages, progress and results of the process that leads only."""
    if ranks.leads:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _run_directory(
    config: TrainConfig, args: argparse.Namespace, images: tuple[ClassImages, ClassImages], resources: Resources
) -> contextlib.AbstractContextManager[RunDirectory]:
    """Where this process writes; `torchrun` starts processes that died again with the same flags, to go on."""
    if not resources.ranks.leads:
        return contextlib.nullcontext(Follower(args.out, {}))
    return open_run(args.out, config, images, resources.device, resume=args.resume or is_restarted())


def _load(config: TrainConfig, args: argparse.Namespace) -> tuple[ClassImages, ClassImages]:
    """What is trained on, and what is tested on."""
    options = config.read_options()
    train_images = load_dataset(config.dataset, "train", args.data_root, options)
    test_images = load_dataset(config.dataset, config.eval_split, args.data_root, options)
    if both := set(train_images.classes) & set(test_images.classes):
        shared.say(f"note: {len(both)} classes are trained on and tested on: accuracy says little about new classes")
    return train_images, test_images


def _train(
    config: TrainConfig,
    args: argparse.Namespace,
    images: tuple[ClassImages, ClassImages],
    resources: Resources,
    need: str,
    label: str,
) -> tuple[str, list[Record]]:
    with (
        _run_directory(config, args, images, resources) as run,
        tensorboard_writer(args.out if args.tensorboard and resources.ranks.leads else None) as log,
        Progress(config, label) as progress,
        stop_on_interrupt() as should_stop,
    ):

        def on_record(record: Record) -> None:
            log(record)
            progress.show(record)

        shared.say(need)
        status = train(config, run, *images, resources, on_record=on_record, should_stop=should_stop)
    if not resources.ranks.leads:
        return status, []
    if not progress.seen:
        shared.say(f"{args.out} has all its {config.updates} updates already; more with --updates")
    return status, progress.last_evaluation or last_evaluation(args.out)


class Progress:
    """A bar on a terminal with accuracy, tasks per second and time left; a line an evaluation everywhere."""

    def __init__(self, config: TrainConfig, label: str):
        self._bar = tqdm(total=config.updates, desc=label, unit="update", disable=None, dynamic_ncols=True)
        self._tasks_per_update = config.meta_batch
        self.last_evaluation: list[Record] = []
        self.seen = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, record: Record) -> None:
        """Take note of a record."""
        self.seen = True
        if record["kind"] == "training":
            self._show_training(record)
        elif record["kind"] == "evaluation":
            self._show_evaluation(record)

    def _show_training(self, record: Record) -> None:
        if self._bar.n == 0 and record["update"] > 1:
            self._bar.initial = self._bar.n = record["update"] - 1
        self._bar.update()
        rate = (self._bar.format_dict["rate"] or 0) * self._tasks_per_update
        self._bar.set_postfix_str(f"training accuracy {record['accuracy']:.3f}, {rate:.0f} tasks/s", refresh=False)

    def _show_evaluation(self, record: Record) -> None:
        if self.last_evaluation and self.last_evaluation[0]["update"] != record["update"]:
            self.last_evaluation = []
        self.last_evaluation.append(record)
        if record["method"] != "maml":
            shown = (f"{_short(each)} {100 * each['accuracy']:.1f} %" for each in self.last_evaluation)
            tqdm.write(f"update {record['update']}: {', '.join(shown)}", file=sys.stderr)


def last_evaluation(run: Path) -> list[Record]:
    """The records of the last evaluation of a run that was trained before."""
    rows = [record for record in read_records(run / "records.jsonl") if record["kind"] == "evaluation"]
    return [row for row in rows if row["update"] == rows[-1]["update"]]


def _short(record: Record) -> str:
    """Which evaluation it is, in a few words."""
    return f"{record['head']} head after {record['steps']}" if record["method"] == "maml" else record["method"]


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether the person asked to stop: the first Ctrl-C asks, the second one interrupts at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        shared.say("stopping after this update (once more to stop at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
