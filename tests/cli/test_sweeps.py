"""Seeds and variants of `train` as a grid of runs: the same numbers at any `--jobs`, and no run holds up another."""

import json
from pathlib import Path

import pytest

from metacontrast.cli.config_flags import config_from_flags
from metacontrast.cli.main import build_parser, run
from metacontrast.cli.train import command_that_goes_on, last_evaluation
from metacontrast.files import exclusive
from metacontrast.training.recipes import sweep_configs
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run

SMALL = ["--recipe", "glyphs", "--filters", "2", "--queries", "2", "--meta-batch", "2", "--updates", "3"]
SMALL += ["--eval-every", "0", "--eval-episodes", "2", "--eval-steps", "1", "--workers", "1"]


def train(out: Path, *words: str) -> int:
    return run(["train", *SMALL, "--out", str(out), *words])


def test_runs_at_a_time_are_those_one_after_the_other(tmp_path, capsys):
    """Record by record; processes of one thread each on both sides."""
    for name, words in (("one", ()), ("two", ("--jobs", "2"))):
        assert train(tmp_path / name, "--seeds", "2", "--vary", "head=learned,zeroed", *words, "--json") == 0
        out, err = capsys.readouterr()
        assert len(json.loads(out.splitlines()[-1])["results"]) == 4 * 3
        assert "[4/4, " in err
    runs = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/seed-*"))
    assert len(runs) == 4
    for folder in runs:
        one, two = (read_records(tmp_path / name / folder / "records.jsonl")[1:] for name in ("one", "two"))
        assert one == two


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_fails_leaves_the_others_alone(jobs, tmp_path, capsys):
    """An inner step of 10³⁰ overflows; the variant beside it is trained, and the error names the run that failed."""
    assert train(tmp_path, "--vary", "inner-lr=1e30,.4", "--jobs", jobs) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 run failed, the others are kept; the first is inner-lr=1e+30/seed-0: the loss" in error
    assert load_run(tmp_path / "inner-lr=0.4/seed-0").updates == 3


def test_a_run_that_another_process_trains_comes_last(tmp_path, monkeypatch, capsys):
    """The lock of seed 0 is held until the command has to wait for it."""
    lock = exclusive(tmp_path / "seed-0" / ".lock", "held")
    lock.__enter__()
    monkeypatch.setattr("metacontrast.experiments.runners.time.sleep", lambda seconds: lock.__exit__(None, None, None))
    assert train(tmp_path, "--seeds", "2") == 0
    ended = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split("] ")[1][:6] for line in ended] == ["seed-1", "seed-0"]


def test_a_single_run_is_not_for_a_cluster(tmp_path, monkeypatch, capsys):
    """It would be trained on this machine, whatever was asked for."""
    monkeypatch.setattr("metacontrast.cli.grid.require_ray", lambda: None)
    assert train(tmp_path / "run", "--runner", "ray") == 2
    assert "--runner ray hands several runs to a cluster: add --seeds or --vary" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_that_goes_on_names_how_runs_are_spread():
    words = ["--seeds", "3", "--jobs", "2", "--runner", "ray", "--address", "head:1", "--vary", "head=learned,zeroed"]
    args = build_parser().parse_args(["train", *SMALL, "--out", "runs", *words])
    told = "train --resume --vary=head=learned,zeroed --seeds 3 --jobs 2 --runner ray --address head:1 --out runs"
    assert command_that_goes_on(args) == told


def test_the_command_that_goes_on_finds_the_data_and_tells_methods_what_they_began_with():
    """The first variant's configuration has its method's fields, so that the flags are given again."""
    words = ["--recipe", "glyphs", "--data-root", "Data", "--vary", "method=conml,maml", "--relabel", "--shots", "2"]
    args = build_parser().parse_args(["train", "--out", "Runs", "--deterministic", *words])
    told = command_that_goes_on(args)
    assert told == (
        "train --resume --vary=method=conml,maml --data-root Data --out Runs --deterministic --recipe glyphs "
        "--relabel --shots=2"
    )
    again = build_parser().parse_args(told.split())
    assert config_from_flags(again) == config_from_flags(args)
    assert again.vary == args.vary


def test_a_grid_of_methods_is_continued(tmp_path, capsys):
    words = ["--vary", "method=conml,maml", *SMALL, "--meta-batch", "2"]
    assert train(tmp_path / "runs", *words) == 0
    assert train(tmp_path / "runs", "--resume", *words, "--updates", "3") == 0
    assert {load_run(run).updates for run in (tmp_path / "runs").glob("*/seed-*")} == {3}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "ways=5-10,5-20"], "a variant has one size, not a range"),
        (["--vary", "start=photos,none"], "is not FIELD=VALUE,VALUE"),
    ],
)
def test_what_variants_cannot_differ_in_is_refused(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        train(tmp_path / "runs", *words)
    assert message in capsys.readouterr().err


def test_flags_of_a_grid_are_checked(tmp_path, capsys):
    for words, part in ((["--jobs", "0"], "--jobs 0"), (["--address", "head:1"], "give --runner ray with it")):
        assert train(tmp_path / "run", "--seeds", "2", *words) == 2
        assert part in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def config_of(*words: str):
    return config_from_flags(build_parser().parse_args(["train", *SMALL, *words, "--out", "here"]))


def test_one_number_takes_the_place_of_a_range(tmp_path):
    """Of the run that is continued, and of the command line where the size is varied."""
    assert train(tmp_path / "run", "--ways", "2-3", "--updates", "1") == 0
    going_on = ["train", "--resume", "--out", str(tmp_path / "run"), "--ways", "4"]
    assert config_from_flags(build_parser().parse_args(going_on)).least_ways is None
    variants = sweep_configs(config_of("--shots", "1-3", "--head", "zeroed"), 1, {"shots": [2, 3]})
    assert [config.least_shots for config in variants.values()] == [None, None]
    assert config_of("--ways", "2-3").least_ways == 2


@pytest.mark.parametrize("size", ["²", "2-³", "-", "2-"])
def test_sizes_that_are_no_numbers_are_one_line(size, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path, f"--ways={size}")
    assert "give a whole number, or a range such as 5-20" in capsys.readouterr().err


def test_a_run_that_has_not_begun_has_no_evaluation(tmp_path):
    """A grid may be stopped before it begins some of its runs."""
    assert last_evaluation(tmp_path / "seed-3") == []


def test_the_command_that_goes_on_has_the_same_engine():
    args = build_parser().parse_args(["train", *SMALL, "--engine", "vmap", "--chunk", "2", "--out", "here"])
    assert command_that_goes_on(args) == "train --resume --engine vmap --chunk 2 --out here"


@pytest.mark.parametrize("name", ["best.safetensors", "checkpoints"])
def test_what_another_training_left_is_no_place_for_a_new_one(name, tmp_path, capsys):
    """`explain` would take its copies for those of the new training."""
    (tmp_path / name).mkdir()
    assert train(tmp_path) == 2
    assert f"has a {name} but no config.json" in capsys.readouterr().err
