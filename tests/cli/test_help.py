"""`--help` of every command: groups, a short form and a full one, and defaults that hold."""

import argparse
import dataclasses
import re
import subprocess
import sys

import pytest

from metacontrast.cli.main import build_parser, run
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.training.recipes import RECIPES


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command and verb with its parser."""
    found, waiting = {}, [("", build_parser())]
    while waiting:
        name, parser = waiting.pop()
        found[name.strip()] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [(f"{name} {verb}", each) for verb, each in action.choices.items()]
    return found


COMMANDS = parsers()


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    """The flags that the help lists, whatever others its texts name."""
    entries = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    return {flag for entry in entries for flag in re.findall(r"--[\w-]+", entry)}


@pytest.mark.parametrize("command", COMMANDS)
def test_full_help_has_every_flag(command, capsys):
    parser = COMMANDS[command]
    flags = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    full = help_of(capsys, *command.split(), "--help-all" if "--help-all" in flags else "--help")
    assert flags <= flags_in(full)
    assert "%(" not in full
    assert "%%" not in full


@pytest.mark.parametrize("command", [name for name, parser in COMMANDS.items() if parser._common])
def test_short_help_has_the_common_flags_and_what_is_required(command, capsys):
    parser = COMMANDS[command]
    short = flags_in(help_of(capsys, *command.split(), "--help"))
    known = {action.dest: action for action in parser._actions}
    assert set(parser._common) <= set(known)
    for name, action in known.items():
        is_shown = name in ("help", "help_all", *parser._common) or action.required
        assert (set(action.option_strings) & short != set()) == (is_shown and action.option_strings != []), name
    assert len(short) < 35


@pytest.mark.parametrize("name", RECIPES)
def test_defaults_are_those_of_the_recipe(name, capsys):
    """Also when the recipe comes after `--help`."""
    for words in (["--recipe", name, "--help-all"], ["--help-all", f"--recipe={name}"]):
        assert_defaults(help_of(capsys, "train", *words), RECIPES[name])


def test_defaults_without_a_recipe_are_those_that_train_would_take(capsys):
    text = help_of(capsys, "train", "--dataset", "omniglot", "--shots", "5", "--help-all")
    assert_defaults(text, RECIPES["omniglot-5w5s-released"])
    assert_defaults(help_of(capsys, "train", "--dataset", "folder:here", "--help-all"), RECIPES["glyphs"])


def test_defaults_are_those_of_the_method(capsys):
    """The fields that a method brings, put over the recipe's."""
    text = help_of(capsys, "train", "--method", "protonet", "--help-all")
    assert_defaults(text, with_fields(RECIPES["glyphs"], method="protonet"))


def test_the_demonstration_shows_its_own_defaults(capsys):
    text = " ".join(help_of(capsys, "demo", "--help").split())
    assert "number of outer updates (default: 120)" in text
    assert "comma-separated (default: 1)" in text


def assert_defaults(text: str, config: TrainConfig) -> None:
    text = re.sub(r"(?<=\w)- ", "-", " ".join(text.split()))  # lines may also end after a hyphen
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        shown = ",".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()
        assert f"{field.metadata['help']} (default: {shown})" in text, field.name


def test_flags_of_training_come_in_groups(capsys):
    text = help_of(capsys, "train", "--help")
    titles = ("data", "task", "model", "inner loop", "outer loop", "evaluation", "run", "examples")
    places = [text.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)


def test_an_unknown_recipe_is_one_line_in_help_too(capsys):
    assert run(["train", "--recipe", "omniglot-5w1s", "--help"]) == 2
    assert "unknown recipe 'omniglot-5w1s': did you mean" in capsys.readouterr().err


def test_an_unknown_flag_is_the_commands_error_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        run(["evaluate", "runs/mine", "--eval-steps", "10"])
    line = "metacontrast evaluate: error: unrecognized arguments: --eval-steps 10; did you mean '--steps'? "
    assert capsys.readouterr().err == line + "(see metacontrast evaluate --help)\n"


def test_a_shortened_flag_stands_for_none(capsys, tmp_path):
    """`--lr cosine` would set `--lr-schedule`, where an inner or outer step size may be meant."""
    with pytest.raises(SystemExit, match=r"^2$"):
        run(["train", "--out", str(tmp_path / "run"), "--lr", "cosine"])
    assert "--lr cosine; did you mean --inner-lr or --outer-lr or --lr-schedule?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_command_imports_no_other(tmp_path):
    """`--help` and `--version` import no PyTorch, and `fit --help` no matplotlib."""
    for words, absent in ((["--help"], "torch"), (["fit", "--help"], "matplotlib")):
        code = f"import sys\nfrom metacontrast.cli.main import run\ntry: run({words})\nexcept SystemExit: pass\n"
        code += f"print({absent!r} in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "False"
