"""What the page teaches and answers is what `FewShotClassifier` does on the same images."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from classifier_kit import tiny_run
from metacontrast import FewShotClassifier, Inner, InputError
from metacontrast.classifier.candidates import Candidate
from metacontrast.classifier.starting_point import from_run
from metacontrast.cli.main import run
from metacontrast.play import keep, session
from metacontrast.play.answers import answer, compare_starts, describe
from metacontrast.play.gallery import GALLERY, open_entry
from metacontrast.play.session import FOLDS, PAGE_PIXELS, Session, Sessions, available_models
from play_kit import Client, drawing, serving

KINDS = ("cross", "ring", "bar")
MODELS = available_models()


def taught(shots: int = 3, kinds=KINDS) -> Session:
    made = Session(MODELS)
    boards = tuple((kind, tuple(drawing(kind, seed) for seed in range(shots))) for kind in kinds)
    made.start_over(boards, made.task.settings)
    return made


def in_python(shots: int = 3, **parameters) -> FewShotClassifier:
    images = [drawing(kind, seed) for kind in KINDS for seed in range(shots)]
    parameters = {"folds": FOLDS} | parameters
    classifier = FewShotClassifier("omniglot-conv4", device="cpu", max_pixels=PAGE_PIXELS, **parameters)
    return classifier.fit(images, [kind for kind in KINDS for _ in range(shots)])


def sums_up(explanation: dict) -> None:
    """Σ contributions + start = difference of the logits, which float32 rounds to 6e-8 of what is summed."""
    parts = [row["contribution"] for row in explanation["support"]]
    assert explanation["sum"] == pytest.approx(sum(parts))
    size = sum(map(abs, parts)) + abs(explanation["start"])
    assert explanation["sum"] + explanation["start"] == pytest.approx(explanation["difference"], abs=3e-6 * size)


@pytest.mark.parametrize(
    "settings",
    [{}, {"steps": 1}, {"lr": 0.1, "steps": 4}, {"random_head": 7}, {"scope": "all", "steps": 2}],
    ids=str,
)
def test_numbers_of_the_page_equal_python_s(settings, tmp_path):
    """Over HTTP, bit for bit: probabilities, difference, start; contributions by image."""
    query = drawing("ring", 99)
    folds = {"folds": 0} if settings.get("scope") == "all" else {}
    expected = in_python(2, **settings, **folds)
    with serving(tmp_path) as port:
        client = Client(port).open()
        for board in client.state["classes"]:
            client.act("remove_class", id=board["id"])
        for kind in KINDS:
            board = client.act("add_class", name=kind)[1]["state"]["classes"][-1]["id"]
            for seed in range(2):
                assert client.post(f"examples/{board}", drawing(kind, seed))[0] == 200
        client.act("settings", **settings)
        status, found = client.post("query", query)
    assert status == 200
    probabilities = dict(zip(expected.classes_.tolist(), expected.predict_proba([query])[0].tolist(), strict=True))
    why, shown = expected.explain(query), found["explanation"]
    assert found["probabilities"] == probabilities
    assert (shown["label"], shown["against"], shown["exact"]) == (why.label, why.against, why.is_exact)
    assert [shown[name] for name in ("difference", "start", "through_encoder")] == [
        why.difference,
        why.start,
        why.through_encoder,
    ]
    assert sorted(row["contribution"] for row in shown["support"]) == sorted(why.contributions.tolist())
    sums_up(shown)
    assert shown["exact"] == (settings.get("scope") != "all")


@pytest.mark.parametrize("settings", [{"steps": 1}, {}, {"random_head": 3}], ids=str)
def test_a_contribution_is_coefficient_times_similarity_and_belongs_to_its_image(settings):
    """What the page says when a line is pointed at; every id is an example of the class that is named."""
    page = taught()
    page.set_settings(**settings)
    found = answer(page, drawing("bar", 50))["explanation"]
    labels = {example.id: board.name for board in page.task.boards for example in board.examples}
    assert {row["id"]: row["label"] for row in found["support"]} == labels
    for row in found["support"]:
        assert row["coefficient"] * row["similarity"] == pytest.approx(row["contribution"], rel=1e-9, abs=1e-12)
    sums_up(found)


def test_a_zeroed_head_adds_nothing_and_does_not_care_for_order_or_seed():
    """The paper's claim by hand: from zero the answer is made of the images alone."""
    page = taught()
    found = answer(page, drawing("cross", 70))
    rows = compare_starts(page, drawing("cross", 70))["rows"]
    best = max(found["probabilities"].values())
    assert found["explanation"]["start"] == 0
    assert [row["turn"] for row in rows] == [1, 2]
    assert all(row["probability"] == pytest.approx(best, abs=1e-5) for row in rows)
    page.set_settings(random_head=1)
    random = compare_starts(page, drawing("cross", 70))["rows"]
    assert answer(page, drawing("cross", 70))["explanation"]["start"] != 0
    assert {(row["seed"], row["turn"]) for row in random} == {(s, 0) for s in range(1, 7)} | {(1, 1), (1, 2)}
    assert np.ptp([row["probability"] for row in random]) > 0.01


