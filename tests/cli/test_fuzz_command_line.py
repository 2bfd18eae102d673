"""Invented command lines: each ends in success, or with exit 2 and one line that says why; never in a traceback."""

import argparse
import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier_kit import tiny_model_folder
from metacontrast.cli.main import build_parser, run

JUNK = ["", " ", "x", "none", "nan", "inf", "-inf", "1e400", "-1", "0", "1", "2", "3", "0.5", "1,2", ",", "٣", "%s"]
HUGE = ["1" + 30 * "0", "-1" + 30 * "0", str(2**31), str(2**63), "1e30"]
VARIANTS = ["head=zeroed,learned", "head=", "outer-lr=.1,0.1", "outer-lr=nan", "pool-size=none,2", "seed=1", "="]
# A number as large as these would be an honest wish for a long training, a large batch or a large network.
HONEST_WISHES = {
    *("--updates", "--meta-batch", "--inner-steps", "--eval-episodes", "--eval-steps", "--episodes", "--steps"),
    *("--filters", "--folds", "--pool-size"),
}
# Trains a network of millions of weights, or compiles one for a minute.
TOO_SLOW = {"resnet12", "compiled-loop", "compiled-vmap"}
# Makes the commands that would take minutes fail at the end of their line.
UNKNOWN = "--no-such-flag"
NOT_TRIED = {"--help", "--help-all", "--version", "--out", "--pictures"}


class Place(NamedTuple):
    """What the commands find."""

    root: Path
    out: Path

    def paths(self) -> list[str]:
        names = ("images", "run", "model", "classifier", "file", "nothing", "images/train/0/0.png")
        return [str(self.root / name) for name in names]

    def words(self) -> dict[str, list[str]]:
        """Of each command the words that make it succeed, soon; of those that take long, words that fail late."""
        images, run_path, out = f"folder:{self.root / 'images'}", str(self.root / "run"), str(self.out)
        return {
            "train": ["--dataset", images, "--out", out, *TINY],
            "evaluate": [run_path, "--episodes", "2", "--workers", "1"],
            "explain": [str(self.root / "nothing"), "--episodes", "2", "--out", out],
            "data check": [images],
            "data list": [],
            "fit": [str(self.root / "images" / "train"), "--model", str(self.root / "model"), "--out", out],
            "predict": [str(self.root / "classifier"), str(self.root / "images" / "test" / "0" / "0.png")],
            "convert": [str(self.root / "file"), "--out", out],
            "demo": ["--out", out, UNKNOWN],
            "figure": ["all", UNKNOWN],
        }


TINY = [
    *("--image-size", "28", "--filters", "2", "--ways", "2", "--queries", "2", "--meta-batch", "1", "--updates", "1"),
    *("--eval-every", "0", "--eval-episodes", "2", "--eval-steps", "1", "--inner-steps", "1", "--workers", "1"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for c in range(3):
            (root / "images" / split / str(c)).mkdir(parents=True)
            for i in range(5):
                pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / split / str(c) / f"{i}.png")
    (root / "file").write_text("mine")
    tiny_model_folder(root / "model")
    words = Place(root, root / "run").words()
    assert run(["train", *words["train"]]) == 0
    assert run(["fit", *words["fit"][:-1], str(root / "classifier")]) == 0
    return root


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = build_parser()
    for word in command.split():
        (choices,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = choices[word]
    return parser


FLAGS = {
    command: [a for a in parser_of(command)._actions if a.option_strings and a.option_strings[-1] not in NOT_TRIED]
    for command in Place(Path(), Path()).words()
}


@st.composite
def flag_words(draw, command: str, paths: list[str]) -> list[str]:
    """A flag of the command, mostly with a value that it may or may not take."""
    action = draw(st.sampled_from(FLAGS[command]))
    flag = draw(st.sampled_from(action.option_strings))
    if action.nargs == 0 and draw(st.integers(0, 9)):
        return [flag]
    values = [value for value in JUNK + paths + [str(c) for c in action.choices or ()] if value not in TOO_SLOW]
    if flag == "--vary":
        values += 5 * VARIANTS
    if flag not in HONEST_WISHES:
        values += HUGE
    return [flag, draw(st.sampled_from(values))] if draw(st.integers(0, 9)) else [flag]


@st.composite
def command_lines(draw, place: Place) -> list[str]:
    """The words of a command, some flags more, and now and then a word less."""
    command = draw(st.sampled_from([*4 * ["train"], *2 * ["evaluate"], *place.words()]))
    words = list(place.words()[command])
    for _ in range(draw(st.integers(0, 4))):
        words += draw(flag_words(command, place.paths()))
    if words and UNKNOWN not in words and not draw(st.integers(0, 9)):
        words.pop(draw(st.integers(0, len(words) - 1)))
    return [*command.split(), *words]


def outcome(words: list[str]) -> tuple[int | str | None, str, str]:
    """Exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run(words)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def is_success_or_one_line(words: list[str]) -> bool:
    """Exit 1 is for `predict` alone, when some images could not be read and the others are answered."""
    status, _, err = outcome(words)
    complaints = [line for line in err.splitlines() if "error:" in line]
    is_refused = status == 2 and len(complaints) == 1 and err.endswith(complaints[0] + "\n")
    return status == 0 or is_refused or (status == 1 and words[0] == "predict" and "could not be read" in err)


@pytest.mark.parametrize("cases", [40, pytest.param(1_000, marks=pytest.mark.slow)])
def test_every_command_line_succeeds_or_says_in_one_line_why_not(cases, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, number = Place(root, tmp_path / "out"), iter(range(10**9))

    def body(words: list[str]) -> None:
        fresh = str(tmp_path / str(next(number)))
        assert is_success_or_one_line([fresh if word == str(place.out) else word for word in words])

    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=cases, deadline=None, derandomize=True, suppress_health_check=quiet)
    given(command_lines(place))(limits(body))()
