"""Flags and progress of a grid of runs, for `figure` and for the seeds and variants of `train`."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator

from metacontrast.cli import shared
from metacontrast.errors import InputError, check_counts
from metacontrast.experiments.runners import Grid, RunContext, Runner, RunStatus, execute_all, run_locally
from metacontrast.experiments.runners.ray import ray_runner, require_ray

LOCAL_JOBS = min(2, os.cpu_count() or 1)


def add_grid_flags(parser: argparse._ActionsContainer, *older_names: str, default_jobs: int = LOCAL_JOBS) -> None:
    """Add `--jobs`, `--runner`, which may have older names, and `--address`."""
    one = "one, with all threads" if default_jobs == 1 else str(default_jobs)
    jobs = f"runs at a time, each with one thread (default: {one}; with --address as many as fit)"
    parser.add_argument("--jobs", type=int, metavar="N", help=jobs)
    parser.add_argument(
        "--runner",
        *older_names,
        choices=("local", "ray"),
        default="local",
        help="local: processes on this machine; ray: tasks of a Ray cluster, an extra (default: %(default)s)",
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="the head of the Ray cluster, or auto (default: a local Ray)"
    )


def check_grid_flags(args: argparse.Namespace) -> None:
    """Raise `InputError` for flags that contradict one another."""
    if args.jobs is not None:
        check_counts(jobs=args.jobs)
    if args.runner == "ray":
        require_ray()
    elif args.address is not None:
        raise InputError(f"--address {args.address} names a Ray cluster: give --runner ray with it, or leave it out")
    if args.address is not None and args.device == "auto":
        raise InputError("--device auto checks this machine only: with --address give cpu or cuda")


def jobs_at_once(args: argparse.Namespace, runs: int, default: int = LOCAL_JOBS) -> int:
    """Return `--jobs`, or by default a few on this machine, and on a cluster all, which Ray queues."""
    return args.jobs or (max(1, runs) if args.address is not None else default)


@contextlib.contextmanager
def chosen_runner(
    args: argparse.Namespace, context: RunContext, jobs: int, check_data: Callable[[], object]
) -> Iterator[Runner]:
    """Open the runner that the flags ask for."""
    if args.runner == "local":
        yield run_locally
        return
    with ray_runner(context, jobs, args.address, check_data, shared.say) as found:
        yield found


def execute_grid(grid: Grid, runner: Runner) -> bool:
    """Execute all runs and print how each ended; False when stopped.

    Raises:
        InputError: runs failed; the others are kept.
    """
    started, done, failed = time.monotonic(), 0, []
    for report in execute_all(grid, runner):
        if report.status is RunStatus.COMPLETE:
            done += 1
            told = ": ".join(part for part in (report.run.label, report.run.summary(grid.context.runs)) if part)
            shared.say(f"[{done}/{len(grid.runs)}, {as_time(time.monotonic() - started)}] {told}")
            continue
        failed += [report] if report.status is RunStatus.FAILED else []
        shared.say(": ".join(part for part in (report.status.value, report.reason, report.run.label) if part))
    if failed:
        raise InputError(
            f"{len(failed)} run{'s' * (len(failed) > 1)} failed, the others are kept; the first is "
            f"'{failed[0].run.label}': {failed[0].reason}"
        )
    return not grid.should_stop()


def as_time(seconds: float) -> str:
    """Format a duration.

    >>> as_time(5400)
    '1.5 hours'
    """
    for least, size, unit in ((129_600, 86_400, "days"), (3_600, 3_600, "hours"), (90, 60, "minutes")):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
