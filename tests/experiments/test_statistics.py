"""Intervals over seeds and test tasks: closed forms, and their nominal error under simulation."""

import math

import numpy as np
import pytest

from metacontrast.experiments.statistics import (
    ERROR,
    LOOKS,
    Estimate,
    error_at_look,
    holm,
    over_seeds,
    over_seeds_and_tasks,
    seeds_at_look,
)


def half(estimate: Estimate, tail: float = 0.025) -> float:
    low, high = estimate.interval(tail)
    return (high - low) / 2


def test_interval_of_two_values_is_the_cauchy_quantile_times_half_their_distance():
    """With one degree of freedom Student's t is Cauchy: its 97.5 % point is tan(0.475 π), exactly."""
    estimate = over_seeds([3.0, 5.0])
    assert estimate.mean == 4
    assert half(estimate) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)


def test_interval_of_three_values_has_the_closed_form_quantile():
    """With two degrees of freedom t_p = (2p - 1) sqrt(2 / (4 p (1 - p)))."""
    p = 0.975
    t = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    assert half(over_seeds([1.0, 2.0, 3.0])) == pytest.approx(t / math.sqrt(3), rel=1e-9)


def test_one_seed_decides_nothing():
    for estimate in (over_seeds([1.0]), over_seeds_and_tasks(np.ones((1, 5)))):
        assert half(estimate) == math.inf
        assert (estimate.p_above(0.0), estimate.p_below(0.0), estimate.p_within(1.0)) == (1, 1, 1)


def test_variances_of_a_table_that_is_worked_out_by_hand():
    """Rows 0, 2, 4 plus columns -1, 1: no noise is left, so σ_S² = 4 and σ_T² = 2, over 3 seeds and 2 tasks."""
    estimate = over_seeds_and_tasks(np.array([[-1.0, 1], [1, 3], [3, 5]]))
    assert estimate.mean == 2
    assert estimate.parts == ((pytest.approx(4 / 3), 2), (pytest.approx(1), 1))
    assert (estimate.seeds, estimate.tasks) == (3, 2)


def test_one_source_of_error_has_its_own_students_t():
    same_seeds = over_seeds_and_tasks(np.tile([-1.0, 0, 1], (4, 1)))
    assert half(same_seeds) == pytest.approx(half(over_seeds([-1.0, 0.0, 1.0])), rel=1e-9)
    same_tasks = over_seeds_and_tasks(np.tile([[-1.0], [0], [1]], (1, 4)))
    assert half(same_tasks) == pytest.approx(half(over_seeds([-1.0, 0.0, 1.0])), rel=1e-9)


def test_a_p_value_is_the_tail_whose_interval_ends_at_the_margin():
    estimate = over_seeds_and_tasks(np.random.default_rng(0).normal(1, 1, (4, 30)))
    for tail in (0.2, 0.025, 0.001):
        low, high = estimate.interval(tail)
        assert estimate.p_above(low) == pytest.approx(tail, rel=1e-6)
        assert estimate.p_below(high) == pytest.approx(tail, rel=1e-6)
    wide = max(abs(end) for end in estimate.interval(0.05))
    assert estimate.p_within(wide) == pytest.approx(0.05, rel=1e-6)
    assert estimate.p_outside(0.0) == pytest.approx(2 * estimate.p_above(0.0), rel=1e-6)
    near = estimate.p_above(0.1) + estimate.p_above(-0.1)
    assert (estimate.p_outside(0.1), estimate.p_outside(wide)) == (pytest.approx(near, rel=1e-6), 1)


def test_small_p_values_of_three_seeds_err_no_more_often_than_they_say():
    """Far out the weighted Student's t alone errs up to four times as often."""
    generator = np.random.default_rng(0)
    of_seeds = 2.5 * math.sqrt(3 * (0.05**2 + 0.05**2 / 3) / 50)
    tries, tails = 15_000, (0.0025, 0.0005)
    called = dict.fromkeys(tails, 0)
    for _ in range(tries):
        table = generator.normal(0, of_seeds, (3, 1)) + generator.normal(0, 0.05, 50)
        estimate = over_seeds_and_tasks(table + generator.normal(0, 0.05, (3, 50)))
        for tail in tails:
            called[tail] += estimate.interval(tail)[0] > 0
    for tail, number in called.items():
        assert number <= tail * tries + 3 * math.sqrt(tail * tries)


