"""Cosine similarity between classes, the measure of Fig. 2."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feature_tasks import many
from metacontrast.errors import InputError
from metacontrast.theory import contrast, similarity_heatmap


def draw(seed: int, ways: int = 3, per_class: int = 4, size: int = 5):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat(per_class)[torch.randperm(ways * per_class, generator=g)]
    return torch.randn(len(y), size, generator=g, dtype=torch.float64), y


def by_hand(a, y, b, v, skip_self):
    heatmap = torch.zeros(3, 3, dtype=torch.float64)
    for k in range(3):
        for m in range(3):
            values = [
                float(a[i] @ b[j] / (a[i].norm() * b[j].norm()))
                for i in range(len(y))
                for j in range(len(v))
                if y[i] == k and v[j] == m and not (skip_self and i == j)
            ]
            heatmap[k, m] = sum(values) / len(values)
    return heatmap


@many
@given(st.integers(0, 2**31))
def test_an_entry_is_the_mean_cosine_over_the_pairs_of_two_classes(seed):
    """Fig. 2's quantity with loops: across two sets, within one, and within one with self pairs; rounding."""
    (a, y), (b, v) = draw(seed), draw(seed + 1, per_class=3)
    torch.testing.assert_close(similarity_heatmap(a, y, b, v), by_hand(a, y, b, v, skip_self=False))
    torch.testing.assert_close(similarity_heatmap(a, y), by_hand(a, y, a, y, skip_self=True))
    torch.testing.assert_close(similarity_heatmap(a, y, include_self_pairs=True), by_hand(a, y, a, y, skip_self=False))


def test_self_pairs_lift_the_diagonal_by_the_share_they_have():
    """With n samples a class, diagonal' = (1 + (n - 1) diagonal) / n, and nothing else changes; rounding."""
    a, y = draw(0)
    without, with_them = similarity_heatmap(a, y), similarity_heatmap(a, y, include_self_pairs=True)
    torch.testing.assert_close(with_them.diagonal(), (1 + 3 * without.diagonal()) / 4)
    assert contrast(with_them) > contrast(without)
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(with_them[off], without[off])


def test_contrast_is_one_for_orthogonal_classes_and_zero_for_equal_ones():
    """The two ends of the scale, exact."""
    y = torch.arange(3)
    assert contrast(similarity_heatmap(torch.eye(3), y, 2 * torch.eye(3), y)) == 1
    assert contrast(similarity_heatmap(torch.ones(3, 4), y, torch.ones(3, 4), y)).abs() < 1e-6


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e19, 1e30])
def test_the_length_of_features_does_not_matter_however_large_or_small(length):
    """Also where its square is no float32; rounding."""
    a, y = (each.float() if each.is_floating_point() else each for each in draw(0))
    torch.testing.assert_close(similarity_heatmap(length * a, y), similarity_heatmap(a, y))


def test_one_sample_per_class_has_no_pairs_among_themselves():
    """A one-shot support set among itself: 0/0 without self pairs, so an error that says what to do."""
    with pytest.raises(InputError, match="include_self_pairs=True"):
        similarity_heatmap(torch.eye(3), torch.arange(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(2), torch.tensor([0, 2])), "missing"),
        ((torch.eye(2), torch.tensor([0, 0])), "labels must be 0 to 1"),
        ((torch.eye(2), torch.tensor([0, 1]), torch.eye(2)), "together"),
        ((torch.eye(2) / 0, torch.tensor([0, 1])), "not finite"),
        ((torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 2])), "0 to 1"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, message):
    """Missing classes, a half-given second set, numbers that are not finite."""
    with pytest.raises(InputError, match=message) as error:
        similarity_heatmap(*arguments)
    assert "\n" not in str(error.value)


def test_contrast_wants_a_square_map():
    with pytest.raises(InputError, match="square"):
        contrast(torch.ones(1, 1))


def test_many_pairs_are_counted_in_half_precision():
    """65,520 pairs and more are infinitely many in float16; its spacing near 0.1 is 6e-5."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 16, generator=g) + 0.3, torch.arange(600) % 2
    found, expected = similarity_heatmap(x.half(), y), similarity_heatmap(x.double(), y)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    assert expected.abs().min() > 0.05
