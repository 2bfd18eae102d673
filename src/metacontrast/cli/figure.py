"""`metacontrast figure`: answer a question of the paper, or all of them, with pictures and verdicts."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import platformdirs
import torch

from metacontrast.cli import figure_engine, shared
from metacontrast.cli.allocator import keep_freed_memory
from metacontrast.cli.destinations import check_destinations
from metacontrast.cli.progress import stop_on_interrupt
from metacontrast.data.catalog import data_root
from metacontrast.device import DEVICES, find_device
from metacontrast.errors import InputError
from metacontrast.experiments import cost
from metacontrast.experiments.catalog import FIGURES, find_figures
from metacontrast.experiments.departures import departures
from metacontrast.experiments.grid import Place, PlannedRun
from metacontrast.experiments.pages import as_text, summarize, write_page, write_summary
from metacontrast.experiments.records import FigureRecords, collect, load_records, records_file, write_records
from metacontrast.experiments.run_figures import all_runs, check_data, make_runs
from metacontrast.experiments.setting import Protocol, ScaleName, Setting, choose_setting
from metacontrast.experiments.spec import FigureSpec
from metacontrast.files import as_path
from metacontrast.version import INTERRUPTED


def add_parser(commands: Any) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "figure",
        help="reproduce a figure of the paper, with a verdict per claim",
        description="Train what is missing, keep records, draw them beside the released numbers, and judge the "
        "paper's claims. Stopped or killed, the same command continues. Figures: " + ", ".join(FIGURES) + ".",
    )
    parser.add_argument("name", metavar="NAME", help="a figure's name, or all")
    parser.add_argument(
        "--scale",
        choices=get_args(ScaleName),
        default="local",
        help="smoke: embedded glyphs, seconds, proves nothing; local: Omniglot and CIFAR-FS, hours on two cores; "
        "full: the paper's size, days (default: %(default)s)",
    )
    parser.add_argument(
        "--protocol",
        choices=get_args(Protocol),
        default="released",
        help="settings of the released code, or of the paper's text (default: %(default)s)",
    )
    parser.add_argument("--redraw", action="store_true", help="only draw and judge the records that are there")
    parser.add_argument("--plan", action="store_true", help="only list the runs, what they cost, and the departures")
    figure_engine.add_flags(parser)
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="default: %(default)s")
    parser.add_argument("--out", type=shared.out_folder, metavar="DIR", help="where runs lie (default: a cache folder)")
    parser.add_argument(
        "--records", type=shared.out_folder, default=Path("results/figures"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--pages", type=shared.out_folder, metavar="DIR", help=_PAGES)
    shared.add_data_root_flag(parser)
    shared.add_json_flag(parser)
    parser.set_defaults(execute=execute)


_PAGES = "where pages and pictures go (default: docs/figures, with a folder for every scale but local)"


def execute(args: argparse.Namespace) -> int:
    """Train, collect, draw, judge."""
    figures = find_figures(args.name)
    figure_engine.check_flags(args)
    setting = choose_setting(args.scale, args.protocol, args.data_root)
    if not args.plan:
        runs = [] if args.redraw else [_place(args).runs, args.records]
        check_destinations([as_path(args.data_root or data_root())], folders=[*runs, _pages(setting, args)])
    for line in departures(setting, figures):
        shared.say(f"departure: {line}")
    if args.plan:
        _print_plan(figures, setting, _place(args))
        return 0
    if not args.redraw and not _train(figures, setting, args):
        shared.say("stopped and saved; the same command continues")
        return INTERRUPTED
    _draw(figures, setting, args)
    return 0


def _place(args: argparse.Namespace) -> Place:
    device = find_device(args.device) if args.address is None else args.device
    data = as_path(args.data_root or data_root())
    return Place((args.out or _default_runs()).absolute(), data.absolute(), device)


def _default_runs() -> Path:
    """In the folder that holds caches, which the variable METACONTRAST_CACHE names."""
    named = os.environ.get("METACONTRAST_CACHE")
    return (as_path(named) if named else platformdirs.user_cache_path("metacontrast")) / "figure-runs"


def _print_plan(figures: Sequence[FigureSpec], setting: Setting, place: Place) -> None:
    seen: set[str] = set()
    for figure in figures:
        runs = [run for run in all_runs([figure], setting) if run.key not in seen]
        seen |= {run.key for run in runs}
        hours = sum(map(cost.seconds, runs)) / 3600
        print(f"{figure.name}: {len(runs)} runs of its own, about {hours:.2f} core-hours")
        for run in runs:
            state = "complete" if run.is_complete(place.runs) else f"about {cost.as_time(cost.seconds(run))}"
            print(f"  {run.label}: {run.schedule.end} updates, {state}, {run.folder(place.runs).name}")


def _train(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> bool:
    """Make the runs that are missing; False when stopped."""
    place, runs = _place(args), all_runs(figures, setting)
    check_data(runs, setting, args.data_root)
    missing = [run for run in runs if not run.is_complete(place.runs)]
    total = cost.remaining_seconds(missing, place.runs)
    jobs = figure_engine.runs_at_a_time(args, len(missing))
    shared.say(
        f"{len(runs)} runs, {len(missing)} to be made: about {cost.as_time(total)} of one core, "
        f"{cost.as_time(total / jobs)} with {jobs} at a time; they lie in {place.runs}"
    )
    if not missing:
        return True
    torch.set_num_threads(1)
    check_there = partial(check_data, missing, setting, place.data_root)
    with stop_on_interrupt() as should_stop, figure_engine.engine(args, place, jobs, check_there) as engine:
        started, done, failed = time.monotonic(), 0, []
        for run, status in make_runs(missing, place, jobs, should_stop, keep_freed_memory, engine):
            done += status == "complete"
            failed += [f"{run.label}: {status}"] if status.startswith("failed") else []
            shared.say(_progress(run, status, place, done, len(missing), time.monotonic() - started))
        if failed:
            raise InputError(f"{len(failed)} runs failed, the others are kept; the first is {failed[0]}")
        return not should_stop()


def _progress(run: PlannedRun, status: str, place: Place, done: int, of: int, seconds: float) -> str:
    if status != "complete":
        return f"{status}: {run.label}"
    values = run.measured(place.runs)[run.schedule.end]["values"]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in list(values.items())[:2])
    return f"[{done}/{of}, {cost.as_time(seconds)}] {run.label}: {shown}"


def _draw(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> None:
    pages = _pages(setting, args)
    results = {}
    for figure in figures:
        found = _records(figure, setting, args)
        verdicts = write_page(pages, figure, found)
        results[figure.name] = summarize(verdicts)
        print(as_text(figure, verdicts))
        shared.say(f"page: {pages / figure.name}.md")
    if args.name == "all":
        shared.say(f"summary: {write_summary(pages, results, figures, setting)}")
    if args.json:
        shared.print_json({"scale": setting.scale, "protocol": setting.protocol, "figures": results})


def _pages(setting: Setting, args: argparse.Namespace) -> Path:
    return args.pages or Path("docs/figures") / ("" if setting.folder == "local" else setting.folder)


def _records(figure: FigureSpec, setting: Setting, args: argparse.Namespace) -> FigureRecords:
    file = records_file(args.records, figure, setting)
    if args.redraw:
        return load_records(file, figure, setting)
    found = collect(figure, setting, _place(args).runs, shlex.join(["metacontrast", *sys.argv[1:]]))
    write_records(file, found)
    return found
