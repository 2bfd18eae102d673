"""The weights with which support features enter a query's error signal: Eq. 6, 8 and 21, and their signs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feature_tasks import make_case, many
from metacontrast.theory import contrastive_coefficients, wrong_sign_share, zeroed_coefficients

# Sums of at most a dozen numbers below 4 in float64: rounding stays near 1e-15.
EXACT = {"rtol": 0, "atol": 1e-13}


def draw(seed: int, ways: int, steps: int = 1, sharpness: float = 2.0):
    case = make_case(seed, ways=ways)
    g = torch.Generator().manual_seed(seed)
    q = (sharpness * torch.randn(len(case.query_y), ways, generator=g, dtype=torch.float64)).softmax(-1)
    s = (sharpness * torch.randn(steps, len(case.support_y), ways, generator=g, dtype=torch.float64)).softmax(-1)
    return q, case.query_y, s, case.support_y


seeds, class_counts = st.integers(0, 2**31), st.integers(2, 7)


@many
@given(seeds, class_counts, st.integers(1, 4))
def test_coefficients_are_the_printed_sum_over_steps(seed, ways, steps):
    """Eq. 6 for one step and Eq. 21 for more, read off the page with loops; tolerance: rounding."""
    q, u, s, t = draw(seed, ways, steps)
    c = contrastive_coefficients(q, u, s, t)
    for i in range(len(u)):
        for m in range(len(t)):
            printed = 0.0
            for p in range(steps):
                total = sum(float(q[i, j] * s[p, m, j]) for j in range(ways))
                printed += -total + float(s[p, m, u[i]]) + float(q[i, t[m]]) - float(t[m] == u[i])
            assert abs(float(c[i, m]) - printed) < 1e-13


@many
@given(seeds, class_counts)
def test_a_coefficient_is_minus_the_product_of_the_two_output_errors(seed, ways):
    """Our reading of Eq. 6: c = -⟨q - e_u, s - e_t⟩; tolerance: rounding."""
    q, u, s, t = draw(seed, ways)
    one_hot = torch.eye(ways, dtype=torch.float64)
    torch.testing.assert_close(contrastive_coefficients(q, u, s, t), -(q - one_hot[u]) @ (s[0] - one_hot[t]).T, **EXACT)


@many
@given(seeds, class_counts)
def test_one_step_may_be_given_with_or_without_its_axis(seed, ways):
    """The shape that Eq. 6 has and the shape that Eq. 21 has mean the same for one step; equal to the last
    bit."""
    q, u, s, t = draw(seed, ways)
    assert torch.equal(contrastive_coefficients(q, u, s, t), contrastive_coefficients(q, u, s[0], t))


@many
@given(seeds, class_counts)
def test_uniform_support_outputs_leave_the_zeroed_form(seed, ways):
    """Eq. 8: a zeroed head answers 1/N_way for every support sample, balanced or not; tolerance: rounding."""
    q, u, s, t = draw(seed, ways)
    uniform = torch.full_like(s[0], 1 / ways)
    torch.testing.assert_close(contrastive_coefficients(q, u, uniform, t), zeroed_coefficients(q, u, t), **EXACT)


@pytest.mark.parametrize("ways", [3, 5, 7])
def test_in_float32_uniform_support_outputs_leave_exactly_the_zeroed_form(ways):
    """Extreme query outputs, where N_way · 1/N_way ≠ 1 would turn a q_t of nearly 0 round; equal to the last bit."""
    g = torch.Generator().manual_seed(ways)
    q = (8 * torch.randn(200, ways, generator=g)).softmax(-1)
    u, t = torch.randint(ways, (200,), generator=g), torch.arange(ways)
    c = contrastive_coefficients(q, u, torch.full((2, ways, ways), 1 / ways), t)
    assert torch.equal(c, 2 * zeroed_coefficients(q, u, t))
    assert wrong_sign_share(c, u, t) == 0


def test_in_float32_confident_outputs_have_the_signs_that_float64_has():
    """Where q and s are sure of their class, all terms of Eq. 6 cancel but for products of two small numbers."""
    g = torch.Generator().manual_seed(0)
    u, t = torch.arange(5).repeat(15), torch.arange(5)
    outputs = [8 * torch.eye(5, dtype=torch.float64)[y] + torch.randn(len(y), 5, generator=g) for y in (u, t)]
    q, s = (z.float().double().softmax(1) for z in outputs)
    c, exact = contrastive_coefficients(q.float(), u, s.float(), t), contrastive_coefficients(q, u, s, t)
    assert (c[u[:, None] == t] <= 0).all()
    sure = exact.abs() > 1e-7
    assert torch.equal(c[sure] > 0, exact[sure] > 0)


def test_a_share_of_weights_that_are_not_numbers_is_not_a_number():
    y = torch.tensor([0])
    assert wrong_sign_share(torch.tensor([[math.nan, -1.0]]), y, torch.tensor([0, 1])).isnan()


@many
@given(seeds, class_counts)
def test_zeroed_coefficients_attract_within_a_class_and_repel_between_classes(seed, ways):
    """Corollary 1: with the zeroing trick the loss is contrastive, not noisily so; strict signs, no
    tolerance."""
    q, u, _, t = draw(seed, ways)
    c = zeroed_coefficients(q, u, t)
    same = u[:, None] == t[None, :]
    assert (c[same] < 0).all()
    assert (c[~same] > 0).all()
    assert wrong_sign_share(c, u, t) == 0


@many
@given(seeds, class_counts, st.integers(1, 4))
def test_zeroed_coefficients_sum_to_zero_over_a_balanced_support_set(seed, ways, shots):
    """What attracts equals what repels: shots · (Σ_t q_t - 1) = 0; tolerance: rounding."""
    q, u, _, _ = draw(seed, ways)
    t = torch.arange(ways).repeat(shots)
    assert zeroed_coefficients(q, u, t).sum(1).abs().max() < 1e-14 * shots * ways


@many
@given(seeds, class_counts, st.integers(1, 3))
def test_no_head_repels_within_a_class(seed, ways, steps):
    """Section 2.4: for t = u, c = -Σ_{j≠u} q_j s_j - (1 - q_u)(1 - s_u) < 0, with any head and any number
    of steps."""
    q, u, s, t = draw(seed, ways, steps)
    c = contrastive_coefficients(q, u, s, t)
    assert (c[u[:, None] == t[None, :]] < 0).all()


def test_a_random_head_attracts_some_pairs_of_different_classes():
    """The noise of Theorem 1: signs between classes can be wrong. A share of pairs, so bounds and no
    tolerance."""
    q, u, s, t = draw(0, ways=5)
    c = contrastive_coefficients(q, u, s, t)
    by_hand = sum(
        float(c[i, m] < 0) if u[i] != t[m] else float(c[i, m] > 0) for i in range(len(u)) for m in range(len(t))
    )
    assert float(wrong_sign_share(c, u, t)) == by_hand / c.numel()
    assert 0.05 < by_hand / c.numel() < 0.8
