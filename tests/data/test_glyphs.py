"""Glyphs: always there, always the same, and a fair stand-in for a few-shot data set."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metacontrast.data import glyphs, load_dataset
from metacontrast.data.decode import ReadOptions
from metacontrast.data.glyphs import distort, draw_hands

NOWHERE = Path("does-not-exist")


@pytest.fixture(scope="module")
def splits():
    return {split: load_dataset("glyphs", split) for split in glyphs.SHARES}


def test_there_are_more_than_a_thousand_classes_of_twenty_drawings(splits):
    assert sum(map(len, splits.values())) >= 1000
    for images in splits.values():
        assert images.shape == (1, 28, 28)
        assert set(images.counts) == {20}


def test_the_splits_share_no_class_and_are_about_64_10_26_percent(splits):
    names = [name for images in splits.values() for name in images.classes]
    assert len(set(names)) == len(names)
    for split, images in splits.items():
        assert len(images) / len(names) == pytest.approx(glyphs.SHARES[split], abs=0.03)


def test_every_drawing_is_ink_on_white_paper(splits):
    """No drawing is blank, full, or repeated in its class; most pixels are paper, as in Omniglot."""
    for images in splits.values():
        ink = (images.images < 128).float().mean((1, 2, 3))
        assert float(ink.min()) > 0.005
        assert float(ink.max()) < 0.7
        assert float((images.images == 255).float().mean()) > 0.6
        by_class = images.images.reshape(len(images), 20, -1).numpy()
        assert all(len(np.unique(drawings, axis=0)) == 20 for drawings in by_class)


def test_characters_that_look_alike_make_one_class():
    """A, Α and А differ in code point only; c and C only in size, which the drawings do not keep."""
    characters = glyphs.distinct_characters()
    for alike in ("AΑА", "OОΟ0", "cCсС", "XΧХ", "Il|"):
        assert sum(c in characters for c in alike) <= 1, alike
    assert {"A", "B", "Ж", "ω", "ש"} <= set(characters)


def test_no_class_is_the_box_of_a_missing_character(splits):
    """Every character is in a reference font's own table, where a missing one has no entry."""
    for character in glyphs.distinct_characters():
        assert any(ord(character) in glyphs.code_points(font) for font in glyphs.REFERENCE_FONTS)
        assert glyphs.fonts_with(character)


def test_class_names_say_script_and_character():
    assert glyphs.class_name("α") == "Greek/small-alpha"
    assert glyphs.class_name("7") == "Digit/seven"
    assert glyphs.class_name("€") == "Currency/euro-sign"


def test_another_process_draws_the_same_pixels(splits):
    """Nothing depends on a global generator, the order of a set, or what was drawn before."""
    code = "from metacontrast.data import load_dataset; print(load_dataset('glyphs', 'val', cache=False).digest)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == splits["val"].digest


def test_a_class_is_the_same_whatever_is_drawn_beside_it():
    alone = glyphs.draw_characters(["ж"], 28)[0][1]
    beside = glyphs.draw_characters(["A", "ж", "7"], 28)[1][1]
    assert np.abs(alone.astype(int) - beside).max() <= 1, "batched arithmetic may round one grey differently"


def test_the_root_is_not_looked_at_and_global_generators_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    glyphs.read(NOWHERE, "val", ReadOptions())
    assert torch.rand(1) == expected


def test_inverting_and_size_are_options(splits):
    inverted = glyphs.read(NOWHERE, "val", ReadOptions(invert=True))
    assert inverted.images.equal(255 - splits["val"].images)
    assert glyphs.draw_characters(["A"], 40)[0][1].shape == (20, 1, 40, 40)


def test_a_higher_threshold_draws_thinner_strokes():
    face = glyphs.typeset("A", "DejaVuSans")
    assert face is not None
    hand = draw_hands(np.random.default_rng(0), 1)
    ink = torch.from_numpy(face)[None]
    thick, thin = (distort(ink, hand._replace(pen=np.array([p], np.float32)), 28) for p in (0.2, 0.5))
    assert int((thick < 128).sum()) > int((thin < 128).sum()) > 0


def test_without_distortion_a_drawing_is_the_character_itself():
    face = glyphs.typeset("A", "DejaVuSans")
    assert face is not None
    still = draw_hands(np.random.default_rng(0), 1)._replace(
        affine=np.eye(2, 3, dtype=np.float32)[None], knots=np.zeros((1, 2, 5, 5), np.float32)
    )
    drawing = 1 - distort(torch.from_numpy(face)[None], still, 32)[0, 0].double() / 255
    small = torch.from_numpy(face).double().reshape(32, 2, 32, 2).mean((1, 3))
    assert float(torch.corrcoef(torch.stack([drawing.flatten(), small.flatten()]))[0, 1]) > 0.9


def test_telling_five_characters_apart_is_neither_trivial_nor_hopeless(splits):
    """The nearest image by pixels is right in about half of a 5-way 1-shot task (0.52 here, 0.44 on Omniglot)."""
    x = splits["test"].images.reshape(len(splits["test"]), 20, -1).float() / 255
    rng = np.random.default_rng(0)
    right = []
    for _ in range(200):
        task = x[rng.choice(len(x), 5, replace=False)]
        nearest = torch.cdist(task[:, 1:].flatten(0, 1), task[:, 0]).argmin(1)
        right.append((nearest == torch.arange(5).repeat_interleave(19)).double().mean())
    assert 0.40 < float(torch.stack(right).mean()) < 0.62
