"""Numbers that the README and the docs quote from `results/` are those of the records, rounded as in the text."""

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import mean

import pytest

import published_accuracies
from metacontrast.experiments.authors import find_numbers
from metacontrast.experiments.claims import Accuracy
from metacontrast.experiments.figures import find_figures
from metacontrast.experiments.runs import all_runs, estimate_seconds
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import AuthorsCurve
from metacontrast.methods import METHODS

ROOT = Path(__file__).parents[1]
CASES = ("a", "a0", "b", "b0", "c", "d", "d84")
OURS = ("ours", "ours-one-worker")
IN_README = ("a", "a0", "b", "c", "d")
PEERS = ("plain", "higher", "torchopt", "metalearn-sequential")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def records(name: str) -> list[dict]:
    lines = (ROOT / "results" / name).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record.get("kind") != "header"]


def rows_of(page: str, head: str) -> list[list[str]]:
    """The cells of a table's rows below its head, which begins with `head`."""
    table = text_of(page).partition(f"\n| {head}")[2].partition("\n\n")[0].splitlines()[2:]
    assert table, head
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table]


def percent(value: float) -> str:
    """A share in per cent with one digit after the point."""
    return str((100 * Decimal(str(value))).quantize(Decimal("0.1"), ROUND_HALF_UP))


@pytest.fixture(scope="module")
def timings() -> dict[tuple[str, str, str], dict]:
    """The last measurement of every case, order and engine."""
    return {(row["case"], row["order"], row["engine"]): row for row in records("bench.jsonl")}


def fastest(timings, case: str, order: str) -> float:
    found = (timings.get((case, order, peer), {}).get("seconds") for peer in PEERS)
    return min(seconds for seconds in found if seconds is not None)


def test_the_table_of_speed(timings):
    rows = rows_of("docs/performance.md", "seconds (peak MB)")
    keys = [(case, order) for case in CASES for order in ("first", "second")]
    for (case, order), (name, *cells) in zip(keys, rows, strict=True):
        assert name.startswith(f"({case})")
        assert order in name
        ours, floor = timings[case, order, "ours"], timings[case, order, "floor"]["seconds"]
        for engine, cell in zip((*OURS, *PEERS), cells, strict=False):
            row = timings.get((case, order, engine))
            if cell != "–":
                assert row is not None
                assert cell == f"{row['seconds']:.3f} ({row['peak_mb']:.0f})", (name, engine)
        ratios = (floor, fastest(timings, case, order) / ours["seconds"], ours["seconds"] / floor)
        assert [float(cell) for cell in cells[-3:]] == pytest.approx(ratios, abs=6e-3), name


def test_the_readmes_table_of_speed(timings):
    for case, (_, here, other, times) in zip(IN_README, rows_of("README.md", "5-way 1-shot"), strict=True):
        ours = {order: timings[case, order, "ours"]["seconds"] for order in ("first", "second")}
        best = {order: fastest(timings, case, order) for order in ours}
        assert here == f"{ours['first']:.2f} s"
        assert other == f"{best['first']:.2f} s"
        assert times == ", ".join(f"{best[order] / ours[order]:.1f}" for order in ours)


def test_the_range_of_memory(timings):
    keys = [(case, order) for case in CASES for order in ("first", "second")]
    least = [min(timings[*key, peer]["peak_mb"] for peer in PEERS if (*key, peer) in timings) for key in keys]
    ratios = [timings[*key, "ours"]["peak_mb"] / peer for key, peer in zip(keys, least, strict=True)]
    told = f"{min(ratios):.1f} to {max(ratios):.1f} times that of the l"
    assert told in text_of("README.md")
    assert told in text_of("docs/performance.md")


def test_the_table_of_optimizations():
    measured = records("tricks.jsonl")
    for record, (name, *cells) in zip(measured, rows_of("docs/performance.md", "seconds | a, first"), strict=True):
        assert name.strip("`+ ") in record["setting"]
        values = [record[f"{case}, {order}"] for case in "abcd" for order in ("first", "second")]
        assert cells == [f"{value:.3f}" for value in values]


def test_the_readmes_shares_of_the_gradient():
    for record, (_, *cells) in zip(
        records("omniglot-explain.jsonl"), rows_of("README.md", "head in train"), strict=True
    ):
        found = record["scalars"]
        contrastive = found["contrastive_query_share"] + found["contrastive_support_share"]
        interference = found["interference_share"] + found["head_curvature_share"]
        values = (contrastive, interference, found["remainder_share"], found["wrong_sign_share"])
        for cell, value in zip(cells, values, strict=True):
            digits = len(cell.partition(".")[2].rstrip("% "))
            assert float(cell.rstrip("% ")) == round(100 * value, digits), cell


def test_how_far_omniglot_is_from_the_authors_numbers():
    curves = {"random head": "random init", "head x 0.5": "random init x0.5"}
    curves |= {"zero init": "zero init", "zeroing trick": "zeroing trick"}
    gaps = []
    for head, name in curves.items():
        numbers = find_numbers(AuthorsCurve("12", f"FOMAML {name}", 1), Accuracy("zeroed", 1))
        found = [row["results"][0]["accuracy"] for row in records("omniglot-released-300.jsonl") if row["head"] == head]
        assert len(found) == 2
        gaps.append(100 * (numbers.at(300)[0] - mean(found)))
    told = f"{min(gaps):.1f} to {max(gaps):.1f} points below the authors' accuracies"
    assert told in " ".join(text_of("README.md").split())


