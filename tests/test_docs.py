"""Every code block of the README and the docs runs: Python as it stands, commands shrunk to a few updates."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from classifier_kit import grey_images, tiny_model_folder, write_folder
from metacontrast import FewShotClassifier
from metacontrast.classifier.export import export
from metacontrast.cli.main import build_parser, run
from metacontrast.experiments.figures import FIGURES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHRINK = {
    "train": ["--updates", "2", "--eval-every", "0", "--eval-episodes", "3", "--meta-batch", "2"],
    "demo": ["--updates", "2", "--eval-every", "0", "--eval-episodes", "3", "--meta-batch", "2", "--episodes", "3"],
    "evaluate": ["--episodes", "3"],
    "explain": ["--episodes", "3"],
    "figure": ["--scale", "smoke", "--jobs", "1"],
}
NOT_HERE = ("mini-imagenet", "data get", "--runner ray")
REAL = re.compile(r"(omniglot|cifar-fs)(?!-conv4)")


@pytest.fixture
def own_images(tmp_path, monkeypatch) -> Path:
    """A folder with what the pages take for granted: one's own images, new ones, models, an exported classifier."""
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


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, own_images, capsys):
    if "onnxruntime" in code:
        export(FewShotClassifier("omniglot-conv4").fit("my-images").state_, Path("classifier.onnx"), "onnx")
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_run_in_their_order(page, own_images, capsys):
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
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
                if "--until" in words:  # the length of a page's example; here it is `smoke`
                    del words[words.index("--until") : words.index("--until") + 2]
            assert run([*words[1:], *SHRINK.get(words[1], [])]) == 0, line
        case _:
            assert words[:2] in (["pip", "install"], ["git", "clone"], ["cd", "metacontrast"]), f"not tested: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
