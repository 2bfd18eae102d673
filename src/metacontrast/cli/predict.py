"""`metacontrast predict`: classify images with what `metacontrast fit` learned."""

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.fit import add_max_pixels_flag
from metacontrast.cli.parser import Parser
from metacontrast.cli.terminal import with_flags
from metacontrast.errors import InputError, check_counts, one_line
from metacontrast.files import is_folder

if TYPE_CHECKING:
    from metacontrast.classifier.explanation import Explanation
    from metacontrast.classifier.fitted import Prediction

SHOWN = 5


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Classify images. Prints a line for each: file, class and probability, separated by tabs. Files "
        "that cannot be read are reported, the others are classified, and the exit status is 1.",
        examples=(
            ("all images of a folder, as a table", "metacontrast predict my-classifier new-images --csv"),
            ("the three most probable classes", "metacontrast predict my-classifier new-images --top 3"),
            ("why", "metacontrast predict my-classifier new-images/1.png --explain"),
        ),
    )
    parser.add_argument("classifier", type=shared.path, metavar="DIR", help="what `metacontrast fit --out` wrote")
    parser.add_argument(
        "images", type=shared.path, nargs="+", metavar="IMAGE|FOLDER", help="images, or folders of images"
    )
    form = parser.add_mutually_exclusive_group()
    shared.add_json_flag(form)
    form.add_argument("--csv", action="store_true", help="comma-separated values with a header")
    parser.add_argument("--explain", action="store_true", help="list the support images with the largest contributions")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="name the N most probable classes")
    parser.add_argument(
        "--sets",
        type=float,
        metavar="SHARE",
        help="print a set of classes that contains the correct one at least this often",
    )
    parser.add_argument("--model", metavar="M", help="the encoder, where it is your own code (python:...)")
    parser.add_argument(
        "--pictures", type=shared.out_folder, metavar="DIR", help="with --explain: a plot of each explanation"
    )
    add_max_pixels_flag(parser)
    shared.add_device_flag(parser)


def execute(args: argparse.Namespace) -> int:
    """Answer image by image; 1 when one could not be read."""
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.inputs import files_below, to_json

    if args.pictures and not args.explain:
        raise InputError("--pictures draws explanations: add --explain")
    if args.csv and args.explain:
        raise InputError("--csv has no columns for explanations: use --json with --explain")
    if args.csv and args.sets is not None:
        raise InputError("--csv has no column for sets: use --json with --sets")
    check_counts(top=args.top)
    files = [file for path in args.images for file in (files_below(path) if is_folder(path) else [path])]
    if args.pictures:
        pictures = (_picture(args.pictures, number) for number in range(len(files)))
        shared.check_destinations([args.classifier, *files], folders=[args.pictures], files=pictures)
    classifier = FewShotClassifier.load(args.classifier, args.model)
    classifier.set_params(max_pixels=args.max_pixels, device=args.device)
    found = classifier.predict_each(files, explain=args.explain)
    shown = tqdm(found, total=len(files), desc="predicting", unit="image", disable=None, leave=False)
    from_on = None if args.sets is None else classifier.set_threshold(args.sets)
    classes = classifier.classes_.tolist()
    args.top = min(args.top, len(classes))
    write = _writer(args, classes, from_on)
    broken, answered = [], []
    for number, prediction in enumerate(shown):
        if prediction.problem:
            broken.append(prediction)
            tqdm.write(one_line(f"metacontrast: {with_flags(prediction.problem, args.flags)}"), file=sys.stderr)
            continue
        write(prediction)
        if args.json:
            answered.append(_as_json(prediction, classes, args.top, from_on))
        if args.pictures:
            _draw(classifier.state_, prediction, _picture(args.pictures, number))
    if args.json:
        unreadable = [{"image": each.image, "problem": each.problem} for each in broken]
        named = [to_json(label) for label in classifier.classes_.tolist()]
        shared.print_json({"classes": named, "predictions": answered, "unreadable": unreadable})
    if broken:
        others = "; the others are answered" if len(broken) < len(files) else ""
        shared.say(f"{len(broken)} of {len(files)} images could not be read{others}")
    return 1 if broken else 0


