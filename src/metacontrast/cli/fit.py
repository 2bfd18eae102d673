"""`metacontrast fit`: learn the classes of one's own images from a folder."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metacontrast.cli import shared
from metacontrast.cli.destinations import check_destinations
from metacontrast.data.decode import MAX_PIXELS

if TYPE_CHECKING:
    from metacontrast.classifier.estimator import FewShotClassifier


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "fit",
        help="learn the classes of your own images from a few of each",
        description="Learn from a folder that holds a folder of images for each class, and write a classifier for "
        "`metacontrast predict`. Any number of classes, and of images of each.",
    )
    parser.add_argument("folder", type=shared.path, metavar="FOLDER", help="a folder of images for each class in it")
    parser.add_argument("--model", required=True, metavar="M", help="a model that comes along, or a run directory")
    parser.add_argument("--out", type=shared.out_folder, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--steps", type=_steps, metavar="N", help="inner steps, or auto (default: the model's own)")
    parser.add_argument("--lr", type=float, metavar="X", help="inner step size (default: the model's own)")
    parser.add_argument("--scope", choices=("head", "all"), help="what adapts (default: the model's own)")
    parser.add_argument(
        "--baseline",
        choices=("none", "prototype", "auto"),
        default="none",
        help="predict with the nearest class mean, or with whichever does better (default: %(default)s)",
    )
    parser.add_argument("--reject", type=float, metavar="RATE", help="share of known images that may be refused")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="of cross-validation (default: %(default)s)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out image files that cannot be read")
    add_max_pixels_flag(parser)
    shared.add_device_flag(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute)


def add_max_pixels_flag(parser: argparse.ArgumentParser) -> None:
    """`--max-pixels`: how large an image may be."""
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="refuse larger images (default: %(default)s)"
    )


def execute(args: argparse.Namespace) -> None:
    """Fit, save, say how well each way does."""
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.model_folder import check_replaceable, find_model
    from metacontrast.classifier.storage import FORMAT

    names = ("steps", "lr", "scope", "baseline", "reject", "folds", "skip_unreadable", "max_pixels", "device")
    parameters = {name: getattr(args, name) for name in names}
    classifier = FewShotClassifier(args.model, **parameters, verbose=sys.stderr.isatty())
    check_destinations([args.folder, find_model(args.model)], folders=[args.out])
    check_replaceable(args.out, FORMAT)
    classifier.fit(args.folder)
    classifier.save(args.out)
    print(_summary(classifier))
    _name_old_exports(args.out)
    run = classifier.state_.start.run
    if run is not None and run.config.norm == "transductive":
        shared.say("note: the model was trained with --norm transductive; single images get inductive statistics")
    shared.say(f"classifier: {args.out}")
    if args.json:
        shared.print_json(
            {
                "classifier": str(args.out),
                "classes": len(classifier.classes_),
                "images": len(classifier.support_.y),
                "temperature": classifier.temperature_,
                "threshold": classifier.threshold_,
                "compare": [asdict(score) for score in classifier.compare_],
            }
        )


def _name_old_exports(folder: Path) -> None:
    from metacontrast.classifier.export import SUFFIXES

    for file in (folder / f"classifier{suffix}" for suffix in SUFFIXES.values()):
        if file.exists():
            shared.say(f"note: {file} is of what was fitted before: export again")


_UNCALIBRATED = "nothing was held out (no class has a second image, or --folds 0): probabilities are not calibrated"


def _steps(text: str) -> int | str:
    return text if text == "auto" else int(text)


_steps.__name__ = "whole number or auto"


def _summary(classifier: "FewShotClassifier") -> str:
    counts = classifier.support_.counts
    lines = [f"{len(counts)} classes with {int(counts.min())} to {int(counts.max())} images each"]
    if not classifier.compare_:
        return "\n".join([*lines, _UNCALIBRATED])
    lines.append(f"{'method':<12}{'steps':>5}{'lr':>8}  {'accuracy':>8}  {'less baseline':<20}cross entropy")
    lines += [
        f"{row.method:<12}{row.steps:>5}{row.lr:>8.3g}  {100 * row.accuracy:>6.1f} %  "
        + f"{100 * row.difference:+.1f} ± {100 * row.ci95:.1f} points".ljust(20)
        + f"{row.cross_entropy:.3f}{'  <- used' if row.chosen else ''}"
        for row in classifier.compare_
    ]
    return "\n".join([*lines, f"cross-validated on {classifier.compare_[0].images} images"])
