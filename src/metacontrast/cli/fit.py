"""`metacontrast fit`: learn the classes of a user's images from a folder."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.data.decode import MAX_PIXELS
from metacontrast.errors import InputError, one_line

if TYPE_CHECKING:
    from metacontrast.classifier.estimator import FewShotClassifier

SHOWN = 20


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        usage="%(prog)s FOLDER --out DIR [flags]",
        description="Learn from a folder that holds a folder of images for each class, and write a classifier for "
        "`metacontrast predict`. Any number of classes, and of images of each.",
        common=("out", "model", "head", "reject", "skip_unreadable", "device", "json"),
        examples=(
            ("choose the best of the installed models", "metacontrast fit my-images --out my-classifier"),
            ("drawings", "metacontrast fit my-images --model omniglot-conv4 --out my-classifier"),
            ("reject images that are like no class", "metacontrast fit my-images --reject 0.1 --out my-classifier"),
        ),
    )
    parser.add_argument(
        "folder", type=shared.path, metavar="FOLDER", help="folder with one subfolder of images per class"
    )
    parser.add_argument("--out", type=shared.out_folder, required=True, metavar="DIR", help="folder to write")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="auto",
        metavar="M",
        help="auto: whichever of the installed models does best; or one of them by name, a run directory, timm:NAME, "
        "hf:NAME, torchvision:NAME, python:package.module:factory (default: %(default)s)",
    )
    model.add_argument("--weights", type=shared.path, metavar="FILE", help="safetensors for a model such as timm:NAME")
    model.add_argument(
        "--weights-inside", action="store_true", help="save an encoder's weights too, not only its name and digest"
    )
    head = parser.add_argument_group("head")
    head.add_argument(
        "--head",
        choices=("adapted", "prototype", "ridge", "logistic", "auto"),
        help="adapted: inner steps; prototype: nearest centroid; ridge; logistic regression; auto: the best in "
        "cross-validation (default: adapted if --steps, --lr or --scope is given; else auto with --model auto, or the "
        "model's own)",
    )
    head.add_argument("--steps", type=_steps, metavar="N", help="inner steps, or auto (default: the model's own)")
    head.add_argument("--lr", type=float, metavar="X", help="inner step size (default: the model's own)")
    head.add_argument("--scope", choices=("head", "all"), help="what adapts (default: the model's own)")
    head.add_argument("--baseline", choices=("none", "prototype", "auto"), help="an alias of --head for these values")
    head.add_argument(
        "--reject",
        type=float,
        metavar="RATE",
        help="reject images that are unlike every class; RATE: share of images of known classes that may be rejected",
    )
    head.add_argument(
        "--folds",
        type=int,
        default=5,
        metavar="N",
        help="folds of the cross-validation; 0: none (default: %(default)s)",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--nested",
        choices=("classes", "flatten"),
        default="classes",
        help="folders in a class's folder are classes, or more of its images (default: %(default)s)",
    )
    images.add_argument("--skip-unreadable", action="store_true", help="leave out image files that cannot be read")
    add_max_pixels_flag(images)
    run = parser.add_argument_group("run")
    shared.add_device_flag(run)
    shared.add_json_flag(run)


def add_max_pixels_flag(parser: argparse._ActionsContainer) -> None:
    """`--max-pixels`: how large an image may be."""
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="largest image in pixels (default: %(default)s)"
    )


_PARAMETERS = ("weights", "head", "steps", "lr", "scope", "baseline", "reject", "folds", "nested", "skip_unreadable")


def execute(args: argparse.Namespace) -> None:
    """Fit, save, say what was learned and how well each way does."""
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.export import SUFFIXES
    from metacontrast.classifier.starting_point import check_replaceable
    from metacontrast.classifier.storage import FORMAT
    from metacontrast.training.sources import find_model, is_source

    if args.weights is not None and not args.weights_inside:
        raise InputError("--weights without --weights-inside: predict could not find them again; give both")
    parameters = {name: getattr(args, name) for name in (*_PARAMETERS, "max_pixels", "device")}
    classifier = FewShotClassifier(args.model, **parameters, verbose=sys.stderr.isatty())
    models = [] if args.model == "auto" or is_source(args.model) else [find_model(args.model)]
    shared.check_destinations([args.folder, *models], folders=[args.out])
    check_replaceable(args.out, FORMAT)
    classifier.fit(args.folder)
    classifier.save(args.out, weights_inside=args.weights_inside)
    print("\n".join(_learned(classifier) + _models(classifier) + _ways(classifier)))
    for file in (args.out / f"classifier{suffix}" for suffix in SUFFIXES.values()):
        if file.exists():
            shared.say(f"note: {file} is from the previous classifier: export again")
    run = classifier.state_.start.run
    if run is not None and run.config.norm == "transductive":
        shared.say("note: the model was trained with --norm transductive; single images get inductive statistics")
    shared.say(f"classifier: {args.out}")
    if args.json:
        shared.print_json(_as_json(classifier, args.out))


_NOT_HELD_OUT = "nothing was held out (no class has a second image, or --folds 0): "


def _steps(text: str) -> int | str:
    return text if text == "auto" else int(text)


_steps.__name__ = "whole number or auto"


def _learned(classifier: "FewShotClassifier") -> list[str]:
    """The classes with their counts, and what was left out."""
    counts = classifier.support_.counts.tolist()
    least, most = min(counts), max(counts)
    lines = [f"{len(counts)} classes with {least if least == most else f'{least} to {most}'} images each"]
    named = [f"  {one_line(str(name))}: {n}" for name, n in zip(classifier.classes_, counts, strict=True)]
    lines += _some(named, "classes")
    if classifier.ignored_:
        lines.append(f"left out: {len(classifier.ignored_)}")
        lines += _some([f"  {one_line(f'{name} {reason}')}" for name, reason in classifier.ignored_], "files")
    return lines


def _some(lines: list[str], what: str) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"  and {len(lines) - SHOWN} more {what} (see --json)"]


def _models(classifier: "FewShotClassifier") -> list[str]:
    """The models among which `auto` chose."""
    if not classifier.models_:
        return [f"model: {classifier.state_.start.name}"]
    lines = [f"{'model':<16}{'balanced accuracy':>18}  cross entropy"]
    for row in classifier.models_:
        numbers = f"{100 * row.balanced_accuracy:>16.1f} %  {row.cross_entropy:.3f}" if row.images else "not compared"
        lines.append(f"{row.name:<16}{numbers}{'  <- used' if row.chosen else ''}")
    if not classifier.models_[0].images:
        lines.append("the models were not compared on held-out images: the model was chosen by the kind of images")
    return lines


def _ways(classifier: "FewShotClassifier") -> list[str]:
    """How each way did in cross-validation."""
    if not classifier.compare_:
        own = "the temperature of probabilities is the model's own"
        return [_NOT_HELD_OUT + (own if classifier.temperature_ != 1 else "probabilities are not calibrated")]
    lines = [f"{'head':<11}{'':<20}{'balanced accuracy':>17}  {'vs. nearest centroid':<22}cross entropy"]
    for row in classifier.compare_:
        way = f"penalty {row.strength:g}" if row.strength else ""
        if row.steps:
            way = f"{row.steps} step{'s' * (row.steps != 1)} of {row.lr:.3g}"
        lines.append(
            f"{row.method:<11}{way:<20}{100 * row.balanced_accuracy:>15.1f} %  "
            + f"{100 * row.difference:+.1f} ± {100 * row.ci95:.1f} points".ljust(22)
            + f"{row.cross_entropy:.3f}{'  <- used' if row.chosen else ''}"
        )
    return [*lines, f"cross-validated on {classifier.compare_[0].images} images"]


def _as_json(classifier: "FewShotClassifier", folder: Path) -> dict[str, Any]:
    from metacontrast.classifier.inputs import to_json

    counts = classifier.support_.counts.tolist()
    models = [
        asdict(row) | ({} if row.images else {"balanced_accuracy": None, "cross_entropy": None})
        for row in classifier.models_
    ]
    return {
        "classifier": str(folder),
        "model": classifier.state_.start.name,
        "classes": len(classifier.classes_),
        "images": len(classifier.support_.y),
        "counts": [[to_json(k), n] for k, n in zip(classifier.classes_.tolist(), counts, strict=True)],
        "ignored": [{"name": name, "reason": reason} for name, reason in classifier.ignored_],
        "notes": list(classifier.notes_),
        "temperature": classifier.temperature_,
        "threshold": classifier.threshold_,
        "models": models,
        "compare": [asdict(score) for score in classifier.compare_],
    }
