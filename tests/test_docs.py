"""Every code block of the README and the docs runs, and every example of `--help`: Python as it stands, commands shrunk
to a few updates.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from PIL import Image

from classifier_kit import grey_images, tiny_model_folder, write_folder
from metacontrast import FewShotClassifier
from metacontrast.classifier.export import export
from metacontrast.cli.main import build_parser, run
from metacontrast.experiments.figures import FIGURES
from metacontrast.methods import METHODS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PACKAGE = ROOT / "src" / "metacontrast"
WITH_EXAMPLES = [
    ".".join(("metacontrast", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]
SHRINK = {
    "train": ["--updates", "2", "--eval-every", "0", "--eval-episodes", "3", "--meta-batch", "2"],
    "demo": ["--updates", "2", "--eval-every", "0", "--eval-episodes", "3", "--meta-batch", "2", "--episodes", "3"],
    "evaluate": ["--episodes", "3"],
    "explain": ["--episodes", "3"],
    "figure": ["--scale", "smoke", "--jobs", "1"],
}
TEST_CODE = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
NOT_HERE = ("mini-imagenet", "data get", "--runner ray", "--authors-models")
REAL = re.compile(r"(omniglot|cifar-fs)(?!-conv4)")


@pytest.fixture
def own_images(tmp_path, monkeypatch, undrawn_explanations) -> Path:
    """A folder with what the pages take for granted: labelled and new images, models, an exported classifier."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "my-images", *grey_images())
    write_folder(tmp_path / "labelled-images", *grey_images(seed=2))
    write_folder(tmp_path / "many-classes", *grey_images(classes=12))
    for number, image in enumerate(grey_images(seed=1)[0][::5], start=1):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "new-images").mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(tmp_path / "new-images" / file.name)
    for name in ("omniglot-conv4", "cifar-fs-conv4"):
        tiny_model_folder(tmp_path / name)
    return tmp_path


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        codes = [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]
        found += [pytest.param(code, id=f"{page.name}-{i}") for i, code in enumerate(codes)]
    return found


@pytest.fixture
def tracked(monkeypatch) -> list[dict]:
    """What stand-ins for two trackers of experiments are given."""
    found: list[dict] = []
    log = SimpleNamespace(log=lambda numbers, step: found.append(numbers))
    wandb = SimpleNamespace(init=lambda project, config: nullcontext(log))
    mlflow = SimpleNamespace(start_run=nullcontext, log_params=found.append, log_metrics=log.log)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, own_images, tracked, capsys):
    if "onnxruntime" in code:
        export(FewShotClassifier("omniglot-conv4").fit("my-images").state_, Path("classifier.onnx"), "onnx")
    if "tensorboard" in code:
        pytest.importorskip("tensorboard")
    with patch.dict(METHODS):  # a page adds one
        exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})
    assert ("import wandb" in code or "import mlflow" in code) == bool(tracked)
    assert not tracked or {"training/loss", "maml/zeroed/1 steps"} <= set().union(*tracked)
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_commands_of_a_page_run_in_their_order(page, own_images, capsys):
    for line in commands_of(page).replace("\\\n", " ").splitlines():
        run_line(line)
    capsys.readouterr()


def commands_of(page: Path) -> str:
    return "".join(code for language, code in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "sh")


def test_the_readme_runs_in_a_fresh_shell(tmp_path):
    """Its commands in their order, pasted into a shell that knows `metacontrast` only once it is activated.

    `make` only says what it would do, nothing is downloaded, and flags for a short training are added.
    """
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    short = "".join(f'{name}) set -- "$@" {shlex.join(flags)} ;; ' for name, flags in SHRINK.items())
    command = programs / "metacontrast"
    command.write_text(
        f"""#!/bin/sh
case "$1 $2" in "data get") exit 0 ;; esac
case "$*" in *runs/omniglot*) test -n "$METACONTRAST_DATA" || exit 0 ;; esac
case "$1" in {short}esac
exec {shlex.quote(str(Path(sys.executable).with_name("metacontrast")))} "$@"
"""
    )
    command.chmod(0o755)
    make = f'make() {{ command make --dry-run -C {shlex.quote(str(ROOT))} "$@"; }}'
    script = "\n".join(["set -e", make, commands_of(README)])
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sample" / "my-classifier" / "score.html").is_file()


def test_examples_of_the_help_run(own_images, capsys):
    parsers = {name: parser for action in build_parser()._actions for name, parser in (action.choices or {}).items()}
    examples = [line for parser in parsers.values() for line in (parser.epilog or "").splitlines()[1:]]
    assert len(examples) > 20
    for line in examples:
        run_line(line)
    capsys.readouterr()


def run_line(line: str) -> None:
    words = [w for w in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", w)]
    if words[:1] == ["torchrun"]:  # what `test_ranks` runs
        words = words[words.index("metacontrast") :]
    match words[:1]:
        case []:
            return
        case ["make"]:
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        case ["python"]:
            assert (ROOT / words[1]).is_file(), line
        case ["metacontrast"]:
            if any(name in line for name in NOT_HERE):
                return
            if REAL.search(line) and "METACONTRAST_DATA" not in os.environ:
                return
            if words[1] == "play":  # `tests/play` opens it; this is what its Save writes
                build_parser().parse_args(words[1:])
                FewShotClassifier("omniglot-conv4").fit("my-images").save("play-classifiers/classifier-1")
                return
            if words[1] == "figure":  # `test_figures` trains them all
                assert words[2] in {"all", *FIGURES}, line
                words[2] = "comparing-features"
                for flag in {"--until", "--claims", "--seeds"} & {*words}:  # they choose runs, and it has none
                    del words[words.index(flag) : words.index(flag) + 2]
            if "--help" in words:
                with pytest.raises(SystemExit, match=r"^0$"):
                    run(words[1:])
                return
            narrow = words[1] in ("train", "demo") and not {"--encoder", "--start", "--filters"} & {*words}
            assert run([*words[1:], *SHRINK.get(words[1], []), *(["--filters", "4"] if narrow else [])]) == 0, line
        case _:
            known = (["pip", "install"], ["source", ".venv/bin/activate"], ["git", "clone"], ["cd", "metacontrast"])
            assert words[:2] in known, f"not tested: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    bases = (ROOT, ROOT / "src", ROOT / "src" / "metacontrast", page.parent)
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|jsonl|toml))`", text):
        assert "NAME" in name or any((base / name).is_file() for base in bases), name
    for name in set(re.findall(r"`(test_[a-z]+_\w+)(?:\[[\w ]+\])?`", text)):
        assert f"def {name}(" in TEST_CODE, name


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_show(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed
