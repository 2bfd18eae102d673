"""Files and names of every kind: nothing is written over, no name reaches a terminal raw, every refusal is one line."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metacontrast
from classifier_kit import grey_images, tiny_model_folder, tiny_run, tiny_start, write_folder
from metacontrast import FewShotClassifier
from metacontrast.cli import convert, demo, explain, figure, train
from metacontrast.cli.main import run
from metacontrast.cli.terminal import with_flags
from metacontrast.errors import CONTROLS
from metacontrast.training.run import write_run

IMAGES, LABELS = grey_images()
LONG = "x" * 5_000
HOSTILE = "a\x1b[2Jb\x07\x7f\x9b31m\u202ec"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """What the commands read, and a file where a folder is wanted."""
    root = tmp_path_factory.mktemp("files")
    write_folder(root / "images", IMAGES, LABELS)
    Image.fromarray(IMAGES[0]).save(root / "images" / "000000.png")
    tiny_model_folder(root / "model")
    write_run(root / "run", tiny_run(), {})
    (root / "checkpoint.pt").write_bytes(b"released")
    (root / "data").mkdir()
    write_folder(root / "broken", IMAGES, LABELS)
    (root / "broken" / "class0" / "a.png").write_bytes(b"")
    FewShotClassifier(root / "model").fit(root / "images").save(root / "classifier")
    return root


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def outcome(words: list[str], capsys) -> tuple[object, str, str]:
    try:
        status = run(words)
    except SystemExit as stop:
        status = stop.code
    return (status, *capsys.readouterr())


def refused(words: list[str], capsys, *parts: str) -> None:
    """Exit 2, nothing on standard output, one line on standard error that holds all parts and no control character."""
    status, out, err = outcome(words, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert not controls(err)
    for part in parts:
        assert part in err, err


def controls(text: str) -> set[str]:
    return set(text) & {chr(code) for code in CONTROLS} - {"\n", "\t"}


def words_of(place: Path, *words: str) -> list[str]:
    return [word.replace("{}", str(place)) for word in words]


OVER_INPUT = [
    ("export", "{}/classifier", "--out", "{}/classifier/config.json"),
    ("export", "{}/classifier", "--out", "{}/classifier/model.safetensors"),
    ("export", "{}/classifier", "--out", "{}/classifier"),
    ("export", "{}/classifier", "--format", "torch", "--out", "{}/model/../classifier/./config.json"),
    ("fit", "{}/images", "--model", "{}/model", "--out", "{}/images"),
    ("fit", "{}/images", "--model", "{}/model", "--out", "{}/model"),
    ("fit", "{}/images", "--model", "{}/run", "--out", "{}/run"),
    ("convert", "{}/checkpoint.pt", "--out", "{}/checkpoint.pt"),
    ("explain", "{}/run", "--out", "{}/run"),
    ("explain", "{}/run", "--dataset", "folder:{}/images", "--out", "{}/images"),
    ("train", "--dataset", "folder:{}/images", "--out", "{}/images"),
    ("demo", "--dataset", "folder:{}/images", "--out", "{}/images"),
    ("figure", "exact-reformulation", "--scale", "smoke", "--data-root", "{}/data", "--out", "{}/data"),
    ("predict", "{}/classifier", "{}/images/000000.png", "--explain", "--pictures", "{}/images"),
    ("predict", "{}/classifier", "{}/images", "--explain", "--pictures", "{}/classifier"),
]


@pytest.mark.parametrize("words", OVER_INPUT, ids=lambda words: " ".join(words))
def test_no_command_writes_over_its_own_input(words, place, capsys):
    """Guards: refuse to write over one's own input, everywhere; an export once replaced the classifier's own file."""
    before = content(place)
    refused(words_of(place, *words), capsys, "is read by this command")
    assert content(place) == before


def test_an_export_may_be_made_again(place, tmp_path, capsys):
    """Guards the other side: a file that an export made beside the classifier may be replaced by the next one."""
    FewShotClassifier.load(place / "classifier").save(tmp_path)
    for _ in range(2):
        assert outcome(["export", str(tmp_path), "--format", "torch"], capsys)[0] == 0


UNWRITABLE = [
    ("fit", "{}/images", "--model", "{}/model", "--out"),
    ("export", "{}/classifier", "--out"),
    ("convert", "{}/checkpoint.pt", "--out"),
    ("explain", "{}/run", "--out"),
    ("train", "--out"),
    ("demo", "--out"),
    ("figure", "exact-reformulation", "--scale", "smoke", "--out"),
    ("figure", "exact-reformulation", "--scale", "smoke", "--records"),
    ("figure", "exact-reformulation", "--scale", "smoke", "--redraw", "--pages"),
    ("predict", "{}/classifier", "{}/images", "--explain", "--pictures"),
]
DESTINATIONS = [
    ("{}/checkpoint.pt/below", "checkpoint.pt is a file, not a folder"),
    ("/proc/nothing/x", "cannot write /proc/nothing"),
    ("{}/" + LONG, "File name too long"),
    ("{}/nul\0", "null"),
]


@pytest.mark.parametrize(("destination", "part"), DESTINATIONS, ids=["file", "proc", "long", "nul"])
@pytest.mark.parametrize("words", UNWRITABLE, ids=lambda words: " ".join(words))
def test_destinations_are_checked_before_any_work(words, destination, part, place, capsys, monkeypatch):
    """Guards: an unwritable destination is noticed at once, with the right reason and not after the work."""

    def work(*arguments, **options):
        raise AssertionError("work was done first")

    for owner, name in (
        *((FewShotClassifier, "fit"), (FewShotClassifier, "load"), (explain, "explain_run"), (figure, "_train")),
        *((train, "train_with_progress"), (demo, "train_with_progress"), (convert, "load_released")),
        (figure, "_draw"),
    ):
        monkeypatch.setattr(owner, name, work)
    monkeypatch.setattr("metacontrast.classifier.export.Exported", work)
    before = content(place)
    status, out, err = outcome(words_of(place, *words, destination), capsys)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert part in err
    assert content(place) == before


def test_names_that_are_not_utf8_work_from_fit_to_export(tmp_path, capsys):
    """Guards: class folders, files, the model's and the classifier's own folder may have names that are not text."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    try:
        write_folder(root / "images", IMAGES, [os.fsdecode(b"c\xfe" + label.encode()) for label in LABELS])
    except OSError:
        pytest.skip("this file system takes text only")
    tiny_model_folder(root / "model")
    words = ["--model", str(root / "model"), "--out", str(root / "c"), "--reject", "0.3", "--json"]
    status, out, err = outcome(["fit", str(root / "images"), *words], capsys)
    assert status == 0, err
    assert (status, json.loads(out.splitlines()[-1])["classifier"]) == (0, str(root / "c"))
    pictures = ["--explain", "--pictures", str(root / "why"), "--json"]
    status, out, _ = outcome(["predict", str(root / "c"), str(root / "images"), *pictures], capsys)
    assert status == 0
    assert {each["label"] for each in json.loads(out)["predictions"]} == set(
        FewShotClassifier.load(root / "c").classes_
    )
    for form in ("torch", "onnx"):
        assert outcome(["export", str(root / "c"), "--format", form], capsys)[0] == 0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (LONG, "File name too long"),
        ("{}/" + LONG, "File name too long"),
        ("{}/images/000000.png/below.png", "Not a directory"),
        ("~nobody-of-this-name/x.png", "No such file"),
        ("nul\0.png", "null"),
        ("https://example.org/cat.png", "is an address, not a file: download it first"),
        ("{}/checkpoint.pt", "is not an image of a known format"),
    ],
)
def test_a_name_that_cannot_be_read_is_one_unreadable_image(name, part, place, capsys):
    """Guards: one hostile path among many does not end `predict`, on the command line and in Python."""
    name, good = name.replace("{}", str(place)), str(place / "images" / "000000.png")
    status, out, err = outcome(["predict", str(place / "classifier"), name, good], capsys)
    assert (status, len(out.splitlines())) == (1, 1)
    assert part in err
    assert "1 of 2 images could not be read" in err
    found = list(FewShotClassifier.load(place / "classifier").predict_each([name, good]))
    assert [part in (each.problem or "") for each in found] == [True, False]
    (alone,) = FewShotClassifier.load(place / "classifier").predict_each(name)
    assert part in str(alone.problem)