def test_the_table_of_rejections():
    for record, cells in zip(
        records("refusals.jsonl"), rows_of("docs/classifier.md", "classes | `reject`"), strict=True
    ):
        groups = (record[name] for name in ("known", "same alphabets", "other alphabets"))
        shares = [f"{percent(each['mean'])} ± {percent(each['ci95'])} %" for each in groups]
        assert cells == [str(record["ways"]), f"{record['reject']:g}", *shares]


def test_the_tables_of_photographs():
    """The README quotes them; `bench/test_photos.py` compares the page with the records."""
    row = next(record for record in records("photos.jsonl") if record["row"] == "mini-imagenet 5x5")
    told = f"{percent(row['accuracy'])} ± {percent(row['accuracy_ci95'])} % (5 classes, 5 images of each;"
    assert told in text_of("README.md")


def test_own_images():
    """The page has all of them; the README the first, 1-shot."""
    first = records("own-images.jsonl")[0]
    told = f"{percent(first['accuracy'])} ± {percent(first['accuracy_ci95'])} % (20 new characters, 1 image of each)"
    assert told in text_of("README.md")
    text = " ".join(text_of("docs/classifier.md").split())
    for record in records("own-images.jsonl"):
        ways = record["setting"].partition("-")[0]
        assert f"{percent(record['accuracy'])} ± {percent(record['accuracy_ci95'])} % of {ways}" in text
        baseline = f"{percent(record['baseline'])} ± {percent(record['baseline_ci95'])} %"
        difference = f"+{percent(record['difference'])} ± {percent(record['difference_ci95'])}"
        assert re.search(rf"{re.escape(baseline)}, (paired difference )?{re.escape(difference)}", text)


def test_accuracies_of_bundled_models_are_those_of_their_cards():
    """What the page of classifiers says of a model stands on its card; the README quotes the one for photographs."""
    for name, told in (("omniglot-conv4", "93.1 ± 0.4 %"), ("cifar-fs-conv4", "70.1 ± 1.0 %")):
        card = (ROOT / "src/metacontrast/pretrained" / name / "README.md").read_text(encoding="utf-8")
        rounded = [f"{float(a):.1f} ± {float(b):.1f} %" for a, b in re.findall(r"(\d+\.\d+) ± (\d+\.\d+) %", card)]
        assert told in rounded
        assert told in text_of("docs/classifier.md")
    assert told in text_of("README.md")


def test_the_table_of_published_accuracies():
    _, _, *lines = published_accuracies.table(records("published-accuracies.jsonl"))
    expected = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert rows_of("docs/methods.md", "method | published") == expected


def test_the_cost_of_an_update_by_method():
    """The table's first term, at 3 steps, 5 support and 7 query images, is what estimates of time count."""
    rows = {name.strip("`"): cost for name, _, cost, *_ in rows_of("docs/methods.md", "method | what it learns")}
    assert set(rows) == set(METHODS)
    for name, method in METHODS.items():
        cost = rows["maml" if rows[name].startswith("as `maml`") else name]
        term = re.split(r"[;,]| for any", cost)[0].replace("·", "*")
        assert method.cost(3, 5, 7) == eval(term, {"N": 3, "S": 5, "Q": 7}), name


def test_the_cost_of_reproducing_the_whole_paper():
    """What `figure all --scale full --plan` lists; a run counts for the first figure that needs it."""
    groups = [["initialization-and-zeroing", "feature-similarity", "zeroing-at-test"], ["inner-steps"]]
    groups += [["first-and-second-order"], ["exact-reformulation", "dropping-interference-and-noise"]]
    groups += [["channel-memorization"], ["second-order-one-shot", "twenty-five-shots"]]
    seen = {}
    for names, (_, *cells) in zip(groups, rows_of("docs/larger-work.md", "| runs | core-hours"), strict=True):
        figures = [figure for name in names for figure in find_figures(name)]
        runs = {run.key: run for run in all_runs(figures, Setting("full")) if run.key not in seen}
        hours = sum(map(estimate_seconds, runs.values())) / 3600
        assert cells == [str(len(runs)), f"{hours:.0f}", f"{hours / 2:.0f} hours"]
        seen |= runs
    assert seen.keys() == {run.key for run in all_runs(find_figures("all"), Setting("full"))}
    text = " ".join(text_of("docs/larger-work.md").split())
    hours = sum(map(estimate_seconds, seen.values())) / 3600
    updates = dict.fromkeys(("omniglot", "cifar-fs"), 0)
    for run in seen.values():
        updates[run.config.dataset] += run.plan.end
    assert f"lists {len(seen)} runs (" in text
    assert f"{sum(updates.values()) / 1e6:.1f} million updates and about {hours:.0f} core-hours" in text
    assert f"which is {hours / 48:.1f} days on two cores" in text
    assert f"{updates['omniglot']:,} updates on Omniglot and {updates['cifar-fs'] / 1e6:.1f} million on colour" in text
    plans = [run.plan for run in seen.values() if run.plan.what == "accuracy"]
    tasks = sum(plan.evaluation(update).episodes for plan in plans for update in plan.updates)
    assert f"Evaluation takes {tasks / 1e6:.1f} million test tasks" in text
