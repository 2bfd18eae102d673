"""Seeds and variants of `train` as a grid of runs: the same numbers at any `--jobs`, and no run holds up another."""

import json
import re
import shutil
from pathlib import Path

import pytest

from metacontrast.cli.asked import asked_sweep, check_effects, command_that_goes_on, configs_of
from metacontrast.cli.config_flags import as_text, config_from_fields, config_from_flags, given_fields
from metacontrast.cli.main import build_parser, run
from metacontrast.cli.train import _share_of_memory, last_evaluation
from metacontrast.errors import InputError
from metacontrast.files import exclusive
from metacontrast.training.recipes import RECIPES
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run, read_config
from metacontrast.training.sweep import Sweep

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
    assert "1 run failed, the others are kept; the first is 'inner-lr=1e+30/seed-0': the loss" in error
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


@pytest.mark.parametrize("address", ["head:1", "auto"])
def test_the_command_that_goes_on_names_how_runs_are_spread_and_where_the_data_are(address):
    words = ["--seeds", "3", "--jobs", "2", "--runner", "ray", "--address", address, "--vary", "head=learned,zeroed"]
    args = build_parser().parse_args(["train", *SMALL, "--out", "auto", *words, "--data-root", "local"])
    told = f"train --resume --data-root local --jobs 2 --runner ray --address {address} --out auto"
    assert command_that_goes_on(args) == told


def test_several_at_a_time_are_not_for_a_single_run(tmp_path, capsys):
    assert train(tmp_path / "run", "--jobs", "2") == 2
    assert "--jobs 2 is for several runs: add --seeds or --vary" in capsys.readouterr().err


def test_an_older_name_of_a_field_can_be_varied(tmp_path):
    assert train(tmp_path, "--vary", "objective=maml,contrastive") == 0
    assert {each.name for each in tmp_path.glob("*=*")} == {"method=maml", "method=contrastive"}


def test_a_sweep_that_is_stopped_before_it_begins_has_nothing_to_go_on(tmp_path, capsys, monkeypatch):
    """As when a cluster has no free processor yet."""
    monkeypatch.setattr("metacontrast.cli.train.execute_grid", lambda grid, runner: False)
    assert train(tmp_path / "runs", "--seeds", "2") == 130
    assert "stopped before any run began: the same command begins again" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# Going on: what a sweep began with is kept


def fields_of(out: Path, name: str) -> dict[str, object]:
    return {str(run.parent.relative_to(out)): getattr(read_config(run.parent), name) for run in configs_in(out)}


def configs_in(out: Path) -> list[Path]:
    return sorted(out.glob("**/seed-*/config.json"))