def test_any_way_to_the_same_examples_gives_the_same_classifier():
    """Adding (`partial_fit`), undoing, renaming and removing end in what `fit` makes of what is there."""
    query, page = drawing("ring", 8), taught(2)
    for board in page.task.boards:
        page.add_example(board.id, drawing(board.name, 2))
    page.add_example(page.task.boards[0].id, drawing("ring", 30))
    page.undo()
    page.rename_class(page.task.boards[1].id, "circle")
    page.rename_class(page.task.boards[1].id, "ring")
    page.add_class("empty")
    expected = in_python()
    found = answer(page, query)["probabilities"]
    assert list(found.values()) == expected.predict_proba([query])[0].tolist()
    page.remove_example(page.task.boards[0].examples[-1].id)
    assert len(page.task.labelled) == 8
    page.undo()
    assert answer(page, query)["probabilities"] == found


def test_undo_goes_back_to_the_start_and_no_further():
    page = taught(1)
    while page.can_undo:
        page.undo()
    assert [board.name for board in page.task.boards] == ["A", "B"]
    page.undo()
    assert page.classifier is None


REFUSED = {
    "a broken file": (lambda page: page.add_example(page.task.boards[0].id, b"no image"), "not an image"),
    "an empty file": (lambda page: page.add_example(page.task.boards[0].id, b""), "empty"),
    "a class twice": (lambda page: page.add_class(" ring "), "already"),
    "a name of spaces": (lambda page: page.add_class("  "), "1 to 40"),
    "a long name": (lambda page: page.add_class(41 * "x"), "1 to 40"),
    "a name with a control character": (lambda page: page.add_class("a\x1bb"), "1 to 40"),
    "a class that is gone": (lambda page: page.rename_class("e999", "x"), "no longer"),
    "a model of one's own path": (lambda page: page.set_settings(model="/etc"), "no such model"),
    "no steps": (lambda page: page.set_settings(steps=0), "1 to 100"),
    "too many steps of the whole network": (lambda page: page.set_settings(scope="all", steps=11), "1 to 10"),
    "a step of nothing": (lambda page: page.set_settings(lr=0), "above 0"),
    "a step that is not a number": (lambda page: page.set_settings(lr=float("nan")), "above 0"),
    "another scope": (lambda page: page.set_settings(scope="encoder"), "head or the whole"),
    "a seed below zero": (lambda page: page.set_settings(random_head=-1), "0 to 999999"),
    "a seed that is true": (lambda page: page.set_settings(random_head=True), "0 to 999999"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case):
    """The reason comes as a sentence, and the page goes on with what it had."""
    wrong, words = REFUSED[case]
    page = taught(1)
    before, answered = page.task, answer(page, drawing("bar", 5))
    with pytest.raises(InputError, match=words):
        wrong(page)
    assert page.task is before
    assert answer(page, drawing("bar", 5)) == answered


def test_settings_given_with_another_model_are_kept(monkeypatch):
    """The model's own values replace those of the model before, not those that are asked for."""
    monkeypatch.setattr(Session, "_learn", lambda self, after: None)
    page = taught(1)
    page.set_settings(steps=7, random_head=2)
    other = page.add_model(next(iter(page.models.values())))
    page.set_settings(model=other, lr=0.5)
    assert page.task.settings == session.Settings(other, None, 0.5, None, 2)


@pytest.mark.parametrize("wrong", [{"steps": 101}, {"model": "none"}, {"scope": "encoder"}], ids=str)
def test_settings_that_a_file_brings_are_checked_as_those_of_the_page(wrong):
    page = taught(1)
    with pytest.raises(InputError):
        page.start_over((), session.Settings(**({"model": page.task.settings.model} | wrong)))


def test_a_page_that_is_brought_again_begins_with_its_own_classes_alone(monkeypatch):
    """Guards: the classes A and B of every new page, which are often those that were taught."""
    monkeypatch.setattr(Session, "_learn", lambda self, after: None)
    page = Session(MODELS)
    page.restore(names=["B", "x"], random_head=3)
    assert [(board.name, board.examples) for board in page.task.boards] == [("B", ()), ("x", ())]
    assert page.task.settings == session.Settings("omniglot-conv4", random_head=3)
    for names in (["x", "x"], ["x", ""], "ab", [1], [str(k) for k in range(21)]):
        with pytest.raises(InputError):
            page.restore(names=names)


def test_a_task_has_20_classes_with_20_examples_at_most(monkeypatch):
    monkeypatch.setattr(Session, "_learn", lambda self, after: None)
    page = taught(0, kinds=[f"class {k}" for k in range(20)])
    with pytest.raises(InputError, match="20 classes already"):
        page.add_class("one more")
    for _ in range(20):
        page.add_example(page.task.boards[0].id, drawing("bar"))
    with pytest.raises(InputError, match="20 examples already"):
        page.add_example(page.task.boards[0].id, drawing("bar"))


def test_images_of_a_page_are_bounded_also_through_its_history(monkeypatch):
    """Older changes are forgotten before anything is refused."""
    page = taught(1)
    size = session._size([page.task])
    monkeypatch.setattr(session, "SESSION_BYTES", int(1.4 * size))
    monkeypatch.setattr(Session, "_learn", lambda self, after: None)
    for k in range(20):
        page.add_example(page.task.boards[0].id, drawing("cross", 40 + k))
        page.remove_example(page.task.boards[0].examples[0].id)
    assert session._size([*page._history, page.task]) <= 1.4 * size
    assert page.can_undo
    monkeypatch.setattr(session, "SESSION_BYTES", size // 2)
    with pytest.raises(InputError, match="holds"):
        page.add_class("more")


def test_the_last_change_of_a_full_page_can_be_taken_back(monkeypatch):
    monkeypatch.setattr(Session, "_learn", lambda self, after: None)
    page = taught(2)
    monkeypatch.setattr(session, "SESSION_BYTES", int(1.1 * session._size([page.task])))
    before = page.task
    page.start_over((("other", tuple(drawing("bar", seed) for seed in range(6))),), before.settings)
    page.undo()
    assert page.task is before


def test_pages_are_bounded_and_an_idle_one_makes_room():
    now = [0.0]
    pages = Sessions(MODELS, clock=lambda: now[0])
    ids = [pages.add()[0] for _ in range(session.MOST_SESSIONS)]
    with pytest.raises(InputError, match="pages are open already"):
        pages.add()
    now[0] = session.IDLE - 1
    assert pages.find(ids[3]) is not None
    now[0] = session.IDLE + 1
    pages.add()
    assert pages.find(ids[3]) is not None
    assert pages.find(ids[0]) is None


@pytest.mark.parametrize("name", GALLERY)
def test_every_ready_example_answers(name):
    """A first visitor sees something work: the answer is right where the task is not made to mislead."""
    page = Session(MODELS)
    open_entry(page, name)
    found = answer(page, page.query)
    right = {"letters": "ມ", "look-alikes": "Q", "digits": "4", "photographs": "pagoda", "twenty": "დ"}[name]
    assert found["explanation"]["label"] == right
    assert describe(page)["calibrated"]
    sums_up(found["explanation"])


@pytest.mark.parametrize(("head", "start"), [("prototype", "own"), ("zeroed", "zero")])
def test_a_model_that_answers_otherwise_is_explained_by_the_steps_that_the_page_shows(head, start):
    """Guards: lines of an adapted head beside answers of the class means; the steps that are shown are taken."""
    run = tiny_run(head=head)
    model = replace(from_run("tiny", run), head="prototype", inner=Inner(steps=0, lr=0.1))
    page = Session({"tiny": model})
    page.start_over((("a", (drawing("cross"),)), ("b", (drawing("ring"),))), page.task.settings)
    shown = describe(page)
    assert (shown["settings"]["steps"], shown["start"]) == (1, start)
    assert page.classifier.state_.fitted.candidate == Candidate(0.1, 1)
    found = answer(page, drawing("cross", 3))["explanation"]
    sums_up(found)
    assert (found["start"] == 0) == (start == "zero")


def test_pages_that_save_together_have_folders_of_their_own(tmp_path):
    pages = [taught(1, kinds) for kinds in (("cross", "ring"), ("ring", "bar"), ("bar", "cross"))]
    with ThreadPoolExecutor() as pool:
        places = list(pool.map(lambda page: keep.save(page, tmp_path), pages))
    assert sorted(place.name for place in places) == ["classifier-1", "classifier-2", "classifier-3"]
    for page, place in zip(pages, places, strict=True):
        assert FewShotClassifier.load(place).classes_.tolist() == page.classifier.classes_.tolist()


def test_what_is_taken_home_is_what_was_taught(tmp_path, capsys):
    """The folder, the zip and the loaded zip answer as the page; the command takes the folder."""
    page, query = taught(), drawing("cross", 21)
    shown = answer(page, query)["probabilities"]
    first, second = keep.save(page, tmp_path), keep.save(page, tmp_path)
    assert (first.name, second.name) == ("classifier-1", "classifier-2")
    (tmp_path / "query.png").write_bytes(query)
    assert run(["predict", str(first), str(tmp_path / "query.png"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"][0]
    assert (said["label"], said["probability"]) == ("cross", max(shown.values()))
    packed = keep.as_zip(page)
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        archive.extractall(tmp_path / "unpacked")
    loaded = FewShotClassifier.load(tmp_path / "unpacked" / "classifier")
    assert loaded.predict_proba([query])[0].tolist() == list(shown.values())
    other = Session(MODELS)
    keep.load_zip(other, packed)
    assert answer(other, query)["probabilities"] == shown
    assert [board.name for board in other.task.boards] == sorted(KINDS)
    other.undo()
    assert [board.name for board in other.task.boards] == ["A", "B"]


def test_pictures_and_programs_are_made(monkeypatch):
    page = taught(1)
    with pytest.raises(InputError, match="nothing to explain"):
        keep.as_picture(page)
    answer(page, drawing("ring", 3))
    assert keep.as_picture(page).startswith(b"\x89PNG")
    monkeypatch.setattr(keep, "export", lambda state, path, form: path.write_text(form) and path)  # which takes seconds
    assert keep.as_onnx(page) == b"onnx"
    with pytest.raises(InputError, match="two classes"):
        keep.as_zip(Session(MODELS))


def zipped(files: dict[str, bytes]) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def lying_size(data: bytes) -> bytes:
    """A zip whose directory says 100 bytes of a member that unpacks to 70 MB."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    return data[: at + 24] + (100).to_bytes(4, "little") + data[at + 28 :]


ZIPS = {
    "no zip": lambda: b"PK\x03\x04 no zip",
    "empty": lambda: zipped({}),
    "a name that climbs": lambda: zipped({"../config.json": b"{}", "model.safetensors": b""}),
    "an absolute name": lambda: zipped({"/config.json": b"{}", "model.safetensors": b""}),
    "a name that climbs in Windows": lambda: zipped({"..\\config.json": b"{}", "model.safetensors": b""}),
    "a further file": lambda: zipped({"config.json": b"{}", "model.safetensors": b"", "x.py": b""}),
    "one file twice": lambda: zipped({"a/config.json": b"{}", "b/config.json": b"{}"}),
    "a bomb": lambda: zipped({"config.json": b"{}", "model.safetensors": bytes(70_000_000)}),
    "a bomb that lies": lambda: lying_size(zipped({"config.json": bytes(70_000_000), "model.safetensors": b""})),
    "damaged inside": lambda: zipped({"config.json": bytes(9), "model.safetensors": b""}).replace(
        b"jsonc", b"json\xff"
    ),
    "no classifier": lambda: zipped({"config.json": b"{}", "model.safetensors": b""}),
    "half a classifier": lambda: keep.as_zip(taught(1))[:-300],
}


def test_a_zip_that_names_an_encoder_from_elsewhere_is_refused_unread(monkeypatch):
    """Loading it could download the encoder, because a file says so."""
    monkeypatch.setattr(FewShotClassifier, "load", lambda folder: pytest.fail("it was loaded"))
    about = {
        "format": "metacontrast-classifier",
        "model": {"name": "timm:resnet18", "source": {"name": "timm:resnet18"}},
    }
    with pytest.raises(InputError, match="comes from elsewhere"):
        keep.load_zip(taught(1), zipped({"config.json": json.dumps(about).encode(), "model.safetensors": b""}))


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_that_is_not_the_page_s_is_refused(case, tmp_path, monkeypatch):
    """Nothing is unpacked outside its folder, nothing larger than the limit, and the page goes on."""
    monkeypatch.chdir(tmp_path)
    page = taught(1)
    before = page.task
    with pytest.raises(InputError, match="zip"):
        keep.load_zip(page, ZIPS[case]())
    assert page.task is before
    assert not list(tmp_path.iterdir())


def test_a_model_of_one_s_own_comes_first(tmp_path):
    from classifier_kit import tiny_model_folder

    models = available_models(tiny_model_folder(tmp_path / "mine"))
    assert list(models)[:2] == [str(tmp_path / "mine"), "omniglot-conv4"]
    page = Session(models)
    for kind, board in zip(KINDS, page.task.boards, strict=False):
        page.add_example(board.id, drawing(kind))
    found = answer(page, drawing("cross", 3))["explanation"]
    assert describe(page)["settings"]["scope"] == "all"
    sums_up(found)
    assert next(iter(available_models("cifar-fs-conv4"))) == "cifar-fs-conv4"