def _picture(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def _writer(args: argparse.Namespace, classes: list[Any], from_on: float | None) -> Any:
    """A function that writes one prediction to standard output, in the form that was asked for."""
    if args.json:
        return lambda prediction: None
    if args.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        more = [f"{name}_{n}" for n in range(2, args.top + 1) for name in ("label", "probability")]
        table.writerow(["image", "label", "probability", "rejected", *more])
        return lambda p: table.writerow(
            [p.image, p.label, f"{p.probability:.6f}", str(p.rejected).lower()]
            + [cell for label, share in _top(p, classes, args.top)[1:] for cell in (label, f"{share:.6f}")]
        )
    return lambda p: tqdm.write(_as_text(p, classes, args.top, from_on), file=sys.stdout)


def _top(prediction: "Prediction", classes: list[Any], count: int) -> list[tuple[Any, float]]:
    """The most probable classes with their probabilities."""
    order = sorted(range(len(classes)), key=lambda k: -prediction.probabilities[k])
    return [(classes[k], prediction.probabilities[k]) for k in order[:count]]


def _set(prediction: "Prediction", classes: list[Any], from_on: float) -> list[Any]:
    """The labels of the prediction set, the most probable first."""
    from metacontrast.classifier.confidence import prediction_set

    return [classes[k] for k in prediction_set(prediction.probabilities, from_on)]


def _as_text(prediction: "Prediction", classes: list[Any], top: int, from_on: float | None) -> str:
    label = f"rejected (nearest: {prediction.label})" if prediction.rejected else prediction.label
    line = f"{one_line(prediction.image)}\t{one_line(str(label))}\t{prediction.probability:.4f}"
    for other, share in _top(prediction, classes, top)[1:]:
        line += f"\t{one_line(str(other))}\t{share:.4f}"
    if from_on is not None:
        line += "\t{" + ", ".join(one_line(str(each)) for each in _set(prediction, classes, from_on)) + "}"
    return line if prediction.explanation is None else f"{line}\n{_explained(prediction.explanation)}"


def _explained(found: "Explanation") -> str:
    lines = [f"  rather than {one_line(str(found.against))}: logit difference {found.difference:+.4g}"]
    lines += [
        f"  {'pulled' if value > 0 else 'pushed'} {value:+.4g}  {one_line(found.names[row])}"
        for row, value in ((row, found.contributions[row]) for row in found.strongest(SHOWN))
    ]
    if not found.is_exact:
        lines.append(f"  of the difference {found.through_encoder:+.4g} came through the encoder, which moved too")
    return "\n".join(lines)


def _as_json(prediction: "Prediction", classes: list[Any], top: int, from_on: float | None) -> dict[str, Any]:
    known = {name: getattr(prediction, name) for name in ("image", "label", "probability", "rejected")}
    known |= {"probabilities": prediction.probabilities}
    if top > 1:
        known["top"] = [{"label": label, "probability": share} for label, share in _top(prediction, classes, top)]
    if from_on is not None:
        known["set"] = _set(prediction, classes, from_on)
    found = prediction.explanation
    if found is None:
        return known
    strongest = [
        {"image": found.names[row], "label": found.labels[row], "contribution": float(found.contributions[row])}
        for row in found.strongest(SHOWN)
    ]
    names = ("against", "difference", "start", "through_encoder")
    explanation = {name: getattr(found, name) for name in names} | {"exact": found.is_exact, "strongest": strongest}
    return known | {"explanation": explanation}


def _draw(state: Any, prediction: "Prediction", path: Path) -> None:
    from metacontrast.classifier.explanation import save_explanation

    assert prediction.explanation is not None
    assert prediction.pixels is not None
    save_explanation(state, prediction.explanation, prediction.pixels, path)
