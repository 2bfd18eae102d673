"""`metacontrast figure` end to end at smoke scale: every figure is run, drawn, judged, and redrawn from its records."""

import json
import shutil
from pathlib import Path

import pytest

from metacontrast.cli.main import run
from metacontrast.errors import InputError
from metacontrast.experiments.figure_records import read_run_records
from metacontrast.experiments.figures import FIGURES, find_figures
from metacontrast.experiments.setting import Setting

PAPER = {spec.name: spec for spec in find_figures("all")}


slow = pytest.mark.slow  # `test_family.py`, `test_pages.py` and the docs' examples run parts of it


def figure(*words: str) -> int:
    return run(["figure", *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """All figures at smoke scale: records, pages, pictures. The runs go to the session's cache, for other tests."""
    root = tmp_path_factory.mktemp("figures")
    places = ("--records", str(root / "records"), "--pages", str(root / "pages"))
    assert figure("all", "--scale", "smoke", "--jobs", "1", *places) == 0
    return root


def redraw(root: Path, pages: Path, name: str = "all", *words: str) -> int:
    return figure(
        name, "--scale", "smoke", "--redraw", "--records", str(root / "records"), "--pages", str(pages), *words
    )


@slow
def test_every_figure_has_records_a_page_and_pictures(made):
    for name, spec in PAPER.items():
        page = (made / "pages" / f"{name}.md").read_text(encoding="utf-8")
        pictures = list((made / "pages").glob(f"{name}*.png"))
        assert pictures
        assert all(f"]({path.name})" in page for path in pictures)
        for claim in spec.claims(Setting("smoke")):
            assert claim.text in page


@slow
def test_the_summary_links_every_claim(made):
    text = (made / "pages" / "README.md").read_text(encoding="utf-8")
    for name in PAPER:
        assert f"({name}.md)" in text


@slow
def test_redrawing_needs_records_only_and_gives_the_same_pages(made, tmp_path, monkeypatch):
    """No data, no runs: reading images or training would raise."""
    monkeypatch.setattr("metacontrast.experiments.runs.load_evaluation_split", None)
    monkeypatch.setattr("metacontrast.experiments.runs.train_run", None)
    assert redraw(made, tmp_path / "again") == 0
    for page in (made / "pages").iterdir():
        assert (tmp_path / "again" / page.name).read_bytes() == page.read_bytes(), page.name


@slow
def test_smoke_verdicts_decide_nothing_where_training_is_involved(made, tmp_path, capsys):
    assert redraw(made, tmp_path, "inner-steps", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {each["verdict"] for each in found["figures"]["inner-steps"]} == {"not testable yet"}


@slow
def test_illustrations_hold_by_arithmetic(made, tmp_path, capsys):
    for name in ("comparing-features", "crowded-directions"):
        assert redraw(made, tmp_path, name, "--json") == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [each["verdict"] for each in found["figures"][name]] == ["supported"]


@slow
def test_the_papers_protocol_runs_too(tmp_path):
    places = ("--out", str(tmp_path / "runs"), "--records", str(tmp_path), "--pages", str(tmp_path))
    words = ("second-order-one-shot", "--scale", "smoke", "--protocol", "paper", "--jobs", "1")
    assert figure(*words, *places) == 0
    assert len(list((tmp_path / "smoke-paper").glob("glyphs-*.jsonl"))) == 6


def refused(capsys, *words: str) -> str:
    assert figure(*words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metacontrast: error")]
    assert len(error) == 1
    return error[0]


def test_an_unknown_figure_lists_the_names(capsys):
    message = refused(capsys, "figure-12")
    assert all(name in message for name in FIGURES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("all --claims 1", "counts the claims of one figure: name it in place of all"),
        ("inner-steps --claims 9 --plan", "inner-steps has no claim 9: it has 1 to 2"),
        ("inner-steps --claims 1 --redraw", "--redraw trains nothing: leave one of them out"),
        ("inner-steps --until 300 --redraw", "--until says what is trained, and --redraw trains nothing"),
        ("inner-steps --seeds 5 --redraw", "--seeds says what is trained, and --redraw trains nothing"),
        ("inner-steps --claims 1 --authors-models .", "--authors-models trains nothing"),
        ("inner-steps --seeds 5 --authors-models .", "--authors-models trains nothing"),
        ("answers-at-test --until 300", "--until says what is trained, and the figure answers-at-test trains nothing"),
        ("crowded-directions --seeds 5 --plan", "the figure crowded-directions trains nothing"),
        ("inner-steps --redraw --authors-models .", "and --redraw does not: leave one of them out"),
        ("inner-steps --plan --authors-models .", "and --plan does not: leave one of them out"),
        ("inner-steps --seeds 13 --plan", "--seeds 13, but the last verdict is given at 12: ask for no more"),
        ("inner-steps --scale smoke --authors-models .", "and --scale smoke does not: leave one of them out"),
    ],
)
def test_what_has_no_effect_is_refused(capsys, words, message):
    assert message in refused(capsys, *words.split())


@slow
def test_records_of_another_configuration_are_refused(made, tmp_path, capsys):
    """A run's file is found by what decides the run; one that holds something else is not read as it."""
    for source in (made / "records" / "smoke").iterdir():
        header, *rest = source.read_text(encoding="utf-8").splitlines()
        config = json.loads(header)["config"]
        broken = json.loads(header) | {"config": config | {"inner_lr": 0.123}}
        target = tmp_path / "smoke" / source.name
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n".join([json.dumps(broken), *rest]), encoding="utf-8")
    words = ("inner-steps", "--scale", "smoke", "--redraw", "--records", str(tmp_path), "--pages", str(tmp_path))
    assert "is of another configuration" in refused(capsys, *words)


@slow
def test_what_holds_no_records_of_a_run_is_refused(made, tmp_path, capsys):
    for source in (made / "records" / "smoke").iterdir():
        target = tmp_path / "smoke" / source.name
        target.parent.mkdir(exist_ok=True)
        target.write_text("{}\n", encoding="utf-8")
    words = ("inner-steps", "--scale", "smoke", "--redraw", "--records", str(tmp_path))
    assert "holds no records of a run" in refused(capsys, *words)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A page of the runs of one claim, which leaves one of its panels without a curve."""
    root = tmp_path_factory.mktemp("few")
    assert few_again(root) == 0
    return root


def few_again(root: Path, *words: str) -> int:
    places = ("--out", str(root / "runs"), "--records", str(root / "records"), "--pages", str(root / "pages"))
    claim = () if "--redraw" in words else ("--claims", "2", "--jobs", "1")
    return figure("exact-reformulation", "--scale", "smoke", *claim, *places, *words)


def test_a_page_has_no_panel_without_a_curve(few):
    page = (few / "pages" / "exact-reformulation.md").read_text(encoding="utf-8")
    assert page.count("not testable yet") >= 2
    assert len(list((few / "pages").glob("*.png"))) == page.count("![") == 1


def test_heat_maps_are_of_the_curves_that_are_there(tmp_path):
    places = ("--out", str(tmp_path / "runs"), "--records", str(tmp_path), "--pages", str(tmp_path))
    assert figure("feature-similarity", "--scale", "smoke", "--claims", "3", "--jobs", "1", *places) == 0
    assert (tmp_path / "feature-similarity.md").exists()


def test_records_of_another_run_are_not_added_to(few, tmp_path, capsys):
    """A command that need not train reads them as one that redraws does."""
    root = shutil.copytree(few, tmp_path / "few")
    one, two, *_ = sorted((root / "records" / "smoke").glob("*.jsonl"))
    shutil.copyfile(one, two)
    for words in ((), ("--redraw",)):
        assert few_again(root, *words) == 2
        assert f"{two} is of another configuration" in capsys.readouterr().err


def test_a_page_tells_that_runs_saw_different_images(few, tmp_path):
    """Every run of seed 1 is said to have been made of other images."""
    root = shutil.copytree(few, tmp_path / "few")
    assert "the same images" not in (root / "pages" / "exact-reformulation.md").read_text(encoding="utf-8")
    for file in (root / "records" / "smoke").glob("*.jsonl"):
        header, *rest = file.read_text(encoding="utf-8").splitlines()
        found = json.loads(header)
        if found["config"]["seed"] == 1:
            found["made"][0]["data"] = dict.fromkeys(found["made"][0]["data"], "0")
            file.write_text("\n".join([json.dumps(found), *rest]) + "\n", encoding="utf-8")
    assert few_again(root, "--redraw") == 0
    page = (root / "pages" / "exact-reformulation.md").read_text(encoding="utf-8")
    assert "Not all runs have seen the same images of glyphs/train" in page


def run_records(**changes):
    header = {"kind": "header", "config": {}, "made": [{"device": "a CPU", "revision": None, "data": {"glyphs": "1"}}]}
    line = {"kind": "measurement", "update": 2, "tasks": 2, "queries": 5, "values": {"kept/1": 0.5}}
    line |= {"correct": {"kept/1": "23"}}
    of_header = {name: value for name, value in changes.items() if name in ("made", "kind")}
    return f"{json.dumps(header | of_header)}\n{json.dumps({**line, **changes})}\n"


def test_records_are_read(tmp_path):
    (tmp_path / "whole.jsonl").write_text(run_records())
    assert read_run_records(tmp_path / "whole.jsonl").measured[2]["values"] == {"kept/1": 0.5}


@pytest.mark.parametrize(
    "changes",
    [
        {"update": "2"},
        {"update": None},
        {"tasks": None},
        {"tasks": 3},
        {"queries": None},
        {"queries": 0},
        {"values": []},
        {"values": {"kept/1": None}},
        {"values": {"kept/1": float("nan")}},
        {"correct": {"kept/1": 2}},
        {"made": None},
        {"made": [1]},
        {"made": [{}]},
        {"made": [{"device": "a CPU", "revision": None, "data": []}]},
    ],
)
def test_damaged_records_are_one_line(changes, tmp_path):
    file = tmp_path / "damaged.jsonl"
    file.write_text(run_records(**changes))
    with pytest.raises(InputError, match=r"damaged\.jsonl (holds no records of a run: restore|, line 2 is no)"):
        read_run_records(file)


def test_another_header_in_the_middle_is_damage(tmp_path):
    """As a merge of two histories leaves it."""
    file = tmp_path / "merged.jsonl"
    file.write_text(run_records() + run_records())
    with pytest.raises(InputError, match="holds no records of a run"):
        read_run_records(file)


@pytest.mark.parametrize("name", ["answers-at-test", "steps-at-test"])
def test_a_page_of_the_authors_models_needs_their_records(name, tmp_path, capsys):
    message = refused(capsys, name, "--redraw", "--records", str(tmp_path), "--pages", str(tmp_path))
    assert f"holds no records of {name}: give --authors-models DIR" in message
    assert not (tmp_path / f"{name}.md").exists()


@slow
def test_what_is_recorded_is_not_trained_again(made, tmp_path, monkeypatch, capsys):
    """The records suffice, without the folders of the runs."""
    monkeypatch.setattr("metacontrast.experiments.runs.train_run", None)
    places = ("--out", str(tmp_path / "runs"), "--records", str(made / "records"), "--pages", str(tmp_path))
    assert figure("second-order-one-shot", "--scale", "smoke", *places) == 0
    assert "6 runs, 0 to train" in capsys.readouterr().err


FIXED = (("--until", "5", "--scale", "smoke"), ("--seeds", "5", "--scale", "smoke"))


@pytest.mark.parametrize("words", [("--until", "0"), ("--seeds", "0"), *FIXED])
def test_lengths_that_mean_nothing_are_refused(words, capsys):
    assert f"{words[0]} {words[1]}" in refused(capsys, "inner-steps", *words)


def test_missing_records_are_named(tmp_path, capsys):
    assert "leave out --redraw to make them" in refused(capsys, "inner-steps", "--redraw", "--records", str(tmp_path))


def test_missing_data_name_the_figures_that_need_none_of_it(tmp_path, capsys):
    message = refused(capsys, "inner-steps", "--data-root", str(tmp_path), "--out", str(tmp_path / "runs"))
    assert "second-order-one-shot" in message
    assert "--scale smoke" in message


def test_a_plan_lists_runs_and_deviations_without_running(tmp_path, capsys):
    assert figure("second-order-one-shot", "--plan", "--out", str(tmp_path / "runs")) == 0
    out, err = capsys.readouterr()
    assert out.count("150 updates") == 9
    assert "deviation: Omniglot classes" in err
    assert "CIFAR-FS" not in err  # what concerns other figures is not told
    assert not (tmp_path / "runs").exists()
