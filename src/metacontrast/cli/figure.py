"""`metacontrast figure`: answer a question of the paper, or all of them, with pictures and verdicts."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from metacontrast.cli import shared
from metacontrast.cli.grid import add_grid_flags, as_time, check_grid_flags, chosen_runner, execute_grid, jobs_at_once
from metacontrast.cli.parser import Parser
from metacontrast.cli.progress import stop_on_interrupt
from metacontrast.data.catalog import data_root, runs_folder
from metacontrast.device import DEVICES, find_device, keep_freed_memory
from metacontrast.errors import InputError, check_counts
from metacontrast.experiments.authors_models import find_runs, load_authors, measure_again, measure_all
from metacontrast.experiments.deviations import all_deviations
from metacontrast.experiments.figure_records import collect, load_records, recorded
from metacontrast.experiments.figures import AUTHORS_TESTS, FIGURES, find_figures
from metacontrast.experiments.pages import verdict_values, verdicts_text, write_page, write_summary
from metacontrast.experiments.runners import Grid, RunContext
from metacontrast.experiments.runs import PlannedRun, all_runs, check_data, estimate_seconds
from metacontrast.experiments.setting import COLOURS, Protocol, ScaleName, Setting, choose_setting
from metacontrast.experiments.spec import FigureSpec
from metacontrast.experiments.statistics import FEWEST_SEEDS, LOOKS
from metacontrast.files import as_path
from metacontrast.training.step import Resources
from metacontrast.version import INTERRUPTED


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        usage="%(prog)s NAME [flags]",
        description="Train the runs that are missing, record them, draw them next to the authors' numbers, and judge "
        "the paper's claims. Run a stopped command again to continue it. Figures: " + ", ".join(FIGURES) + ".",
        common=("scale", "until", "seeds", "claims", "redraw", "plan", "jobs", "device", "out", "data_root", "json"),
        examples=(
            ("check that the paper's figures run", "metacontrast figure all --scale smoke"),
            ("what a figure costs", "metacontrast figure initialization-and-zeroing --plan"),
            (
                "the runs of the page's first claim, 600 updates on 5 seeds",
                "metacontrast figure initialization-and-zeroing --claims 1 --until 600 --seeds 5",
            ),
        ),
    )
    parser.add_argument("name", metavar="NAME", help="a figure's name, or all")
    experiment = parser.add_argument_group("experiment")
    experiment.add_argument(
        "--scale",
        choices=get_args(ScaleName),
        default="local",
        help="length by name. smoke: 2 updates on embedded glyphs, proves nothing; local: 100 to 600 updates on "
        "Omniglot and CIFAR-FS, hours on two cores; full: the published length, days (default: %(default)s)",
    )
    experiment.add_argument("--until", type=int, metavar="UPDATES", help="length in updates, in place of --scale")
    experiment.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=f"training seeds; verdicts are given at {', '.join(map(str, LOOKS))} (default: {FEWEST_SEEDS})",
    )
    experiment.add_argument(
        "--claims",
        type=shared.step_list,
        default=(),
        metavar="N,N",
        help="train only the runs that these claims compare, by their numbers on the figure's page (default: all runs)",
    )
    experiment.add_argument(
        "--colour",
        choices=COLOURS,
        help="colour images to train on (default: cifar-fs; with --until or --scale full mini-imagenet if available)",
    )
    experiment.add_argument(
        "--authors-models",
        type=Path,
        metavar="DIR",
        help="train nothing; measure the authors' checkpoints, in results/miniimagenet of their repository, the last "
        "checkpoint of every run first",
    )
    experiment.add_argument(
        "--protocol",
        choices=(*get_args(Protocol), "released"),
        default="authors",
        help="settings of the authors' code (also called released), or of the paper's text (default: %(default)s)",
    )
    experiment.add_argument("--redraw", action="store_true", help="train nothing; draw and judge the existing records")
    experiment.add_argument("--plan", action="store_true", help="list runs, their cost and the deviations, and exit")
    places = parser.add_argument_group("files")
    places.add_argument("--out", type=shared.out_folder, metavar="DIR", help="folder of runs (default: a cache folder)")
    places.add_argument(
        "--records",
        type=shared.out_folder,
        default=Path("results/figures"),
        metavar="DIR",
        help="folder of records (default: %(default)s)",
    )
    places.add_argument("--pages", type=shared.out_folder, metavar="DIR", help=_PAGES)
    shared.add_data_root_flag(places)
    run = parser.add_argument_group("run")
    add_grid_flags(run, "--engine")
    run.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute (default: %(default)s)")
    shared.add_json_flag(run)


_PAGES = (
    "folder of pages and pictures (default: docs/figures, or a folder in it for --scale smoke and --protocol paper)"
)


def execute(args: argparse.Namespace) -> int:
    """Train, collect, draw, judge."""
    figures = find_figures(args.name)
    check_grid_flags(args)
    setting = _setting(args)
    if args.claims and len(figures) > 1:
        raise InputError("--claims counts the claims of one figure: name it in place of all")
    _check_together(args, setting, figures)
    if not args.plan:
        runs = [] if args.redraw else [_context(args).runs, args.records]
        shared.check_destinations([data_root(args.data_root)], folders=[*runs, _pages(setting, args)])
    for line in all_deviations(setting, figures):
        shared.say(f"{'deviation' if figures[0].of_paper else 'setting'}: {line}")
    if args.plan:
        _print_plan(figures, setting, args)
        return 0
    compute = _measure_authors if args.authors_models else _train
    if not args.redraw and not compute(figures, setting, args):
        shared.say("stopped and saved; the same command continues")
        return INTERRUPTED
    _draw(figures, setting, args)
    return 0


def _check_together(args: argparse.Namespace, setting: Setting, figures: Sequence[FigureSpec]) -> None:
    """Raise `InputError` for flags of which one has no effect."""
    others = {"--redraw": args.redraw, "--plan": args.plan, "--scale smoke": setting.scale == "smoke"}
    if args.authors_models and (other := next((flag for flag, given in others.items() if given), None)):
        raise InputError(f"--authors-models measures models, and {other} does not: leave one of them out")
    untrained = {"--redraw": args.redraw, "--authors-models": args.authors_models}
    untrained[f"the figure {args.name}"] = not any(figure.curves(setting) for figure in figures)
    if other := next((flag for flag, given in untrained.items() if given), None):
        for name in ("claims", "until", "seeds"):
            if getattr(args, name) not in ((), None):
                raise InputError(f"--{name} says what is trained, and {other} trains nothing: leave one of them out")


def _setting(args: argparse.Namespace) -> Setting:
    check_counts(until=args.until, seeds=args.seeds)
    for name, fixed in (("until", "2 updates"), ("seeds", "2 seeds")) if args.scale == "smoke" else ():
        if (value := getattr(args, name)) is not None:
            raise InputError(f"--{name} {value} with --scale smoke, which has {fixed}: leave one of them out")
    protocol = "authors" if args.protocol == "released" else args.protocol
    if args.seeds is not None and args.seeds > max(LOOKS):
        raise InputError(f"--seeds {args.seeds}, but the last verdict is given at {max(LOOKS)}: ask for no more")
    setting = Setting(args.scale, protocol, until=args.until, seeds=args.seeds or FEWEST_SEEDS)
    return replace(setting, colour=args.colour) if args.colour else choose_setting(setting, args.data_root)


def _context(args: argparse.Namespace) -> RunContext:
    device = find_device(args.device) if args.address is None else args.device
    return RunContext((args.out or runs_folder()).absolute(), data_root(args.data_root).absolute(), device)


def _print_plan(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> None:
    context, seen = _context(args), set()
    for figure in figures:
        runs = [run for run in all_runs([figure], setting, args.claims) if run.key not in seen]
        seen |= {run.key for run in runs}
        hours = sum(map(estimate_seconds, runs)) / 3600
        print(f"{figure.name}: {len(runs)} runs of its own, about {hours:.2f} core-hours")
        for run in runs:
            is_there = _is_there(run, context, args.records / setting.folder)
            state = "complete" if is_there else f"about {as_time(estimate_seconds(run))}"
            print(f"  {run.label}: {run.plan.end} updates, {state}, {run.folder(context.runs).name}")


def _is_there(run: PlannedRun, context: RunContext, records: Path) -> bool:
    """Whether all measurements of a run exist, in its folder or in the records."""
    return run.is_complete(context.runs) or not run.lacking(recorded(records, run))


def _measure_authors(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> bool:
    """Measure the authors' checkpoints that are not recorded; False when stopped."""
    runs, context = find_runs(as_path(args.authors_models)), _context(args)
    test = figures[0].authors_test  # such a figure is asked for alone
    measure = measure_all if test is None else partial(measure_again, test)
    torch.set_num_threads(1)
    with stop_on_interrupt() as should_stop:
        for done in measure(runs, args.records, context.data_root, Resources(context.device)):
            shared.say(done)
            if should_stop():
                return False
    return True


