"""`metacontrast explain` end to end on a tiny run, its report, and what training records and keeps for it."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

from classifier_kit import grey_images
from metacontrast import FewShotClassifier
from metacontrast.cli.main import run as metacontrast
from metacontrast.diagnostics.task_view import Part
from metacontrast.report.findings import as_json, explain_run, facts, headline
from metacontrast.report.report import draw_pictures
from metacontrast.training import checkpoint
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import read_records
from metacontrast.training.run import load_kept, load_run, open_run
from metacontrast.training.train_run import train_run
from toy_images import noisy_images

TRAIN, TEST = noisy_images(seed=0), noisy_images(seed=1)
SMALL = TrainConfig(
    dataset="folder:toy",
    filters=8,
    ways=3,
    shots=2,
    queries=3,
    meta_batch=2,
    updates=4,
    eval_every=0,
    eval_episodes=2,
    inner_steps=1,
    keep_every=2,
    explain_every=2,
    checkpoint_every=1,
)
NAMES = ("gradient-parts", "coefficients", "similarity", "spectrum", "checkpoints", "similarity-checkpoints")


def train_small(path, config=SMALL, *, resume=False, stop_after=None):
    seen = []
    with open_run(path, config, (TRAIN, TEST), "cpu", resume=resume) as run:
        train_run(
            config,
            run,
            TRAIN,
            TEST,
            on_record=seen.append,
            should_stop=lambda: stop_after is not None and seen[-1]["update"] >= stop_after,
        )
    return path


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    torch.set_num_threads(1)
    return train_small(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def toy_data(monkeypatch):
    monkeypatch.setattr("metacontrast.cli.evaluate.load_dataset", lambda *_: TEST)


def explain(*arguments):
    return metacontrast(["explain", *map(str, arguments), "--device", "cpu", "--workers", "1"])


class Tags(HTMLParser):
    """Which tags and which addresses a page has."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]


def test_the_command_writes_pictures_json_and_a_page(run_path, toy_data, tmp_path, capsys):
    """PNG and PDF of each picture; the page needs nothing from outside; the last line is JSON."""
    assert explain(run_path, "--episodes", 3, "--out", tmp_path, "--json") == 0
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"{n}.{e}" for n in NAMES for e in ("png", "pdf")} | {"explain.json", "explain.html"}
    text = (tmp_path / "explain.html").read_text()
    page = Tags(text)
    assert page.tags.count("img") == len(NAMES)
    assert "viewport" in text
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"<script|@import|url\(", text)
    out = capsys.readouterr().out
    assert "0 % comes from the head" in out
    assert json.loads(out.splitlines()[-1])["scalars"]["tasks"] == 3
    stored = json.loads((tmp_path / "explain.json").read_text())
    assert stored["scalars"] == json.loads(out.splitlines()[-1])["scalars"]
    assert torch.tensor(stored["coefficients"]).shape == (9, 6)
    assert [each["updates"] for each in stored["checkpoints"]] == [0, 2, 4]


def test_the_report_lies_in_the_run_is_the_same_twice_and_another_with_another_seed(run_path, toy_data):
    found = []
    for seed in (0, 0, 1):
        assert explain(run_path, "--episodes", 2, "--seed", seed) == 0
        found.append({file.name: file.read_bytes() for file in (run_path / "explain").iterdir()})
    same, again, other = found
    assert again == same
    norms = [json.loads(each["explain.json"])["scalars"]["gradient_norm"] for each in (same, other)]
    assert norms[0] != norms[1]