@pytest.fixture
def hostile(place, tmp_path) -> Path:
    """A classifier whose class, files and folder have names that a terminal would obey."""
    folder = tmp_path / HOSTILE
    write_folder(folder / "images", IMAGES, [f"{label}{HOSTILE}" for label in LABELS])
    FewShotClassifier(place / "model").fit(folder / "images").save(folder / "classifier")
    (folder / "images" / f"class0{HOSTILE}" / f"{HOSTILE}.png").write_bytes(b"")
    return folder


def test_no_control_character_reaches_a_terminal(hostile, place, capsys):
    """Guards: names go to standard output and error with escapes in place of what a terminal obeys."""
    predict = ["predict", str(hostile / "classifier"), str(hostile / "images")]
    fit = ["fit", str(hostile / "images"), "--model", str(place / "model"), "--out", str(hostile / "c")]
    for words, expected in (
        *((predict, 1), ([*predict, "--explain"], 1), ([*predict, "--csv"], 1), ([*predict, "--json"], 1), (fit, 2)),
        *(([*fit, "--skip-unreadable"], 0), (["data", "check", f"folder:{hostile / 'images'}"], 2)),
        *((["export", str(hostile)], 2), (["predict", HOSTILE, HOSTILE], 2), (["fit", HOSTILE], 2)),
        (["export", str(hostile / "classifier"), "--format", "torch"], 0),
    ):
        status, out, err = outcome(words, capsys)
        assert status == expected, err
        assert not controls(out + err), words