def test_a_sweep_goes_on_without_its_flags(tmp_path, capsys):
    """Seed 6 and the second variant begin only then, with the fields that were given for all."""
    assert train(tmp_path, "--seeds", "2", "--seed", "5", "--ways", "3", "--vary", "method=conml,maml") == 0
    shutil.rmtree(tmp_path / "method=maml")
    shutil.rmtree(tmp_path / "method=conml" / "seed-5")
    assert run(["train", "--resume", "--updates", "4", "--out", str(tmp_path)]) == 0
    folders = [f"method={name}/seed-{seed}" for name in ("conml", "maml") for seed in (5, 6)]
    assert fields_of(tmp_path, "order") == dict(zip(folders, ["second", "second", "first", "first"], strict=True))
    assert fields_of(tmp_path, "ways") == dict.fromkeys(folders, 3)
    assert {load_run(tmp_path / folder).updates for folder in folders} == {4}
    assert run(["train", "--resume", "--seeds", "3", "--vary", "method=maml", "--out", str(tmp_path)]) == 0
    assert load_run(tmp_path / "method=maml" / "seed-7").updates == 4
    assert "4/4" not in capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_go_on_is_told_before_any_run_begins(tmp_path, capsys):
    assert train(tmp_path, "--seeds", "1", "--vary", "head=zeroed,learned") == 0
    shutil.rmtree(tmp_path / "head=zeroed")
    for words, message in (
        (["--resume", "--inner-lr", "0.1"], "holds a run with --inner-lr 0.4, not 0.1"),
        (["--resume", "--head", "zeroed"], "--head gives a field that the variants differ in"),
        (["--resume", "--seed", "5"], "begin with --seed 0: leave it out, or choose another --out"),
        (["--resume", "--vary", "order=first,second"], "differ in head: vary the same, or choose another --out"),
        (["--seeds", "2"], "holds several runs: continue them with --resume, or choose another --out"),
        ([], "holds several runs: continue them with --resume, or choose another --out"),
    ):
        capsys.readouterr()
        assert run(["train", *words, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert run(["train", "--resume", "--out", str(tmp_path)]) == 0  # nothing of the refused flags is kept
    assert fields_of(tmp_path, "inner_lr") == {"head=learned/seed-0": 0.4, "head=zeroed/seed-0": 0.4}


def test_a_range_beside_variants_of_its_upper_end_stays(tmp_path):
    assert train(tmp_path, "--least-ways", "2", "--vary", "ways=3,4", "--updates", "1") == 0
    assert run(["train", "--resume", "--vary", "ways=3,4,5", "--out", str(tmp_path)]) == 0
    assert set(fields_of(tmp_path, "least_ways").values()) == {2}


def test_a_start_is_found_from_another_folder(tmp_path, monkeypatch):
    assert train(tmp_path / "base") == 0
    monkeypatch.chdir(tmp_path)
    assert train(tmp_path / "runs", "--start", "./base", "--seeds", "1") == 0
    monkeypatch.chdir("/")
    assert run(["train", "--resume", "--updates", "4", "--out", str(tmp_path / "runs")]) == 0
    assert load_run(tmp_path / "runs" / "seed-0").updates == 4


def test_a_grid_that_fails_before_it_begins_leaves_nothing(tmp_path, capsys):
    """Nor do the flags of a resumed one whose every run fails."""
    assert train(tmp_path / "one", "--seeds", "2", "--dataset", "folder:nowhere") == 2
    assert not (tmp_path / "one" / "sweep.json").exists()
    assert train(tmp_path / "two", "--seeds", "2") == 0
    assert run(["train", "--resume", "--eval-split", "nosuch", "--updates", "4", "--out", str(tmp_path / "two")]) == 2
    assert run(["train", "--resume", "--updates", "4", "--out", str(tmp_path / "two")]) == 0


def test_a_run_that_was_trained_for_longer_alone_stays_so(tmp_path):
    assert train(tmp_path, "--seeds", "2") == 0
    assert run(["train", "--resume", "--updates", "5", "--out", str(tmp_path / "seed-1")]) == 0
    assert run(["train", "--resume", "--updates", "4", "--out", str(tmp_path)]) == 0
    assert [load_run(tmp_path / f"seed-{seed}").updates for seed in (0, 1)] == [4, 5]


def test_a_single_run_in_the_folder_of_a_grid_that_never_began_goes_on(tmp_path):
    Sweep({}, {}, 2).save(tmp_path)
    assert train(tmp_path) == 0
    assert run(["train", "--resume", "--updates", "4", "--out", str(tmp_path)]) == 0
    assert load_run(tmp_path).updates == 4


def test_runs_without_what_they_began_with_need_all_their_flags(tmp_path, capsys):
    assert train(tmp_path, "--seeds", "2") == 0
    (tmp_path / "sweep.json").unlink()
    assert run(["train", "--resume", "--out", str(tmp_path)]) == 2
    assert "but not what they began with: give all their flags again" in capsys.readouterr().err
    assert run(["train", "--resume", "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert "resume it with its own configuration" in capsys.readouterr().err
    assert run(["train", "--resume", "--seed", "7", "--seeds", "2", "--out", str(tmp_path)]) == 2
    assert "but not what they began with" in capsys.readouterr().err
    assert train(tmp_path, "--resume", "--seeds", "2") == 0
    assert (tmp_path / "sweep.json").exists()


def test_a_run_that_is_not_there_is_said_to_begin(tmp_path, capsys):
    """The name of the folder may be misspelled."""
    assert train(tmp_path / "typo", "--resume", "--updates", "1") == 0
    assert f"there is no run in {tmp_path / 'typo'} yet: a new one begins" in capsys.readouterr().err


def test_a_field_of_the_variants_has_no_flag_beside(tmp_path, capsys):
    assert train(tmp_path, "--shots", "1-3", "--vary", "shots=1,2") == 2
    assert "--shots gives a field that the variants differ in: leave it out, or --vary shots" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "variants"),
    [
        (["--start", "photos"], {"method": ("maml", "reptile", "ridge")}),
        (["--start", "photos"], {"head": ("learned", "prototype")}),
        (["--method", "reptile"], {"method": ("maml", "protonet"), "inner_steps": (0, 2)}),
        ([], {"dataset": ("omniglot", "cifar-fs"), "shots": (1, 5)}),
        ([], {"start": (None, "photos"), "dataset": ("cifar-fs",)}),
    ],
)
def test_the_run_of_a_variant_is_that_of_its_flags_alone(words, variants, tmp_path):
    """Recipe, start and method are those that the flags of the one run would bring."""
    given = given_fields(build_parser().parse_args(["train", "--out", "here", *words]))
    given = {name: value for name, value in given.items() if name not in variants}
    for fields in Sweep(given, variants).runs().values():
        flags = [f"--{name.replace('_', '-')}={as_text(value)}" for name, value in fields.items()]
        try:
            alone = config_from_flags(build_parser().parse_args(["train", "--out", "here", *flags]))
        except InputError as error:
            with pytest.raises(InputError, match=re.escape(str(error))):
                config_from_fields(None, {}, fields)
        else:
            assert config_from_fields(None, {}, fields) == alone


def test_every_variant_has_the_recipe_of_its_data_and_shots():
    found = [config_from_fields(None, {}, {"dataset": "omniglot", "shots": shots}) for shots in (1, 5)]
    assert found == [RECIPES["omniglot-5w1s-released"], RECIPES["omniglot-5w5s-released"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "ways=5-10,5-20"], "a variant has one size, not a range"),
        (["--vary", "seed=1,2"], "seeds are not varied, give --seeds N and --seed for the first"),
        (["--vary", "hed=learned,zeroed"], "is not FIELD=VALUE,VALUE: did you mean 'head'?"),
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
    """Of the run that is continued, and of the same command line."""
    assert train(tmp_path / "run", "--ways", "2-3", "--updates", "1") == 0
    going_on = ["train", "--resume", "--out", str(tmp_path / "run"), "--ways", "4"]
    assert config_from_flags(build_parser().parse_args(going_on)).least_ways is None
    assert config_of("--ways", "2-3", "--ways", "4").least_ways is None
    assert config_of("--ways", "2-3").least_ways == 2


@pytest.mark.parametrize("size", ["²", "2-³", "-", "2-"])
def test_sizes_that_are_no_numbers_are_one_line(size, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path, f"--ways={size}")
    assert "give a whole number, or a range such as 5-20" in capsys.readouterr().err


def test_results_name_the_method_that_trained(tmp_path, capsys):
    assert train(tmp_path, "--vary", "method=reptile,maml", "--json") == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    named = {(row["variant"], row["method"]) for row in rows if row["method"] != "nearest-mean"}
    assert named == {("method=reptile", "reptile"), ("method=maml", "maml")}


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "reptile", "--vary", "order=first,second"], "--order changes nothing in a training by reptile"),
        (["--method", "protonet", "--inner-lr", "0.1"], "--inner-lr changes nothing in a training by protonet"),
        (["--method", "ridge", "--inner-scope", "head"], "--inner-scope changes nothing in a training by ridge"),
        (["--method", "contrastive", "--drop-interference"], "--drop-interference changes nothing"),
        (["--method", "contrastive", "--inner-steps", "1", "--drop-noise"], "--drop-noise changes nothing"),
        (["--method", "reptile", "--engine", "vmap"], "--engine vmap is for MAML's own gradient"),
        (["--engine", "loop", "--chunk", "2"], "--chunk 2 is for --engine vmap"),
    ],
)
def test_what_would_change_nothing_is_refused(words, message, tmp_path, capsys):
    flags = [*SMALL[2:], "--device", "cpu"]
    flags = [*flags[: flags.index("--eval-steps")], *flags[flags.index("--eval-steps") + 2 :]]
    assert run(["train", *flags, *words, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--eval-steps", "0,1"], ["--vary", "method=maml,protonet"]])
def test_the_inner_loop_counts_at_test_and_in_another_variant(words, tmp_path):
    flags = [*SMALL, *(["--method", "protonet"] if words[0] == "--eval-steps" else []), *words, "--inner-lr", "0.1"]
    args = build_parser().parse_args(["train", *flags, "--out", str(tmp_path)])
    check_effects(args, list(configs_of(args, asked_sweep(args)).values()))


def test_runs_at_a_time_share_the_memory():
    args = build_parser().parse_args(["train", *SMALL, "--device", "cpu", "--memory", "3", "--out", "here"])
    assert _share_of_memory(args, 3) == 10**9
    args.memory = None
    assert (_share_of_memory(args, 10**9) or 0) < 10**3
    args.runner = "ray"
    assert _share_of_memory(args, 3) is None
