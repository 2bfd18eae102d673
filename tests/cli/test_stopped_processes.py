"""Trainings in processes that are killed at random moments or stopped for a while."""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metacontrast.cli.main import run
from metacontrast.training import checkpoint
from metacontrast.training.records import read_records

WORDS = [
    *("--image-size", "28", "--filters", "4", "--ways", "3", "--queries", "3", "--meta-batch", "2", "--workers", "1"),
    *(
        "--eval-every",
        "9",
        "--eval-episodes",
        "4",
        "--inner-steps",
        "1",
        "--checkpoint-every",
        "3",
        "--keep-every",
        "8",
    ),
    *("--head", "learned", "--updates", "30"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for c in range(4):
            (root / split / f"{split}{c}").mkdir(parents=True)
            for i in range(5):
                pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"{split}{c}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def start(folder) -> Callable[[Path], ForkServerProcess]:
    """A function that starts a training in a process of its own, forked from one that has imported everything."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metacontrast.cli.train", "metacontrast.cli.main"])

    def start_process(out: Path) -> ForkServerProcess:
        process = context.Process(target=run, args=(words(folder, out),))
        process.start()
        return process

    return start_process


def words(folder: Path, out: Path) -> list[str]:
    return ["train", "--dataset", f"folder:{folder}", *WORDS, "--resume", "--out", str(out)]


@pytest.fixture(scope="module")
def whole(folder, start, tmp_path_factory) -> tuple[Path, float]:
    """The uninterrupted training, and how many seconds it takes."""
    for name in ("first", "second"):
        out = tmp_path_factory.mktemp(name) / "run"
        began = time.monotonic()
        start(out).join()
    return out, time.monotonic() - began


def assert_same(one: Path, two: Path) -> None:
    """Every byte of the model, the state and the kept copies, and every record."""
    names = {file.relative_to(one) for file in one.rglob("*.safetensors")}
    assert names == {file.relative_to(two) for file in two.rglob("*.safetensors")}
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names if "before" not in name.stem)
    assert read_records(one / "records.jsonl")[1:] == read_records(two / "records.jsonl")[1:]


def is_finished(out: Path) -> bool:
    with contextlib.suppress(ValueError):
        return checkpoint.load(out / "state.safetensors").facts["updates"] == 30
    return False


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_it_is_the_uninterrupted_training(kills, start, whole, tmp_path):
    """`kill -9` in trainings one after another until so many have met their end; each must come to the same bytes."""
    expected, seconds = whole
    moments = random.Random(0)
    number = killed = 0
    while killed < kills:
        out = tmp_path / str(number)
        while not is_finished(out):
            process = start(out)
            if killed < kills:
                process.join(moments.uniform(0, seconds))
                process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        assert_same(out, expected)
        assert not list(out.rglob("*.part"))
        number += 1


@contextlib.contextmanager
def stopped(process: ForkServerProcess) -> Iterator[None]:
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_a_stopped_process_keeps_its_folder_and_goes_on(start, folder, whole, tmp_path, capsys):
    """Meanwhile a second training of the same folder is told so and changes nothing."""
    out = tmp_path / "run"
    process = start(out)
    while not (out / "state.safetensors").exists():
        time.sleep(0.01)
    with stopped(process):
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        assert run(words(folder, out)) == 2
        assert f"another training is writing to {out}: wait for it" in capsys.readouterr().err
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    process.join()
    assert process.exitcode == 0
    assert_same(out, whole[0])
