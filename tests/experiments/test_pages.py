"""The committed pages of figures are what the committed records give."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from metacontrast.cli.main import run
from metacontrast.experiments.authors_models import load_authors
from metacontrast.experiments.budgets import answers_of, rank_correlations
from metacontrast.experiments.figure_records import load_records
from metacontrast.experiments.figures import AUTHORS_TESTS, FIGURES
from metacontrast.experiments.measurement import Table
from metacontrast.experiments.pages import judge_figure
from metacontrast.experiments.rows import describe_interval
from metacontrast.experiments.setting import Setting

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory) -> Path:
    pages = tmp_path_factory.mktemp("pages")
    places = ("--records", str(ROOT / "results" / "figures"), "--pages", str(pages))
    others = [name for name, spec in FIGURES.items() if not spec.of_paper and (PAGES / f"{name}.md").exists()]
    for name in ("all", *others):
        assert run(["figure", name, "--redraw", *places]) == 0
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
    assert told[0] in " ".join(readme.split())
    linked = [re.sub(r"\]\((.*?)\.md\) \|.*", r"](docs/figures/\1.md) |", row) for row in rows]
    assert len(linked) > 30
    shown = [line for line in readme.splitlines() if line.startswith("| ") and "](docs/figures/" in line]
    assert len(shown) == 6
    assert set(shown) <= set(linked)
    supported = [row for row in rows if "| [supported](" in row]
    ours, random = (sum(text in row for row in supported) for text in ("| (Not in the paper.)", "| random features"))
    told = f"{ours} of the supported claims are not in the paper, and {random} are about random features"
    assert told in " ".join(readme.split())
    held = [corrected_p(rows[linked.index(row)]) <= 0.05 for row in shown]
    assert held == [True, True, False, False, False, False], "the first two of the README's rows hold, and it says so"


def corrected_p(row: str) -> float:
    """The p value with Holm's correction in a row of the summary; 1 where there is none."""
    found = re.search(r"\(p [<=] (\d?\.\d+)\)", row)
    return 1.0 if found is None else float(found[1])


def test_what_later_papers_claim_has_the_verdicts_of_the_figures():
    """A row for every claim; until the runs of `family` are made its rows say so."""
    page = (ROOT / "docs" / "later-claims.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 12
    waiting = [row for row in rows if "| `family`: " in row]
    assert len(waiting) == 7
    has_run = (PAGES / "family.md").exists()
    assert all(row.endswith("| not run yet |") != has_run for row in waiting)
    assert all(claim.outcome == "supported" for claim in verdicts_of("linear-representations"))
    tested = [row for row in rows if "| [`steps-at-test`]" in row]
    told = [claim.outcome for claim in verdicts_of("steps-at-test")]
    assert [row.split("| ")[-1].removesuffix(" |").split(":")[0] for row in tested] == told


def test_what_is_told_of_ways_to_classify_is_what_was_found():
    """Verdicts, how many gains are the same, and the range of the rank correlations."""
    page = (ROOT / "docs" / "later-claims.md").read_text(encoding="utf-8")
    told = next(row for row in page.splitlines() if "| [`answers-at-test`]" in row).split("| ")[-1]
    verdicts = verdicts_of("answers-at-test")
    assert {each.outcome for each in verdicts} == {told.split(":")[0]}
    outcomes = [judged.outcome for each in verdicts for judged in each.judged]
    assert f"{outcomes.count('supported')} of {len(outcomes)} gains are the same" in told
    test = FIGURES["answers-at-test"].authors_test
    assert test is not None
    table = Table([], load_authors(ROOT / "results" / "figures", [test]))
    ranks = [float(row[-1]) for row in rank_correlations(test.kind, [*test.curves], table, answers_of(test))]
    assert f"(rank correlations {min(ranks):.2f} to {max(ranks):.2f}, ".replace("0.", ".") in told
    by_loss = next(each for each in verdicts[0].judged if "Eq. 7" in each.comparison.label)
    assert describe_interval(by_loss).split(" points")[0].removeprefix("−") in told


def verdicts_of(name: str):
    spec, records = FIGURES[name], ROOT / "results" / "figures"
    found = replace(load_records(records / "runs", spec, Setting()), authors=load_authors(records, AUTHORS_TESTS))
    return judge_figure(spec, found)[1]
