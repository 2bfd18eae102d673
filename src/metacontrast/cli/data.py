"""`metacontrast data`: list, fetch and verify data sets, and write a few images to try `fit` on."""

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.data.catalog import DATASETS, check_dataset, get_dataset
from metacontrast.errors import InputError, one_line


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its verbs."""
    parser = new(description="List, fetch or verify data sets.")
    verbs = parser.add_subparsers(metavar="verb", required=True, parser_class=type(parser))
    listing = verbs.add_parser("list", help="list the known data sets, their sources and licences")
    listing.set_defaults(execute=execute_list)
    shared.add_json_flag(listing)
    for name, function, help_text in (
        ("get", execute_get, "download a data set from its official source"),
        ("check", execute_check, "verify a data set by its content"),
    ):
        verb = verbs.add_parser(name, help=help_text, description=f"{help_text.capitalize()}.")
        choices = "omniglot or cifar-fs" if name == "get" else f"one of {', '.join(DATASETS)}, or folder:PATH"
        verb.add_argument("name", metavar="NAME", help=choices)
        shared.add_data_root_flag(verb)
        shared.add_json_flag(verb)
        verb.set_defaults(execute=function)
    sample = verbs.add_parser("sample", help="write handwritten digits as image files, to try fit on")
    sample.add_argument(
        "folder",
        type=shared.path,
        metavar="FOLDER",
        help="where my-images, new-images and labelled-images are written (scikit-learn's digits)",
    )
    shared.add_json_flag(sample)
    sample.set_defaults(execute=execute_sample)


def execute_list(args: argparse.Namespace) -> None:
    """Print name, description, splits, source and licence of every data set."""
    if args.json:
        fields = ("description", "splits", "source", "licence")
        shared.print_json({n: {f: getattr(spec, f) for f in fields} for n, spec in DATASETS.items()})
        return
    for name, spec in DATASETS.items():
        print(f"{name:<15}{spec.description}\n{'':<15}splits: {', '.join(spec.splits)}")
        print(f"{'':<15}source: {spec.source}; licence: {spec.licence}")
    print(f"{'folder:PATH':<15}your own images, a folder per class")


def execute_get(args: argparse.Namespace) -> None:
    """Fetch a data set and print its folder."""
    where = get_dataset(args.name, args.data_root)
    shared.print_json({"dataset": args.name, "path": str(where)}) if args.json else print(one_line(str(where)))


def execute_check(args: argparse.Namespace) -> None:
    """Read a whole data set, print its counts and digests, fail when it is incomplete."""
    report = check_dataset(args.name, args.data_root)
    args.flags["skip_unreadable"] = "`train --skip-unreadable`"
    if args.json:
        shared.print_json(report)
    else:
        print(one_line(f"{report['name']} in {report['root']}"))
        for split, facts in report["splits"].items():
            print(f"{split:<6}{facts['classes']:>6} classes{facts['images']:>8} images   digest {facts['digest']}")
    if not report["verified"]:
        raise InputError(report["problem"])


_SAMPLE = {"my-images": range(5), "new-images": range(5, 6), "labelled-images": range(6, 16)}
"""The folders of a sample, and which images of every digit each has."""


def execute_sample(args: argparse.Namespace) -> None:
    """Write scikit-learn's handwritten digits: some to fit, some to predict, some to score."""
    from sklearn.datasets import load_digits

    folders = {args.folder / name: numbers for name, numbers in _SAMPLE.items()}
    if there := [folder for folder in folders if folder.exists()]:
        raise InputError(f"{there[0]} exists already: name another folder for the sample")
    found: Any = load_digits()
    for (folder, numbers), digit in product(folders.items(), range(10)):
        images = found.images[found.target == digit]
        for number in numbers:
            file = folder / (f"{digit}.png" if len(numbers) == 1 else f"{digit}/{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(255 - images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((56, 56), Image.Resampling.BICUBIC).save(file)
    names = [one_line(str(folder)) for folder in folders]
    shared.print_json({"folders": names}) if args.json else print("\n".join(names))