def test_more_seeds_narrow_the_part_of_the_seeds_alone():
    estimate = Estimate(1.0, ((0.3, 2), (0.1, 99)), 3, 100)
    assert estimate.with_more_seeds(12).parts == ((pytest.approx(0.075), 11), (0.1, 99))


def test_holm_against_an_independent_step_down():
    """The largest α that rejects a hypothesis in Holm's procedure, found by trying, is its adjusted p value."""
    p_values = [0.001, 0.04, 0.011, 0.02, 0.6]

    def rejected(alpha: float) -> set[int]:
        found: set[int] = set()
        for place, index in enumerate(sorted(range(5), key=lambda i: p_values[i])):
            if p_values[index] > alpha / (5 - place):
                return found
            found.add(index)
        return found

    for index, adjusted in enumerate(holm(p_values)):
        assert index in rejected(adjusted + 1e-9)
        assert index not in rejected(adjusted - 1e-9)


def test_looks_spend_the_error_once_and_seeds_between_looks_wait():
    assert sum(LOOKS.values()) == pytest.approx(1)
    assert [seeds_at_look(n, 3) for n in (2, 3, 4, 5, 11, 12, 20)] == [2, 3, 3, 5, 8, 12, 12]
    assert [error_at_look(n, 3) for n in (2, 3)] == [0, pytest.approx(ERROR / 2)]
    assert (seeds_at_look(12, 10), error_at_look(10, 10), error_at_look(9, 10)) == (10, ERROR / 2, 0)


def missed(seeds: int, of_seeds: float, of_tasks: float, tries: int = 1000, tasks: int = 100) -> float:
    """The share of 95 % intervals that do not hold the truth, which is 0."""
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(tries):
        differences = (
            generator.normal(0, of_seeds, (seeds, 1))
            + generator.normal(0, of_tasks, tasks)
            + generator.normal(0, 0.08, (seeds, tasks))
        )
        low, high = over_seeds_and_tasks(differences).interval()
        outside += not low <= 0 <= high
    return outside / tries


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(
    ("of_seeds", "of_tasks"), [(0.0, 0.0), (0.0, 0.1), (0.004, 0.05), (0.01, 0.1), (0.01, 0.0), (0.03, 0.05)]
)
def test_intervals_cover_seeds_and_tasks(seeds, of_seeds, of_tasks):
    """Nominal 95 % within two points; 1,000 tries add up to 2.1 (three standard errors) of their own.

    `benchmarks/coverage.py` does it with 20,000 tries each: 94.5 to 96.7 %.
    """
    assert 0.05 - 0.041 <= missed(seeds, of_seeds, of_tasks) <= 0.05 + 0.041


def test_intervals_over_seeds_alone_miss_more_often_than_they_say():
    """Why the counts per task are kept: with tasks shared by the seeds, Student's interval does not cover them."""
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(1000):
        differences = generator.normal(0, 0.1, 100) + generator.normal(0, 0.08, (3, 100))
        low, high = over_seeds(differences.mean(1).tolist()).interval()
        outside += not low <= 0 <= high
    assert outside > 150


def test_the_sequential_rule_errs_no_more_often_than_it_says():
    """No difference, up to four looks, stop at the first that decides: one-sided errors of each side stay below 5 %."""
    generator = np.random.default_rng(0)
    above = below = 0
    tries = 1500
    for _ in range(tries):
        values = generator.normal(0, 1, max(LOOKS)).tolist()
        for seeds in LOOKS:
            low, high = over_seeds(values[:seeds]).interval(error_at_look(seeds, 3))
            above, below = above + (low > 0), below + (high < 0)
            if low > 0 or high < 0:
                break
    assert 0.02 * tries < above < 0.05 * tries + 3 * math.sqrt(0.0475 * tries)
    assert 0.02 * tries < below < 0.05 * tries + 3 * math.sqrt(0.0475 * tries)


def test_two_one_sided_tests_err_no_more_often_than_they_say():
    """A difference exactly at the margin is called equal with the nominal chance at most, and nearly so."""
    generator = np.random.default_rng(0)
    values = generator.normal(0.01, 0.001, (4000, 5))
    equal = sum(over_seeds(row.tolist()).interval(0.05)[1] <= 0.01 for row in values)
    assert 0.04 < equal / 4000 < 0.06