def test_bad_input_is_one_line_and_exit_2(run_path, toy_data, tmp_path, capsys):
    """No run, no task, a model file without a head, and a classifier."""
    stored = checkpoint.load(run_path / "model.safetensors")
    headless = {name: t for name, t in stored.tensors.items() if not name.startswith("head.")}
    checkpoint.save(tmp_path / "headless" / "model.safetensors", checkpoint.Stored(headless, stored.facts))
    shutil.copy(run_path / "config.json", tmp_path / "headless")
    FewShotClassifier("omniglot-conv4").fit(*grey_images()).save(tmp_path / "classifier")
    for arguments, message in (
        ((tmp_path / "nothing",), "is not a run directory"),
        ((run_path, "--episodes", 0), "--episodes 0, but it must be 1 or more"),
        ((tmp_path / "headless",), "head.weight is missing"),
        ((tmp_path / "classifier",), "holds a fitted classifier, not a meta-trained model"),
    ):
        assert explain(*arguments) == 2
        assert re.fullmatch(rf"metacontrast: error: .*{re.escape(message)}.*\n", capsys.readouterr().err)


@pytest.fixture(scope="module")
def found(run_path):
    torch.set_num_threads(1)
    run = load_run(run_path)
    return explain_run(run, load_kept(run_path), run.config.test_tasks(TEST), 2)


def figures(found):
    return {picture.name: picture.figure for picture in draw_pictures(found)}


def test_the_bars_are_the_parts(found):
    """A zeroed head and one step of first order: one bar, of share and cosine 1; what is zero is not drawn."""
    norm, share, cosine = figures(found)["gradient-parts"].axes
    assert [label.get_text() for label in norm.get_yticklabels()][:1] == ["contrastive,\nquery side"]
    assert share.patches[0].get_width() == pytest.approx(1, abs=1e-4)
    assert cosine.patches[0].get_width() == pytest.approx(1, abs=1e-4)


def test_the_matrix_is_centred_at_zero_with_images_at_its_margins(found):
    """White means no pull; every pair of one class has a frame."""
    axes = figures(found)["coefficients"].axes
    above, left, matrix, bar = axes
    drawn = matrix.images[0]
    assert drawn.norm.vmin == -drawn.norm.vmax
    expected = found.explanation.coefficients
    assert drawn.get_array().shape == tuple(expected.shape)
    assert torch.allclose(torch.tensor(drawn.get_array().data).sum(), expected.sum(), atol=1e-5)
    assert len(matrix.patches) == int((found.explanation.query_y[:, None] == found.explanation.support_y).sum())
    assert (above.images[0].get_array().shape, left.images[0].get_array().shape) == ((28, 6 * 28), (9 * 28, 28))
    assert "attracts" in bar.get_ylabel()


def test_the_maps_share_one_scale(found):
    figure = figures(found)["similarity"]
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 6
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    assert torch.allclose(torch.tensor(images[3].get_array().data), found.explanation.after[0])
    assert "contrast" in figure.axes[0].get_title()


def test_the_spectrum_shows_every_eigenvalue_that_moved(found):
    axes = figures(found)["spectrum"].axes[0]
    median = found.explanation.eigenvalues.reshape(-1, 9).median(0).values
    assert axes.lines[0].get_ydata()[0] == pytest.approx(median[0].item(), abs=0.1)
    assert axes.get_ylabel() == "eigenvalue of I − ηH"


def test_the_curves_run_over_all_copies(found):
    head, contrast, _ = figures(found)["checkpoints"].axes
    assert list(contrast.lines[0].get_xdata()) == [0, 2, 4]
    assert contrast.lines[1].get_ydata()[-1] == found.explanation.scalars()["contrast_query_support_after"]
    assert list(head.lines[0].get_ydata()) == [0, 0, 0]


def test_the_maps_of_the_copies_share_one_scale_and_end_with_the_model(found):
    images = [image for axes in figures(found)["similarity-checkpoints"].axes for image in axes.images]
    assert len(images) == 9
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    assert torch.allclose(torch.tensor(images[6].get_array().data), found.explanation.before[0])


def test_a_run_that_kept_nothing_has_no_curves(found):
    alone = dataclasses.replace(found, history={4: found.history[4]})
    assert not {"checkpoints", "similarity-checkpoints"} & set(figures(alone))


def test_every_number_has_a_meaning_and_the_headline_adds_up(found):
    listed = facts(found)
    assert all(name and value and meaning.endswith(".") for name, value, meaning in listed)
    assert len(listed) == 20
    assert sum(map(int, re.findall(r"(-?\d+) %", headline(found)))) == pytest.approx(100, abs=2)