def _train(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> bool:
    """Make the missing runs and add them to the records; False when stopped."""
    context, runs, records = _context(args), all_runs(figures, setting, args.claims), args.records / setting.folder
    missing = [run for run in runs if not _is_there(run, context, records)]
    check_there = partial(check_data, missing, setting, figures=list(FIGURES.values()))
    check_there(args.data_root)
    total, jobs = sum(map(estimate_seconds, missing), 0.0), jobs_at_once(args, len(missing))
    shared.say(
        f"{len(runs)} runs, {len(missing)} to train: about {as_time(total)} of one core, "
        f"{as_time(total / jobs)} with {jobs} at a time; folder: {context.runs}"
    )
    if not missing:
        collect(runs, context.runs, records)
        return True
    torch.set_num_threads(1)
    with (
        stop_on_interrupt() as should_stop,
        chosen_runner(args, context, jobs, partial(check_there, context.data_root)) as runner,
    ):
        try:
            grid = Grid(missing, context, jobs, should_stop, keep_freed_memory)
            return execute_grid(grid, runner)
        finally:
            collect(runs, context.runs, records)


def _draw(figures: Sequence[FigureSpec], setting: Setting, args: argparse.Namespace) -> None:
    pages = _pages(setting, args)
    known = [] if setting.scale == "smoke" else load_authors(args.records, AUTHORS_TESTS)
    results = {}
    for figure in figures:
        found = replace(load_records(args.records / setting.folder, figure, setting), authors=known)
        if figure.authors_test is not None and not any(each.kind == figure.authors_test.kind for each in known):
            raise InputError(f"{args.records} holds no records of {figure.name}: give --authors-models DIR")
        verdicts = write_page(pages, figure, found)
        results[figure.name] = verdict_values(verdicts)
        print(verdicts_text(figure, verdicts))
        shared.say(f"page: {pages / figure.name}.md")
    if args.name == "all":
        shared.say(f"summary: {write_summary(pages, results, figures, setting)}")
    if args.json:
        shared.print_json({"scale": setting.scale, "protocol": setting.protocol, "figures": results})


def _pages(setting: Setting, args: argparse.Namespace) -> Path:
    return args.pages or Path("docs/figures") / ("" if setting.folder == "runs" else setting.folder)