def test_json_keeps_names_exactly_and_csv_is_a_table(hostile, capsys):
    """Guards: what a program reads stays whole where standard output shows escapes."""
    words = ["predict", str(hostile / "classifier"), str(hostile / "images")]
    found = json.loads(outcome([*words, "--json"], capsys)[1])
    assert {each["label"] for each in found["predictions"]} == {f"class{c}{HOSTILE}" for c in range(3)}
    assert all(Path(each["image"]).is_file() for each in found["predictions"])
    rows = list(csv.DictReader(io.StringIO(outcome([*words, "--csv"], capsys)[1])))
    assert len(rows) == 15
    assert r"\x1b[2J" in rows[0]["label"]


INTERRUPTED_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                sum(range(10_000))
            except KeyboardInterrupt:
                raise RecursionError("as a library that takes the interrupt for a missing part of itself")

wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
from metacontrast.entry import run
sys.exit(run())
"""


@pytest.mark.parametrize("module", ["argparse", "torch", "sklearn"])
def test_an_interrupt_during_an_import_is_one_line(module, tmp_path):
    """Guards: Ctrl-C while libraries are imported; NumPy's import of its own parts on demand recursed to the limit."""
    words = [module, "fit", str(tmp_path), "--model", "omniglot-conv4", "--out", str(tmp_path / "c")]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "metacontrast: interrupted\n")