@pytest.mark.parametrize("head", ["prototype", "ridge"])
def test_a_head_that_answers_without_steps_is_not_explained_by_them(tmp_path, head):
    """Guards: "with one step", "second order only" and eigenvalues of 1 for class means and ridge regression."""
    config = dataclasses.replace(SMALL, head=head, inner_steps=0, norm="inductive", updates=1, keep_every=0)
    run = load_run(train_small(tmp_path / "run", config))
    found = explain_run(run, [], run.config.test_tasks(TEST), 2)
    assert "spectrum" not in {picture.name for picture in draw_pictures(found)}
    listed = {name: meaning for name, _, meaning in facts(found)}
    assert not [name for name in listed if "I − ηH" in name]
    assert not [text for text in listed.values() if "step" in text.lower().replace("with one inner step", "")]
    assert found.explanation.distance < 1e-3


def test_a_gradient_of_zero_is_said_in_words(run_path):
    """BOIL under a zeroed head: no number that would stand for a distance, no bars, null in JSON."""
    run = load_run(run_path)
    boil = dataclasses.replace(run, config=dataclasses.replace(run.config, head="learned", inner_scope="encoder"))
    found = explain_run(boil, [], run.config.test_tasks(TEST), 2)
    assert "gradient is zero, but the theory's is not" in headline(found)
    assert "distance of the theory" not in {name for name, *_ in facts(found)}
    assert "gradient-parts" not in figures(found)
    assert as_json(found)["scalars"]["distance"] is None
    nothing = {name: Part(0.0, 0.0, 0.0) for name in found.explanation.parts}
    history = {run.updates: dataclasses.replace(found.explanation, parts=nothing)}
    both = dataclasses.replace(found, history=history)
    assert headline(both) == "The encoder's outer gradient is zero, and so is the theory's."


@pytest.mark.parametrize(
    ("head", "words"),
    [("learned", "(interference)"), ("prototype", "(built from this task's own features)"), ("ridge", "(built from")],
)
def test_the_headline_says_whose_rows_interfere(found, head, words):
    run = dataclasses.replace(found.run, config=dataclasses.replace(found.run.config, head=head))
    assert words in headline(dataclasses.replace(found, run=run))


def test_training_records_explanations_and_they_are_those_of_the_command(run_path, found):
    """The last record is the explanation of the final model on the first test tasks, as many as an update has."""
    records = [r for r in read_records(run_path / "records.jsonl") if r["kind"] == "explanation"]
    assert [r["update"] for r in records] == [2, 4]
    assert records[-1] == {"kind": "explanation", "update": 4, **found.explanation.scalars()}


def same(one, two):
    a, b = checkpoint.load(one), checkpoint.load(two)
    return a.facts == b.facts and all(torch.equal(a.tensors[n], b.tensors[n]) for n in {*a.tensors, *b.tensors})


def test_copies_are_the_model_at_their_time_and_resuming_makes_the_same(run_path, tmp_path):
    """Update 0 is the start; a stopped run keeps what the whole run keeps, bit for bit."""
    kept = load_kept(run_path)
    assert [each.updates for each in kept] == [0, 2, 4]
    assert same(run_path / "checkpoints" / "000004.safetensors", run_path / "model.safetensors")
    parts = train_small(tmp_path / "parts", stop_after=1)
    train_small(parts, resume=True)
    for file in (run_path / "checkpoints").iterdir():
        assert same(parts / "checkpoints" / file.name, file)
    assert read_records(parts / "records.jsonl")[1:] == read_records(run_path / "records.jsonl")[1:]


def test_without_the_flags_training_keeps_and_explains_nothing(tmp_path):
    path = train_small(tmp_path / "run", dataclasses.replace(SMALL, keep_every=0, explain_every=0, updates=1))
    assert load_kept(path) == []
    assert {r["kind"] for r in read_records(path / "records.jsonl")} == {"header", "training", "evaluation"}
