"""Seconds and memory of an outer gradient, beside other libraries and the floor.

make bench                                                          # with the peers, in an environment of their own
python benchmarks/speed.py --cases a --orders first --engines ours  # this library and the floor alone
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradients import table
from gradients.cases import CASES, ORDERS
from gradients.engines import ENGINES, FLOOR, OWN, PEERS, Engine, Environment, default_python, own_engine, probe
from gradients.measure import measure
from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.cli.shared import check_destinations
from metacontrast.device import find_device
from metacontrast.errors import InputError, not_one_of


def build_parser() -> Parser:
    cases = ", ".join(f"({case.name}) {case.title}" for case in CASES.values())
    parser = Parser(
        prog="benchmarks/speed.py",
        description="Time one outer gradient (5-way 1-shot, 15 queries a class, conv4-released, float32) on random "
        "images, each engine in a process of its own, all in turn. Every gradient is compared with this library's. The "
        f"floor is the time of the convolutions alone. Cases: {cases}.",
    )
    for name, known in (("cases", tuple(CASES)), ("orders", ORDERS), ("engines", ENGINES)):
        parser.add_argument(
            f"--{name}", type=_some_of(name, known), default=known, metavar="NAME,NAME", help=f"of {', '.join(known)}"
        )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="measurements of each (default: %(default)s)"
    )
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        help="interpreter that has the peers (default: .venv-bench/bin/python, else this one)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of images and parameters (default: %(default)s)"
    )
    parser.add_argument("--records", type=Path, metavar="FILE", help="append the rows as JSON lines under a header")
    shared.add_json_flag(parser)
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    args = build_parser().parse_args(words)
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}, but it must be 1 or more")
    find_device(args.device)
    if args.records:
        check_destinations([], files=[args.records])
    environment = probe(args.peers or default_python())
    header = table.hardware(args.device) | {"peers": environment.versions, "seed": args.seed, "repeats": args.repeats}
    engines = chosen_engines(args.engines, environment)
    rows = []
    for case in args.cases:
        for order in args.orders:
            rows += measure(CASES[case], order, engines, args.repeats, args.device, args.seed, shared.say)
            print(table.as_text(rows[-len(engines) :]) + "\n", file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.records:
        table.write_records(args.records, header, rows, args.device)
    print(_one_line(header), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        shared.print_json([asdict(row) for row in rows])


def chosen_engines(names: tuple[str, ...], environment: Environment) -> list[Engine]:
    """This library's own, the peers of the environment, and the floor; what is missing is said."""
    engines = [own_engine(name) if name in OWN else environment.engine(name) for name in names]
    for engine in engines:
        if engine.missing:
            shared.say(f"{engine.name} ({PEERS[engine.name].package}): {engine.missing} in {environment.python}")
    return [*engines, own_engine(FLOOR)]


def _some_of(name: str, known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        asked = tuple(text.split(","))
        if unknown := [each for each in asked if each not in known]:
            raise argparse.ArgumentTypeError(not_one_of(unknown[0], known))
        return tuple(each for each in known if each in asked)

    parse.__name__ = name
    return parse


def _one_line(header: dict[str, Any]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in header["peers"].items())
    return f"{header['processor']}, {header['cores']} cores; torch {header['torch']}; peers: {peers or 'none'}"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"benchmarks/speed.py: error: {error}", file=sys.stderr)
        sys.exit(2)
