"""The documentation site: its pages, links, references and tutorials; the build itself where Sphinx is installed."""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metacontrast
from metacontrast import theory
from metacontrast.cli.main import build_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for kind in ("md", "rst") for page in DOCS.rglob(f"*.{kind}") if "_build" not in page.parts]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
LISTED = re.compile(r"^- \[[^]]+\]\(([^):#]+)\)", re.MULTILINE)
LINK = re.compile(r"\]\(((?!http)[^)#\s]*)(?:#([^)\s]*))?\)")


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, tutorials = load("reference"), load("tutorials")


def anchors(page: Path) -> set[str]:
    """What a repository host makes of a page's headings, fenced code left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def markdown(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return (
        "\n\n".join(cell.source for cell in tutorials.cells(text) if not cell.is_code) if page.suffix == ".py" else text
    )


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(p for p in PAGES if p.suffix == ".md"), *TUTORIALS], ids=lambda page: page.name
)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target, anchor in LINK.findall(markdown(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def test_every_page_is_listed_in_one_page_of_contents():
    contents = re.search(r"contents_pages = \[(.*?)\]", (DOCS / "conf.py").read_text(encoding="utf-8"), re.DOTALL)[1]
    names = re.findall(r'"([\w-]+)"', contents)
    listed = [DOCS / target for name in names for target in LISTED.findall((DOCS / f"{name}.md").read_text("utf-8"))]
    assert sorted([*listed, DOCS / "index.md"]) == sorted([*PAGES, *TUTORIALS])


def test_every_public_name_is_in_the_reference():
    groups = reference.public_names()
    names = [name for group in groups.values() for name in group]
    assert {name for name in names if "." not in name} | {"__version__", "theory", "encoders", "methods"} == {
        *metacontrast.__all__
    }
    assert {name.removeprefix("theory.") for name in groups["theory"]} == {*theory.__all__}
    assert {"encoders.conv4", "encoders.resnet12", "encoders.mlp"} <= {*groups["encoders"]}
    shown = [
        each for page in (DOCS / "api").glob("*.rst") for each in re.findall(r"public-names:: (.+)", page.read_text())
    ]
    assert sorted(shown) == sorted(groups)


def test_every_command_and_option_is_in_the_reference():
    parsers = dict(reference.subcommands(build_parser()))
    pieces = re.split(r"^(metacontrast .+)\n-+$", reference.command_page(build_parser()), flags=re.MULTILINE)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    assert {*sections} == {*parsers} >= {"metacontrast train", "metacontrast fit", "metacontrast data get"}
    for name, parser in parsers.items():
        for action in parser._actions:
            if action.dest != "help" and action.help != argparse.SUPPRESS:
                assert all(each in sections[name] for each in [*action.option_strings, *(action.choices or ())]), action


def run_tutorial(tutorial: Path, size: str | None = None) -> dict:
    """What it leaves behind; `size` takes the place of its numbers of updates and tasks."""
    source = tutorial.read_text(encoding="utf-8")
    if size:
        sizes = re.compile(r"^[A-Z_, ]*UPDATES.* = .*$", re.MULTILINE)
        source = sizes.sub(lambda line: re.sub(r"\b\d\d+\b", size, line[0]), source)
    outputs, names = tutorials.run(source, str(tutorial))
    assert any(output.pictures for output in outputs)
    return names


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(tutorial):
    run_tutorial(tutorial, size="4")


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_shows_what_it_says(tutorial):
    CHECKS[tutorial.stem](run_tutorial(tutorial))


def gradients_are_equal(names):
    assert names["difference"] < 1e-12


def interference_falls(names):
    assert names["shares"] == sorted(names["shares"], reverse=True)
    assert names["shares"][0] > 0.5
    assert names["shares"][-1] == 0
    for seen in names["history"]["zeroing trick"]:
        assert seen["interference_share"] == seen["wrong_sign_share"] == 0
        assert abs(seen["remainder_share"]) < 1e-3


def a_class_was_added(names):
    assert [*names["classifier"].classes_] == ["dahlia", "lake", "pagoda", "sky", "tree"]
    assert names["correct"] >= 0.8 * len(names["asked"])


def learned_steps_beat_one_size(names):
    assert names["found"]["MAML"][1].mean() < names["found"]["random start"][1].mean()
    assert names["found"]["Meta-SGD"][1].mean() < names["found"]["MAML"][1].mean()


def verdicts_follow_from_intervals(names):
    verdict = names["verdict"]
    assert [verdict("above", *ends, 0.0) for ends in ((1, 2), (-1, 0), (-1, 2))] == [
        "supported",
        "not supported",
        "inconclusive",
    ]
    assert [verdict("alike", *ends, 1.0) for ends in ((-0.5, 0.5), (1, 2), (0, 2))] == [
        "supported",
        "not supported",
        "inconclusive",
    ]
    assert names["estimates"]["zeroing helps after 1 step"].mean > 0


CHECKS = {
    "maml_from_scratch": gradients_are_equal,
    "why_the_zero_matters": interference_falls,
    "your_photographs": a_class_was_added,
    "your_encoder_and_loss": learned_steps_beat_one_size,
    "judge_a_claim": verdicts_follow_from_intervals,
}


def test_cells_keep_their_lines_and_their_text():
    source = "# before\n# %% [markdown]\n# # Title\n\n# %%\nx = 1\nprint(x)\n# %%\nx + 1\n"
    first, second, third = tutorials.cells(source)
    assert (first.is_code, second.is_code, third.is_code) == (False, True, True)
    assert (second.line, third.line) == (6, 9)
    assert tutorials.run(source, "made here")[0] == [("1\n", []), ("", [])]
    with pytest.raises(ZeroDivisionError) as raised:
        tutorials.run("# %%\n\n1 / 0", "made here")
    assert raised.traceback[-1].lineno + 1 == 3


def test_quoted_messages_are_those_of_the_code():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", source)
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^> (.+)$", page, re.MULTILINE)
    assert len(quoted) == 3
    for message in quoted:
        pieces = re.split(r"omniglot|…|update 1|tasks 0 to 1|images_background\S*", message)
        assert all(piece.strip(" ,:/") in source for piece in pieces), message


def test_speed_of_the_comparison_is_the_measured_one():
    measured = (DOCS / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\(\w\) .*?) \|(.*)$", (DOCS / "comparison.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 4
    for label, cells in rows:
        row = re.search(rf"^\| {re.escape(label)}, first order \|(.*)$", measured, re.MULTILINE)[1]
        ours, _, *others = (cell.split()[0] for cell in row.split("|")[:6])
        assert [cell.strip() for cell in cells.split("|")[:5]] == [ours, *others]


def sphinx() -> str | None:
    """A Python that has Sphinx: this one, or that of `make docs`."""
    own = ROOT / ".venv-docs" / "bin" / "python"
    return sys.executable if importlib.util.find_spec("sphinx") else str(own) if own.exists() else None


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The built site."""
    if sphinx() is None:
        pytest.skip("Sphinx is not installed: make docs installs it")
    out = tmp_path_factory.mktemp("site")
    command = [
        sphinx(),
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(out / "doctrees"),
        str(DOCS),
        str(out / "html"),
    ]
    built = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site_builds_and_asks_no_other_host(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*\s(?:src|href)="([^"]+)"', text)
        assert not [each for each in loaded if re.match("https?:|//", each)], page
    theory_page = (site / "theory.html").read_text(encoding="utf-8")
    assert theory_page.count("<math") > 50
    assert "merror" not in theory_page
    for name in reference.public_names()["MAML"]:
        assert f'id="metacontrast.{name}"' in (site / "api" / "maml.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1440])
def test_no_page_scrolls_sideways_or_lacks_a_picture_and_search_works(site, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this computer")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for file in sorted(site.rglob("*.html")):
            if "_static" not in file.parts:
                page.goto(file.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file
                missing = (
                    "[...document.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)"
                )
                assert page.evaluate(missing) == [], file
        page.goto((site / "search.html").as_uri() + "?q=interference")
        page.wait_for_selector("#search-results li a")
        assert not [each for each in asked if each.startswith("http")]
        browser.close()
