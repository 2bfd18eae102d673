"""The command line end to end, on a folder of images that the tests write."""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metacontrast.cli import evaluate
from metacontrast.cli.main import run
from metacontrast.training import checkpoint
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run

TINY = [
    *("--image-size", "28", "--filters", "4", "--ways", "3", "--shots", "1", "--queries", "3", "--meta-batch", "2"),
    *("--eval-every", "0", "--eval-episodes", "4", "--inner-steps", "1", "--checkpoint-every", "2", "--workers", "2"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Six grey classes of eight images in train and in test."""
    root = tmp_path_factory.mktemp("my images")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for c in range(6):
            place = root / split / f"{split} class {c}"
            place.mkdir(parents=True)
            mean = rng.uniform(0, 255, (28, 28))
            for i in range(8):
                pixels = np.clip(mean + rng.normal(0, 40, (28, 28)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "zeroed"
    assert run(train_words(folder, out)) == 0
    return out


def train_words(folder: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--dataset", f"folder:{folder}", *TINY, "--updates", "4", "--out", str(out), *more]


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def fails_with(capsys, words: list[str], *parts: str) -> None:
    """Exit 2, one line on standard error with all parts, nothing on standard output."""
    try:
        status = run(words)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err


def test_train_writes_a_run_directory_and_prints_its_result(folder, tmp_path, capsys):
    assert run(train_words(folder, tmp_path / "run", "--json")) == 0
    out, _ = capsys.readouterr()
    result = last_json(out)
    assert result["status"] == "finished"
    assert {row["method"] for row in result["results"]} == {"maml", "nearest-mean"}
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "records.jsonl", "model.safetensors", "state.safetensors"} <= names


def test_train_says_what_an_update_takes(folder, tmp_path, capsys):
    assert run(train_words(folder, tmp_path / "run")) == 0
    assert re.search(r"^an update takes about \d+\.\d [KMG]B of memory", capsys.readouterr().err, re.MULTILINE)


def test_what_does_not_fit_into_memory_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    words = train_words(folder, tmp_path / "run", "--memory", "0.0001")
    fails_with(capsys, words, "100.0 KB are free: lower --queries", "--memory")
    fails_with(capsys, train_words(folder, tmp_path / "run", "--memory", "-1"), "--memory")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--seeds", "--replicas"])
def test_seeds_are_runs_of_their_own_that_resume_without_flags(flag, folder, tmp_path, capsys):
    """`--replicas` is the flag's older name."""
    out, words = tmp_path / "runs", [flag, "2", "--json"]
    assert run(train_words(folder, out, "--seed", "3", *words)) == 0
    text = capsys.readouterr()
    assert {row["seed"] for row in last_json(text.out)["results"]} == {3, 4}
    assert "seed-3, update 4" in text.err
    assert "seed-4, update 4" in text.err
    assert [load_run(out / f"seed-{seed}").config.seed for seed in (3, 4)] == [3, 4]
    assert run(["train", "--resume", "--out", str(out), "--updates", "6"]) == 0
    assert run(["train", "--resume", "--out", str(out / "seed-4"), "--updates", "7"]) == 0
    assert [load_run(out / f"seed-{seed}").updates for seed in (3, 4)] == [6, 7]
    assert run(["evaluate", str(out / "seed-4"), "--episodes", "3"]) == 0
    capsys.readouterr()
    fails_with(capsys, ["train", "--out", str(out)], "holds several runs: continue them with --resume")


def test_variants_are_runs_of_their_own_that_resume_without_flags(folder, tmp_path, capsys):
    """Fields of every kind vary: a word, a number, a switch, and what decides the gradient's program."""
    vary = ["--vary", "head=zeroed,learned", "--vary=inner-lr=.01", "--vary", "head-bias=false"]
    vary += ["--vary", "norm=inductive"]
    out, words = tmp_path / "runs", [*vary, "--json"]
    assert run(train_words(folder, out, *words)) == 0
    text = capsys.readouterr()
    names = [f"head={head},inner-lr=0.01,head-bias=false,norm=inductive" for head in ("zeroed", "learned")]
    assert list(dict.fromkeys(row["variant"] for row in last_json(text.out)["results"])) == names
    assert f"{names[1]}, seed-0, update 4" in text.err
    assert [load_run(out / name / "seed-0").config.head for name in names] == ["zeroed", "learned"]
    assert run(["train", "--resume", "--out", str(out), "--updates", "6"]) == 0
    assert run(["train", "--resume", "--seeds", "2", "--out", str(out)]) == 0
    assert [load_run(out / name / f"seed-{seed}").updates for name in names for seed in (0, 1)] == [6, 6, 6, 6]
    capsys.readouterr()


def test_variants_are_refused_in_one_line(folder, tmp_path, capsys):
    for wrong, *parts in (
        (["--vary", "iner-lr=1,2"], "iner-lr=1,2", "did you mean 'inner-lr'?"),
        (["--vary", "seed=1,2"], "seed=1,2", "seeds are not varied"),
        (["--vary", "head-bias=1"], "choose true or false"),
        (["--vary", "head"], "'head' is not FIELD=VALUE"),
        (["--vary", "head=zero"], "head cannot be 'zero'", "zeroed"),
        (["--vary", "outer-lr=fast"], "outer-lr cannot be 'fast'"),
        (["--vary", "outer-lr=.1,0.1"], "names a value twice"),
        (["--vary", "outer-lr=-1"], "--outer-lr -1.0"),
        (["--vary", "pool-size=none,0"], "--pool-size 0"),
        (["--vary", "head=learned", "--vary", "head=zeroed"], "names a field twice"),
    ):
        fails_with(capsys, train_words(folder, tmp_path / "run", *wrong), *parts)
    assert not (tmp_path / "run").exists()


def test_seeds_are_refused_in_one_line(folder, trained, tmp_path, capsys):
    for out in (tmp_path / "run", trained):
        fails_with(capsys, train_words(folder, out, "--seeds", "0"), "--seeds 0")
    fails_with(capsys, train_words(folder, trained, "--seeds", "2"), "holds a single run", "--out")
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_the_documented_json(trained, capsys):
    assert run(["evaluate", str(trained), "--steps", "1,3", "--episodes", "5", "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    row = result["results"][0]
    assert set(row) == {"method", "steps", "head", "norm", "accuracy", "ci95", "episodes", "ways", "shots"}
    assert (row["steps"], row["norm"], row["episodes"]) == (1, "transductive", 5)
    assert [(r["head"], r["steps"]) for r in result["results"]] == [
        ("kept", 1),
        ("kept", 3),
        ("zeroed", 1),
        ("zeroed", 3),
        ("none", 0),
    ]


def test_evaluate_prints_a_table_with_the_policy_and_the_interval(trained, capsys):
    assert run(["evaluate", str(trained), "--episodes", "5", "--norm", "inductive", "--head", "zeroed"]) == 0
    out = capsys.readouterr().out
    assert "inductive" in out
    assert "±" in out
    assert "nearest-mean" in out
    assert "kept" not in out


def test_evaluate_at_other_ways_uses_the_zeroed_head(trained, capsys):
    assert run(["evaluate", str(trained), "--episodes", "3", "--ways", "5", "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert {r["head"] for r in result["results"]} == {"zeroed", "none"}
    assert result["ways"] == 5


def test_the_same_seed_gives_the_same_result(trained, capsys):
    results = []
    for workers in ("1", "2"):
        run(["evaluate", str(trained), "--episodes", "4", "--workers", workers, "--json"])
        results.append(last_json(capsys.readouterr().out))
    assert results[0] == results[1]


@pytest.mark.parametrize("head", ["learned", "shared", "prototype"])
def test_other_heads_train_and_evaluate(head, folder, tmp_path, capsys):
    assert run(train_words(folder, tmp_path / "run", "--head", head, "--order", "second", "--norm", "inductive")) == 0
    assert run(["evaluate", str(tmp_path / "run"), "--episodes", "3", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["results"][0]["norm"] == "inductive"


def test_demo_writes_a_report_and_trains_nothing_twice(folder, tmp_path, capsys, monkeypatch):
    words = ["demo", "--dataset", f"folder:{folder}", "--updates", "2", "--episodes", "3", "--queries", "4"]
    words = [*words, "--filters", "8", "--image-size", "28", "--out", str(tmp_path / "report"), "--json"]
    shutil.copytree(folder, odd := tmp_path / "$b_{$ of 5 $")  # which matplotlib would read as a formula
    words[2] = f"folder:{odd}"
    assert run(words) == 0
    first = last_json(capsys.readouterr().out)
    assert set(first["results"]) == {"learned head", "zeroing trick"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert (tmp_path / "report" / "explain-zeroed" / "explain.html").exists()
    assert "http" not in page
    trained = {f: f.stat().st_mtime_ns for f in (tmp_path / "report").rglob("state.safetensors")}
    monkeypatch.setattr("metacontrast.cli.demo.write_demo_page", lambda folder, *_: folder / "report.html")
    assert run(words) == 0
    assert last_json(capsys.readouterr().out) == first
    assert {f: f.stat().st_mtime_ns for f in trained} == trained


def test_data_commands_know_the_embedded_set(capsys):
    assert run(["data", "list"]) == 0
    assert "glyphs" in capsys.readouterr().out
    assert run(["data", "check", "glyphs", "--json"]) == 0
    report = last_json(capsys.readouterr().out)
    assert report["verified"]
    assert report["splits"]["train"]["classes"] + report["splits"]["test"]["classes"] >= 1000


def process(words: list[str]) -> subprocess.Popen:
    """The command in a process that Ctrl-C reaches, also where the tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "metacontrast", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_updates(out: Path, updates: int, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        records = out / "records.jsonl"
        if records.exists() and records.read_text().count('"kind": "training"') >= updates:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {updates} updates in a minute: {running.communicate()}")


def long_run(folder: Path, out: Path) -> list[str]:
    return [*train_words(folder, out), "--updates", "60", "--checkpoint-every", "7", "--head", "learned"]


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(long_run(folder, out)) == 0
    return out


def assert_same_run(one: Path, two: Path) -> None:
    a, b = (checkpoint.load(path / "state.safetensors").tensors for path in (one, two))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert read_records(one / "records.jsonl")[1:] == read_records(two / "records.jsonl")[1:]


@pytest.mark.slow  # test_stopped_processes kills trainings in the default run
def test_kill_minus_nine_and_resume_is_the_uninterrupted_run_bit_for_bit(folder, uninterrupted, tmp_path):
    """Killed twice, resumed twice: parameters, optimizer state and records are the same to the last bit."""
    out = tmp_path / "run"
    for updates in (10, 25):
        with process([*long_run(folder, out), "--resume"]) as running:
            wait_for_updates(out, updates, running)
            running.kill()
        assert running.returncode == -signal.SIGKILL
    assert run([*long_run(folder, out), "--resume"]) == 0
    assert_same_run(out, uninterrupted)


def test_ctrl_c_saves_and_exits_with_130(folder, uninterrupted, tmp_path):
    out = tmp_path / "run"
    with process(long_run(folder, out)) as running:
        wait_for_updates(out, 10, running)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "stopped and saved; continue with: metacontrast train --resume --out" in err
    assert "Traceback" not in err
    saved = checkpoint.load(out / "state.safetensors").facts["updates"]
    assert saved == sum(r["kind"] == "training" for r in read_records(out / "records.jsonl"))
    assert run([*long_run(folder, out), "--resume"]) == 0
    assert_same_run(out, uninterrupted)


@pytest.mark.slow
def test_the_allocator_does_not_change_the_result(folder, uninterrupted, tmp_path, monkeypatch):
    """Where freed memory goes is no business of the numbers."""
    monkeypatch.setenv("METACONTRAST_ALLOCATOR", "system")
    with process(long_run(folder, tmp_path / "run")) as running:
        running.communicate(timeout=120)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_ctrl_c_during_the_first_imports_is_no_traceback(folder, tmp_path):
    """Right after the interpreter has started; a library that loses the signal while it loads gets another one."""
    with process(long_run(folder, tmp_path / "run")) as running:
        time.sleep(0.5)
        while running.poll() is None:
            running.send_signal(signal.SIGINT)
            time.sleep(1)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err


def test_tensorboard_events_are_written_on_request(folder, tmp_path):
    pytest.importorskip("tensorboard")
    assert run(train_words(folder, tmp_path / "run", "--tensorboard")) == 0
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_bad_input_is_one_line_and_exit_2(folder, trained, tmp_path, capsys):
    out = tmp_path / "run"
    words = train_words(folder, out)
    cases = [
        ([*words, "--ways", "7"], "has 6 classes, but --ways 7"),
        ([*words, "--queries", "9"], "has 8 images", "--shots 1 and --queries 9 need 10"),
        ([*words, "--ways", "0"], "--ways 0, but it must be 2 or more"),
        ([*words, "--updates", "-5"], "--updates -5"),
        ([*words, "--inner-lr", "nan"], "--inner-lr nan"),
        ([*words, "--shots", "two"], "--shots", "'two'"),
        ([*words, "--head", "cleared"], "--head", "'cleared'"),
        ([*words, "--no-such-flag"], "--no-such-flag"),
        ([*words, "--recipe", "omniglot-5w1s"], "unknown recipe 'omniglot-5w1s'", "omniglot-5w1s-released"),
        ([*words, "--inner-scope", "encoder"], "--head zeroed with --inner-scope encoder", "learns nothing"),
        ([*words, "--inner-steps", "0"], "--head zeroed with", "--inner-steps 0"),
        ([*words, "--filters", "100000000"], "--filters 100000000"),
        (["train", "--out", ""], "--out", "invalid folder"),
        (["demo", "--head", "shared"], "leave out --head"),
        (["demo", "--episodes", "1"], "--episodes 1"),
        (["demo", "--method", "maml++"], "compares two trainings of MAML: leave out --method maml++"),
        (["train", "--dataset", f"folder:{folder / 'train'}", *TINY, "--out", str(out)], "has no train/ and test/"),
        ([*words, "--device", "cuda"], "device cuda"),
        ([*words, "--workers", "0"], "--workers 0"),
        ([*words, "--head", "prototype", "--no-head-bias"], "--head prototype"),
        (["train", "--dataset", "omniglotto", "--out", str(out)], "no data set 'omniglotto'", "'omniglot'"),
        (["train", "--dataset", "omniglot", "--data-root", str(tmp_path), "--out", str(out)], "data get omniglot"),
        (["train", "--dataset", f"folder:{tmp_path}/none", "--out", str(out)], "none"),
        (["evaluate", str(tmp_path)], "holds no trained model"),
        (["evaluate", str(tmp_path / "nowhere")], "is not a run directory"),
        (["evaluate", str(trained), "--ways", "5", "--head", "kept"], "trained for 3", "--head zeroed"),
        (["evaluate", str(trained), "--episodes", "1"], "--episodes 1"),
        (["evaluate", str(trained), "--steps", "1,x"], "--steps"),
        (["evaluate", str(trained), "--steps=-1"], "steps"),
        (["evaluate", str(trained), "--dataset", "cifar-fs", "--data-root", str(tmp_path)], "cifar-fs"),
        (["data", "check", "nothing"], "no data set 'nothing'"),
        (["data", "get", "mini-imagenet", "--data-root", str(tmp_path)], "mini-imagenet cannot be fetched"),
        ([], "command"),
    ]
    for case, *parts in cases:
        if "cuda" not in case or not torch.cuda.is_available():
            fails_with(capsys, case, *parts)
    assert not out.exists()


def test_a_file_in_the_place_of_the_run_directory_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    fails_with(capsys, train_words(folder, tmp_path / "file"), "file", "choose another folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_damaged_run_directories_are_named_and_left_alone(trained, tmp_path, capsys):
    broken = tmp_path / "run"
    broken.mkdir()
    for name in ("config.json", "records.jsonl", "model.safetensors"):
        (broken / name).write_bytes((trained / name).read_bytes())
    model = broken / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-9])
    fails_with(capsys, ["evaluate", str(broken)], "model.safetensors", "damaged")


def test_a_report_that_cannot_be_written_is_one_line(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert run(["explain", str(trained), "--episodes", "2", "--out", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert "cannot write" in err
    assert "Traceback" not in err


def test_resuming_needs_no_flags_and_bookkeeping_may_change(folder, tmp_path, capsys):
    """The run's own configuration is the starting point; what does not touch the result may differ."""
    out = tmp_path / "run"
    assert run(train_words(folder, out)) == 0
    assert run(["train", "--resume", "--out", str(out), "--updates", "6", "--checkpoint-every", "1", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["status"] == "finished"
    assert checkpoint.load(out / "state.safetensors").facts["updates"] == 6
    assert run(["train", "--resume", "--out", str(out), "--json"]) == 0
    text = capsys.readouterr()
    assert "has all its 6 updates already" in text.err
    assert {row["update"] for row in last_json(text.out)["results"]} == {6}


def test_a_full_output_is_one_line():
    words = [sys.executable, "-m", "metacontrast", "data", "list"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(words, stdout=full, stderr=subprocess.PIPE, text=True) as running,
    ):
        err = running.communicate(timeout=60)[1]
    assert running.returncode == 2
    assert len(err.strip().splitlines()) == 1


def test_polarity_carries_over_to_another_data_set(folder, tmp_path):
    """A run on inverted images is tested on inverted images."""
    assert run(train_words(folder, tmp_path / "run", "--invert")) == 0
    args = argparse.Namespace(dataset="glyphs", split="test", data_root=None)
    images = evaluate.images_like_the_runs(args, load_run(tmp_path / "run"))
    assert images.images.float().mean() < 128


def test_resuming_with_other_settings_names_the_field(folder, trained, capsys):
    before = (trained / "config.json").read_bytes()
    words = train_words(folder, trained, "--resume", "--inner-lr", "0.1")
    fails_with(capsys, words, "--inner-lr 0.4, not 0.1")
    fails_with(capsys, train_words(folder, trained), "holds a run already: continue it with --resume")
    assert (trained / "config.json").read_bytes() == before


def test_a_sample_has_images_to_fit_predict_and_score_and_replaces_nothing(tmp_path, capsys):
    assert run(["data", "sample", str(tmp_path), "--json"]) == 0
    folders = [Path(name) for name in last_json(capsys.readouterr().out)["folders"]]
    assert [len(list(folder.rglob("*.png"))) for folder in folders] == [50, 10, 100]
    assert {file.parent.name for file in folders[2].rglob("*.png")} == set("0123456789")
    assert len({file.read_bytes() for file in tmp_path.rglob("*.png")}) == 160
    fails_with(capsys, ["data", "sample", str(tmp_path)], "my-images exists already: name another folder")


def test_python_dash_m_works():
    with process(["--version"]) as running:
        out, _ = running.communicate(timeout=60)
    assert (running.returncode, out.split()[0]) == (0, "metacontrast")
