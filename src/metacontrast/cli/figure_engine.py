"""The flags of `metacontrast figure` that say where runs are carried out: in processes here, or by Ray."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator

from metacontrast.cli import shared
from metacontrast.errors import InputError
from metacontrast.experiments.grid import Place
from metacontrast.experiments.pool import Engine, on_this_machine
from metacontrast.experiments.ray_cluster import require_ray
from metacontrast.experiments.ray_pool import ray_engine

_LOCAL_JOBS = min(2, os.cpu_count() or 1)
_JOBS = f"runs at a time, each with one thread (default: {_LOCAL_JOBS}; with --address as many as there is room for)"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--jobs`, `--engine` and `--address`."""
    parser.add_argument("--jobs", type=int, metavar="N", help=_JOBS)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes on this machine; ray: tasks of a Ray cluster, an extra (default: %(default)s)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the head of the Ray cluster, or auto (default: a Ray of its own on this machine)",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raise for flags that do not go together."""
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}, but it must be 1 or more")
    if args.engine == "ray":
        require_ray()
    elif args.address is not None:
        raise InputError(f"--address {args.address} names a Ray cluster: give --engine ray with it, or leave it out")
    if args.address is not None and args.device == "auto":
        raise InputError("--device auto looks at this machine only: with --address say cpu or cuda")


def runs_at_a_time(args: argparse.Namespace, runs: int) -> int:
    """As asked for; else a few here, and on a cluster all, which Ray keeps in line."""
    return args.jobs or (max(1, runs) if args.address is not None else _LOCAL_JOBS)


@contextlib.contextmanager
def engine(args: argparse.Namespace, place: Place, jobs: int, check_data: Callable[[], object]) -> Iterator[Engine]:
    """What carries out the runs."""
    if args.engine == "local":
        yield on_this_machine
        return
    with ray_engine(place, jobs, args.address, check_data, shared.say) as found:
        yield found
