"""The pages of figures that come along are what the records that come along give."""

import re
from pathlib import Path

import pytest

from metacontrast.cli.main import run

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory) -> Path:
    pages = tmp_path_factory.mktemp("pages")
    assert (
        run(["figure", "all", "--redraw", "--records", str(ROOT / "results" / "figures"), "--pages", str(pages)]) == 0
    )
    return pages


def test_pages_are_redrawn_from_their_records(redrawn):
    """Text to the letter; pictures, whose bytes depend on the fonts' rendering, by name."""
    assert {file.name for file in redrawn.iterdir()} == {file.name for file in PAGES.iterdir()}
    for page in redrawn.glob("*.md"):
        assert page.read_text(encoding="utf-8") == (PAGES / page.name).read_text(encoding="utf-8"), page.name


def test_the_readme_shows_the_summary(redrawn):
    """How many claims have which verdict, and six of the rows up to their verdict, as the summary page has them."""
    summary = (redrawn / "README.md").read_text(encoding="utf-8")
    rows = [line for line in summary.splitlines() if line.startswith("| ") and ".md)" in line]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.search(r"Of \d+ claims: [^.]*", summary)
    assert told is not None
    assert told[0] in readme
    linked = [re.sub(r"\]\((.*?)\.md\) \|.*", r"](docs/figures/\1.md) |", row) for row in rows]
    assert len(linked) > 30
    shown = [line for line in readme.splitlines() if line.startswith("| ") and "](docs/figures/" in line]
    assert len(shown) == 6
    assert set(shown) <= set(linked)