def test_the_entry_imports_next_to_nothing_before_it_takes_interrupts():
    """Guards: what Python does before the entry's handler is set cannot be caught, so it is kept short."""
    code = "import sys; before = set(sys.modules); import metacontrast.entry; print(*sorted(set(sys.modules) - before))"
    source = {"PYTHONPATH": str(Path(metacontrast.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=os.environ | source)
    assert "signal" in done.stdout.split()
    assert not {"typing", "re", "importlib", "argparse", "logging", "numpy", "torch"} & set(done.stdout.split())


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    """Guards: a process in the background, for which the shell ignores Ctrl-C, goes on ignoring it."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsys.argv[1:] = ['data', 'list']\n"
        "from metacontrast.entry import run\nrun()\nassert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("export", "{}/images"), ("holds no fitted classifier", "metacontrast fit --out")),
        (("predict", "{}/images", "{}/images"), ("holds no fitted classifier",)),
        (("export", "https://example.org/c"), ("is an address, not a folder: download it first",)),
        (("fit", "https://example.org/c", "--model", "{}/model", "--out", "{}/x"), ("is an address, not a folder",)),
        (("fit", "{}/checkpoint.pt", "--model", "{}/model", "--out", "{}/x"), ("is a file, not a folder",)),
        (("data", "check", "folder:https://example.org/c"), ("is an address, not a folder",)),
        (
            ("fit", "{}/images", "--model", "{}/model", "--out", "{}/x", "--reject", ".2", "--folds", "0"),
            ("--reject 0.2 is set on held-out images", "--folds 0 holds out none", "leave out one of them"),
        ),
        (
            ("fit", "{}/images", "--model", "{}/model", "--out", "{}/x", "--max-pixels", "9"),
            ("more than the limit of 9", "raise --max-pixels", "leave them out with --skip-unreadable"),
        ),
        (("fit", "{}/images", "--model", "{}/model", "--out", "{}/x", "--steps", "0"), ("--steps 0, but it must",)),
        (("fit", "{}/images", "--model", "{}/model", "--out", "{}/x", "--lr", "nan"), ("--lr nan, but it must",)),
        (
            ("evaluate", "{}/model", "--dataset", "folder:{}/broken"),
            ("a.png is empty (0 bytes); replace or remove them\n",),
        ),
        (
            ("train", "--dataset", "glyphs", "--rotations", "--out", "{}/x"),
            ("--rotations True does not apply to glyphs",),
        ),
        (("train", "--ways", "1", "--out", "{}/x"), ("--ways 1, but it must be 2 or more",)),
        (("train", "--inner-lr", "0", "--out", "{}/x"), ("--inner-lr 0.0, but it must",)),
    ],
)
def test_messages_give_the_right_reason_and_name_flags(words, parts, place, capsys):
    """Guards: what the command line says is in its own words, and true."""
    before = content(place)
    refused(words_of(place, *words), capsys, *parts)
    assert content(place) == before


def test_a_check_of_data_names_the_command_that_has_the_flag(place, capsys):
    status, _, err = outcome(words_of(place, "data", "check", "folder:{}/broken"), capsys)
    assert status == 2
    assert "leave them out with `train --skip-unreadable`\n" in err


def test_an_unreadable_image_of_predict_names_the_flag(place, capsys):
    words = words_of(place, "predict", "{}/classifier", "{}/images", "--max-pixels", "9")
    status, out, err = outcome(words, capsys)
    assert (status, out) == (1, "")
    assert "make it smaller, or raise --max-pixels" in err


def test_only_parameters_become_flags():
    """Guards: names in paths, in files' own fields and of other commands stay as they are."""
    flags = {"steps": "--steps", "inner_lr": "--inner-lr", "max_pixels": "--max-pixels"}
    for text in ("x/steps=3/y", "c.json: inner_lr='x'", "my max_pixels.png", "'max_pixels'", "steps of 3", "lr=3"):
        assert with_flags(text, flags) == text
    assert with_flags("steps=3 (max_pixels), inner_lr='x'", flags) == "--steps 3 (--max-pixels), --inner-lr x"


OUT = ("--model", "{}/model", "--out", "{}/x")
HOSTILE_CALLS = [
    ("fit", LONG, *OUT),
    ("fit", "{}/images", "--model", LONG, "--out", "{}/x"),
    ("fit", "{}/images", "--model", "~nobody-of-this-name/m", "--out", "{}/x"),
    ("fit", "nul\0", *OUT),
    ("fit", "{}/images", *OUT, "--steps", "1000000000"),
    ("fit", "{}/images", *OUT, "--reject", "1e-9"),
    ("fit", "{}/images", *OUT, "--folds", "-2"),
    ("fit", "{}/images", *OUT, "--lr", "1e39", "--scope", "all"),
    ("fit", "{}/images/class0", *OUT),
    ("predict", LONG, "{}/images"),
    ("predict", "{}/classifier/config.json", "{}/images"),
    ("predict", "{}/checkpoint.pt", "{}/images"),
    ("predict", "{}/classifier", "{}/data"),
    ("export", "{}/run"),
    ("export", "{}/classifier", "--out", "{}/images"),
    ("evaluate", LONG),
    ("explain", "{}/checkpoint.pt"),
    ("explain", LONG),
    ("train", "--dataset", f"folder:{LONG}", "--out", "{}/x"),
    ("train", "--dataset", "folder:~nobody-of-this-name", "--out", "{}/x"),
    ("train", "--dataset", "folder:nul\0", "--out", "{}/x"),
    ("data", "check", "folder:{}/images/000000.png"),
    ("data", "check", "omniglot", "--data-root", LONG),
    ("convert", LONG, "--out", "{}/x"),
    ("convert", "{}/images", "--out", "{}/x"),
    ("convert", "{}/model/model.safetensors", "--out", "{}/model"),
]


@pytest.mark.parametrize("words", HOSTILE_CALLS, ids=lambda words: " ".join(words).replace("\0", "nul")[:60])
def test_hostile_commands_are_one_line_and_lose_nothing(words, place, capsys, monkeypatch):
    """Guards: whatever is asked for is refused in one line, and no file that was there has changed."""
    monkeypatch.chdir(place)
    before = content(place)
    refused(words_of(place, *words), capsys, "error: ")
    assert content(place) == before


def learn(**parameters) -> FewShotClassifier:
    return FewShotClassifier(tiny_start(), **parameters).fit(IMAGES, LABELS)


CALLS = {
    "a path too long to exist": lambda c, p: c.predict([LONG]),
    "a folder too long to exist": lambda c, p: FewShotClassifier(p / "model").fit(LONG),
    "an address as a folder": lambda c, p: FewShotClassifier(p / "model").fit("https://example.org/x"),
    "a model too long to exist": lambda c, p: FewShotClassifier.from_pretrained(LONG),
    "load of what is too long": lambda c, p: FewShotClassifier.load(LONG),
    "load of a null": lambda c, p: FewShotClassifier.load("nul\0"),
    "load of an unknown user's": lambda c, p: FewShotClassifier.load("~nobody-of-this-name"),
    "load of a folder of images": lambda c, p: FewShotClassifier.load(p / "images"),
    "save below a file": lambda c, p: c.save(p / "checkpoint.pt" / "c"),
    "save to what is too long": lambda c, p: c.save(p / LONG),
    "save over a run": lambda c, p: c.save(p / "run"),
    "save_pretrained over a classifier": lambda c, p: c.save_pretrained(p / "classifier"),
    "a reject label that is a class": lambda c, p: learn(reject_label="class0"),
    "a reject label that is a list": lambda c, p: learn(reject_label=[]),
    "a million steps": lambda c, p: learn(steps=10**6),
    "refusals without held-out images": lambda c, p: learn(reject=0.2, folds=0),
    "a parameter that no file can hold": lambda c, p: learn(skip_unreadable={1}).save(p / "y"),
    "a reject label that no file can hold": lambda c, p: learn(reject_label=b"?").save(p / "y"),
}


@pytest.mark.parametrize("what", CALLS)
def test_hostile_calls_are_one_line_and_lose_nothing(what, place):
    """Guards: the same in Python, where it is an `InputError` and never an `OSError`."""
    before = content(place)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        CALLS[what](FewShotClassifier.load(place / "classifier"), place)
    assert type(caught.value).__module__.startswith("metacontrast")
    assert content(place) == before


def test_labels_that_look_like_formulas_are_drawn(place, tmp_path):
    """Guards: matplotlib reads text between dollar signs as a formula and raises where it is none."""
    labels = [f"${label}\\bad$" for label in LABELS]
    classifier = FewShotClassifier(tiny_start()).fit(IMAGES, labels)
    classifier.draw_explanation(IMAGES[0]).savefig(tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png")).size
