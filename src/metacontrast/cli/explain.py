"""`metacontrast explain`: what the outer gradient of a trained run is made of."""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

from tqdm import tqdm

from metacontrast.cli import shared
from metacontrast.cli.evaluate import images_like_the_runs
from metacontrast.cli.parser import Parser
from metacontrast.errors import check_counts, one_line
from metacontrast.files import as_path
from metacontrast.report.findings import explain_run, findings_text, setting
from metacontrast.report.report import write_report
from metacontrast.training.run import load_kept


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Decompose the outer gradient into interference and contrast, measure how far the theory is from "
        "it, and write plots (PNG, PDF), explain.json and an HTML report, explain.html, that defines each number.",
        examples=(("a trained run", "metacontrast explain runs/glyphs"),),
    )
    shared.add_run_argument(parser)
    parser.add_argument("--dataset", metavar="NAME", help="data set of the tasks (default: the run's own)")
    parser.add_argument("--split", help="split of the tasks (default: test, or all of another folder)")
    parser.add_argument("--episodes", type=int, default=32, metavar="N", help="tasks (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the tasks (default: the run's own)")
    parser.add_argument("--out", type=shared.out_folder, metavar="DIR", help="report folder (default: RUN/explain)")
    shared.add_data_root_flag(parser)
    shared.add_compute_flags(parser)
    shared.add_json_flag(parser)


def execute(args: argparse.Namespace) -> None:
    """Explain, write the report, print the summary."""
    check_counts(episodes=args.episodes)
    from metacontrast.classifier.starting_point import load_model

    args.run = as_path(args.run)
    is_file = args.run.is_file()
    run, kept = load_model(args.run), [] if is_file else load_kept(args.run)
    out = args.out or (args.run.with_name(f"{args.run.stem}-explain") if is_file else args.run / "explain")
    shared.check_destinations([args.run, *shared.images_folder(args.dataset or run.config.dataset)], folders=[out])
    config = run.config if args.seed is None else replace(run.config, seed=args.seed)
    images = images_like_the_runs(args, run)
    with (
        shared.resources(args, args.episodes) as resources,
        tqdm(total=len(kept) + 1, desc="explaining", unit="model", disable=None, leave=False) as bar,
    ):
        tasks = config.test_tasks(images.to(resources.device))
        found = explain_run(run, kept, tasks, args.episodes, resources, bar.update)
    report = write_report(out, found, shlex.join(["metacontrast", *sys.argv[1:]]))
    shared.say(f"{args.run}: {setting(found)}")
    print(findings_text(found))
    print(f"\nreport: {one_line(str(report))}")
    if args.json:
        shared.print_json({"run": str(args.run), "report": str(report), "scalars": found.explanation.scalars()})
