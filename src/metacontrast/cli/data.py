"""`metacontrast data`: what is known, where to get it, whether it is whole."""

import argparse
from typing import Any

from metacontrast.cli import shared
from metacontrast.data.catalog import DATASETS, check_dataset, get_dataset
from metacontrast.errors import InputError, one_line


def add_parser(commands: Any) -> None:
    """Declare the command and its three verbs."""
    parser = commands.add_parser("data", help="list, fetch or verify data sets", description=__doc__)
    verbs = parser.add_subparsers(metavar="verb", required=True, parser_class=type(parser))
    listing = verbs.add_parser("list", help="what is known")
    listing.set_defaults(execute=execute_list)
    shared.add_json_flag(listing)
    for name, function, help_text in (
        ("get", execute_get, "fetch from its official source"),
        ("check", execute_check, "verify by content"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.add_argument("name", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
        shared.add_data_root_flag(verb)
        shared.add_json_flag(verb)
        verb.set_defaults(execute=function)


def execute_list(args: argparse.Namespace) -> None:
    """Name, description, splits, source and licence of every data set."""
    if args.json:
        fields = ("description", "splits", "source", "licence")
        shared.print_json({n: {f: getattr(spec, f) for f in fields} for n, spec in DATASETS.items()})
        return
    for name, spec in DATASETS.items():
        print(f"{name:<15}{spec.description}\n{'':<15}splits: {', '.join(spec.splits)}")
        print(f"{'':<15}source: {spec.source}; licence: {spec.licence}")
    print(f"{'folder:PATH':<15}your own images, a folder per class")


def execute_get(args: argparse.Namespace) -> None:
    """Fetch a data set and say where it is."""
    where = get_dataset(args.name, args.data_root)
    shared.print_json({"dataset": args.name, "path": str(where)}) if args.json else print(one_line(str(where)))


def execute_check(args: argparse.Namespace) -> None:
    """Read a data set as a whole, print its counts and digests, fail when it is not whole."""
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
