"""`metacontrast export`: a fitted classifier as one file that runs without this library."""

import argparse
from collections.abc import Callable

from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.errors import one_line


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Export a classifier with its preprocessing to one file. It takes uint8 images (batch, channel, "
        "height, width) of the model's size and gives probabilities and similarity; class names are in its metadata."
    )
    parser.add_argument("classifier", type=shared.path, metavar="DIR", help="what `metacontrast fit --out` wrote")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="default: %(default)s")
    parser.add_argument("--model", metavar="M", help="the encoder, where it is your own code (python:...)")
    parser.add_argument(
        "--out", type=shared.path, metavar="FILE", help="default: DIR/classifier.onnx or DIR/classifier.pt2"
    )
    shared.add_json_flag(parser)


def execute(args: argparse.Namespace) -> None:
    """Write the file and print its path."""
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.export import SUFFIXES, export

    path = args.out or args.classifier / f"classifier{SUFFIXES[args.format]}"
    shared.check_destinations([args.classifier], files=[path], endings=tuple(SUFFIXES.values()))
    export(FewShotClassifier.load(args.classifier, args.model).state_, path, args.format)
    shared.print_json({"file": str(path), "format": args.format}) if args.json else print(one_line(str(path)))
