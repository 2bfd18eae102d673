"""`metacontrast convert`: a checkpoint that was released with the paper becomes a run directory."""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from metacontrast.cli import shared
from metacontrast.cli.config_flags import add_some_config_flags, given_fields
from metacontrast.cli.parser import Parser
from metacontrast.training.authors_checkpoints import load_released
from metacontrast.training.run import TrainedRun, write_run

_FLAGS = (
    *("dataset", "image_size", "shots", "queries", "encoder", "head", "norm"),
    *("order", "inner_steps", "inner_lr", "inner_scope"),
)


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Read the weights of one of the authors' checkpoints (.pt) and write a run directory for evaluate "
        "and explain. The data set and the network are derived from the shapes, other settings are those of the data "
        "set's released recipe; flags override both. The head is kept; --head zeroed, for checkpoints of the zeroing "
        "trick, sets it to zero."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the file")
    parser.add_argument("--out", type=shared.out_folder, required=True, metavar="DIR", help="run directory to write")
    add_some_config_flags(parser, _FLAGS)
    shared.add_json_flag(parser)


def execute(args: argparse.Namespace) -> None:
    """Convert a checkpoint and print what it was recognized as."""
    shared.check_destinations([args.checkpoint], folders=[args.out])
    run = load_released(args.checkpoint, **given_fields(args))
    digest = hashlib.sha256(args.checkpoint.read_bytes()).hexdigest()
    write_run(args.out, run, {"file": args.checkpoint.name, "sha256": digest})
    shared.say(f"{args.out}: {_in_words(run)}")
    if args.json:
        shared.print_json({"run": str(args.out), "updates": run.updates, "config": asdict(run.config)})


def _in_words(run: TrainedRun) -> str:
    config, side = run.config, run.image_shape[1]
    bias = "with a bias" if config.head_bias else "without a bias"
    return (
        f"{config.encoder}, {config.filters} filters, {config.ways}-way head {bias}, {config.head}, for {side}×{side} "
        f"images of {config.dataset}, after {run.updates} updates"
    )
