"""The benchmark of photographs: rows on small images, what is recorded, and that the page says what the records say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import photos
from metacontrast import FewShotClassifier
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.image_format import ImageFormat
from metacontrast.training.records import read_records
from photos_page import BEGIN, END, as_markdown, page_of, reliability

ROOT = Path(__file__).parents[2]
RECORDS, PAGE = ROOT / "results" / "photos.jsonl", ROOT / "docs" / "classifier.md"


def test_the_page_has_the_tables_of_the_records():
    """Guards every number of the tables: `python benchmarks/photos.py --records ... --page docs/classifier.md`."""
    records = read_records(RECORDS) if RECORDS.exists() else []
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert page_of(PAGE, records) == text
    assert all(line["tasks"] >= photos.ROWS[line["row"]].tasks for line in records if line["row"] != "speed")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Rows of 2 classes on images of noise, without a photo encoder."""
    monkeypatch.setattr(photos, "QUERIES", 2)
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 255, (4, 1, 1, 1, 3))
    pixels = np.clip(colours + generator.normal(0, 40, (4, 8, 12, 12, 3)), 0, 255).astype(np.uint8)
    monkeypatch.setattr(photos, "load", lambda name, kept: [[Image.fromarray(x) for x in row] for row in pixels])
    rows = {"a 2x5": photos.Row("a", 2, 5), "refusals 2x6": photos.Row("a", 2, 6, refuses=True)}
    monkeypatch.setattr(photos, "ROWS", rows)
    monkeypatch.setattr("metacontrast.classifier.choice.installed", lambda: ["cifar-fs-conv4"])
    return tmp_path / "records.jsonl"


@pytest.mark.slow  # of a program for developers, whose records are committed
def test_rows_are_measured_once(small, capsys):
    """Guards what a row holds, and that a second call measures only what is missing or was measured on fewer tasks."""
    photos.main(["--records", str(small), "--tasks", "2"])
    records = {line["row"]: line for line in read_records(small)}
    found = records["a 2x5"]
    assert (found["tasks"], found["models"], found["seed"]) == (2, {"cifar-fs-conv4": 2}, 2022)
    assert found["more_than_logistic"] == pytest.approx(found["accuracy"] - found["logistic"])
    assert found["ece_interval"][0] <= found["ece_interval"][1]
    assert sum(each["share"] for each in found["reliability"]) == pytest.approx(1)
    assert {"known", "unknown", "known_ci95"} <= set(records["refusals 2x6"])
    before = small.read_text()
    photos.main(["--records", str(small), "--tasks", "2"])
    assert small.read_text() == before
    photos.main(["--records", str(small), "--tasks", "3", "--only", "a 2x5"])
    assert {line["row"]: line["tasks"] for line in read_records(small)} == {"refusals 2x6": 2, "a 2x5": 3}
    assert "ECE" in as_markdown(read_records(small))
    capsys.readouterr()


def test_remembering_changes_no_answer(tmp_path):
    """Guards the short cut: the same bits with features kept in memory, in a file, and not at all."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())

    def answers() -> np.ndarray:
        start = StartingPoint.from_encoder(net, ImageFormat(3, 16))
        return FewShotClassifier(start).fit(images, list("aabbcc")).predict_proba(images)

    plain = answers()
    for _ in range(2):
        with photos.remembering(tmp_path) as made:
            np.testing.assert_array_equal(answers(), plain)
            (encoder,) = made.values()
            assert len(encoder.known) == 6
            encoder.save()
    np.testing.assert_array_equal(answers(), plain)


def test_the_diagram_of_known_answers():
    """By hand: said 0.6 and half right, said 0.9 and all right; the error is the mean distance, 0.1."""
    confidence, right = np.repeat([0.6, 0.9], 10), np.array([1.0, 0.0] * 5 + [1.0] * 10)
    bins = reliability(confidence[::-1], right[::-1])
    assert [each["share"] for each in bins] == [0.1] * 10
    assert [each["confidence"] for each in bins] == pytest.approx([0.6] * 5 + [0.9] * 5, abs=1e-12)
    assert [each["accuracy"] for each in bins] == [0.5] * 5 + [1.0] * 5
    tasks = [{"confidence": confidence.tolist(), "right": right.tolist()}] * 3
    found = photos.calibration(tasks)
    assert found["ece"] == pytest.approx(0.1, abs=1e-12)
    assert found["ece_interval"] == pytest.approx([0.1, 0.1], abs=1e-12)  # all tasks are alike


def test_only_what_is_between_the_marks_is_made(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    line = {"row": "refusals 5x5", "seed": 0, "tasks": 2, "known": 0.1, "known_ci95": 0.01}
    line |= {"unknown": 0.6, "unknown_ci95": 0.02}
    found = page_of(page, [json.loads(json.dumps(line))])
    assert found.startswith(f"before\n{BEGIN}\n")
    assert found.endswith(f"{END}\nafter\n")
    assert "| 5 × 5 | 2 | 10.0 ± 1.0 % | 60.0 ± 2.0 % |" in found
