"""`metacontrast score`: how often a fitted classifier is right on a folder of labelled images."""

import argparse
import sys
from collections.abc import Callable

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.fit import add_max_pixels_flag
from metacontrast.cli.parser import Parser
from metacontrast.data.decode import enumerate_some
from metacontrast.errors import one_line
from metacontrast.files import write_text

SHOWN = 20


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Measure the accuracy with its 95 % interval, recall of each class, confusion matrix, and the most "
        "confident mistakes with their images in one HTML page. Of a folder with train/ and test/, test/ is taken.",
        examples=(("score on labelled images", "metacontrast score my-classifier labelled-images"),),
    )
    parser.add_argument("classifier", type=shared.path, metavar="DIR", help="what `metacontrast fit --out` wrote")
    parser.add_argument("folder", type=shared.path, metavar="FOLDER", help="a folder of images for each class in it")
    parser.add_argument("--page", type=shared.path, metavar="FILE", help="HTML file (default: DIR/score.html)")
    parser.add_argument(
        "--nested",
        choices=("classes", "flatten"),
        help="folders in a class's folder are classes, or more of its images (default: as fitted)",
    )
    parser.add_argument("--model", metavar="M", help="the encoder, where it is your own code (python:...)")
    add_max_pixels_flag(parser)
    shared.add_device_flag(parser)
    shared.add_json_flag(parser)


def execute(args: argparse.Namespace) -> None:
    """Ask about every image, print the table, write the page."""
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.inputs import to_json
    from metacontrast.classifier.scoring import as_page, report_on
    from metacontrast.classifier.support import labelled

    target = args.page or args.classifier / "score.html"
    shared.check_destinations([args.folder], files=[target], endings=(".html",))
    classifier = FewShotClassifier.load(args.classifier, args.model)
    classifier.set_params(max_pixels=args.max_pixels, device=args.device)
    items, found = labelled(args.folder, nested=args.nested or classifier.nested, use="test")
    answers = classifier.predict_each([item.source for item in items])
    shown = tqdm(answers, total=len(items), desc="scoring", unit="image", disable=None, leave=False)
    report = report_on(classifier.state_, [item.label for item in items], iter(shown))
    write_text(target, as_page(report, classifier.state_, f"{args.classifier.name} on {args.folder.name}"))
    low, high = report.interval
    print(f"accuracy {100 * report.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f} %) on {report.images} images")
    print(f"mean over classes {100 * report.balanced_accuracy:.1f} %")
    rows = zip(report.recalls, map(str, report.classes), report.counts, strict=True)
    rows = sorted((recall, label, count) for recall, label, count in rows if recall is not None)
    for recall, label, count in rows[:SHOWN]:
        print(f"{100 * recall:>6.1f} %  {one_line(label)} ({count} images)")
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} classes that did better")
    names = list(map(repr, report.classes))
    known, unknown = names[: report.known], names[report.known :]
    if unknown:
        told = f"{enumerate_some(unknown)}; its classes are {enumerate_some(known)}"
        shared.say(one_line(f"not classes of the classifier, so that their images count as mistakes: {told}"))
    for image, problem in report.unreadable:
        print(one_line(f"metacontrast: {image}: {problem}"), file=sys.stderr)
    for name, reason in found.ignored[:SHOWN] if found else ():
        shared.say(f"left out: {name} {reason}")
    shared.say(f"page: {target}")
    if args.json:
        names = [to_json(label) for label in report.classes]
        shared.print_json(
            {
                "accuracy": report.accuracy,
                "interval": [low, high],
                "balanced_accuracy": report.balanced_accuracy,
                "images": report.images,
                "recall": [[name, recall] for name, recall in zip(names, report.recalls, strict=True)],
                "classes": names,
                "confusion": report.confusion.tolist(),
                "unreadable": [{"image": image, "problem": problem} for image, problem in report.unreadable],
                "page": str(target),
            }
        )
