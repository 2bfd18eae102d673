"""Verdicts: the arithmetic of paired differences, and that a false claim is called false."""

import math

import pytest

from metacontrast.experiments.catalog import FIGURES
from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Claim, Comparison, Line, Reading, above, faster, same
from metacontrast.experiments.speed_ups import speed_up, updates_to_reach
from metacontrast.experiments.tables import data_and_updates
from metacontrast.experiments.verdicts import (
    Interval,
    Table,
    judge,
    outcome_of,
    overall,
    student_interval,
)
from metacontrast.training.config import TrainConfig

PANEL = "here"


def lines(*names: str, updates: tuple[int, ...] = (10, 20, 100)) -> list[Line]:
    return [Line(PANEL, name, TrainConfig(), Schedule(updates), range(3)) for name in names]


def measurements(curves: dict[str, list[list[float]]], updates: tuple[int, ...] = (10, 20, 100)) -> list[dict]:
    """By line, per seed, the accuracy after each of `updates`."""
    return [
        {"panel": PANEL, "line": line, "seed": seed, "update": update, "tasks": 5, "values": {"zeroed/1": value}}
        for line, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for update, value in zip(updates, curve, strict=True)
    ]


def ends(**values: list[float]) -> list[dict]:
    return measurements({line: [[0.2, 0.3, value] for value in found] for line, found in values.items()})


def judged(claim: Comparison, records: list[dict]):
    names = {record["line"] for record in records}
    return judge(Claim("a claim", (claim,), ""), Table(lines(*sorted(names)), records))


def test_interval_of_two_values_is_the_cauchy_quantile_times_half_their_distance():
    """With one degree of freedom Student's t is Cauchy: its 97.5 % point is tan(0.475 π), exactly."""
    interval = student_interval([3.0, 5.0])
    assert interval.mean == 4
    assert interval.half == pytest.approx(math.tan(0.475 * math.pi), rel=1e-4)


def test_interval_of_three_values_has_the_closed_form_quantile():
    """With two degrees of freedom t_p = (2p - 1) sqrt(2 / (4 p (1 - p)))."""
    p = 0.975
    t = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    assert student_interval([1.0, 2.0, 3.0]).half == pytest.approx(t / math.sqrt(3), rel=1e-4)


def test_interval_narrows_with_seeds_towards_the_normal_one():
    halves = [student_interval([0.0, 1.0] * n).half * math.sqrt(2 * n) / 0.5 for n in (2, 5, 50)]
    assert halves[0] > halves[1] > halves[2] > 1.96


def test_one_value_decides_nothing():
    assert student_interval([1.0]).half == math.inf


def test_differences_are_paired_by_seed():
    """Seeds that differ by ten points among themselves leave a steady difference of one point certain."""
    records = ends(a=[0.31, 0.41, 0.51], b=[0.30, 0.40, 0.50])
    verdict = judged(above(PANEL, "a", "b", "zeroed/1"), records)
    assert verdict.judged[0].interval.mean == pytest.approx(0.01)
    assert verdict.judged[0].interval.half == pytest.approx(0, abs=1e-12)
    assert verdict.outcome == "holds"


def test_a_claim_that_fails_does_not_hold():
    records = ends(a=[0.30, 0.41, 0.50], b=[0.40, 0.50, 0.61])
    assert judged(above(PANEL, "a", "b", "zeroed/1"), records).outcome == "does not hold"


def test_a_difference_smaller_than_claimed_does_not_hold():
    records = ends(a=[0.401, 0.501, 0.601], b=[0.40, 0.50, 0.60])
    assert judged(above(PANEL, "a", "b", "zeroed/1"), records).outcome == "holds"
    assert judged(above(PANEL, "a", "b", "zeroed/1", margin=0.005), records).outcome == "does not hold"


def test_noise_leaves_a_claim_undecided():
    records = ends(a=[0.40, 0.55, 0.60], b=[0.45, 0.50, 0.58])
    assert judged(above(PANEL, "a", "b", "zeroed/1"), records).outcome == "undecided at this scale"


def test_two_seeds_decide_nothing():
    records = ends(a=[0.9, 0.9], b=[0.1, 0.1])
    assert judged(above(PANEL, "a", "b", "zeroed/1"), records).outcome == "undecided at this scale"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.009, 0.008, "holds"),
        (0.011, 0.02, "does not hold"),
        (-0.03, -0.02, "does not hold"),
        (-0.02, 0.001, "undecided at this scale"),
    ],
)
def test_alike_means_that_the_whole_interval_lies_within_the_margin(low, high, outcome):
    interval = Interval((low + high) / 2, (high - low) / 2, 3)
    assert outcome_of(interval, same(PANEL, "a", "b", "zeroed/1", 0.01)) == outcome


def test_a_difference_of_differences_adds_and_takes_away_per_seed():
    records = ends(a=[0.5, 0.6, 0.7], b=[0.4, 0.5, 0.6], c=[0.3, 0.3, 0.3], d=[0.25, 0.25, 0.25])
    readings = [Reading(name, "zeroed/1") for name in "abcd"]
    claim = Comparison("", PANEL, (readings[0], readings[3]), (readings[1], readings[2]))
    assert judged(claim, records).judged[0].interval.mean == pytest.approx(0.05)


def test_updates_to_a_level_lie_on_the_line_between_evaluations():
    curve = {10: 0.2, 20: 0.4, 100: 0.8}
    assert updates_to_reach(curve, 0.6) == pytest.approx(60)
    assert updates_to_reach(curve, 0.1) == 10
    assert updates_to_reach(curve, 0.9) == math.inf


def test_a_curve_stretched_by_a_factor_needs_so_many_times_the_updates():
    curve = {10: 0.2, 20: 0.35, 50: 0.4, 100: 0.8}
    stretched = {3 * update: value for update, value in curve.items()}
    assert 2 ** speed_up(curve, stretched).log2 == pytest.approx(3)
    assert 2 ** speed_up(stretched, curve).log2 == pytest.approx(1 / 3)
    assert speed_up(curve, stretched).levels == (0.2, 0.8)


def test_a_lucky_evaluation_moves_few_of_the_levels():
    slow = {10: 0.2, 20: 0.3, 30: 0.4, 40: 0.5}
    fast = {10: 0.2, 20: 0.5}
    assert abs(speed_up(fast, slow).log2 - speed_up(fast, slow | {30: 0.5}).log2) < 0.2


def test_what_starts_above_all_of_the_other_is_faster_by_an_unknown_factor():
    fast, slow = [0.5, 0.6, 0.9], [0.2, 0.4, 0.3]
    records = measurements({"fast": [fast] * 3, "slow": [slow] * 3})
    found = judged(faster(PANEL, "fast", "slow", "zeroed/1"), records)
    assert 2 ** found.judged[0].interval.mean == pytest.approx(20 / 10)
    assert found.judged[0].bounds == {"at least"}
    assert found.outcome == "holds"
    assert judged(faster(PANEL, "slow", "fast", "zeroed/1"), records).outcome == "does not hold"


def test_a_bound_decides_on_its_own_side_only():
    claim = faster(PANEL, "a", "b", "zeroed/1")
    assert outcome_of(Interval(-1.0, 0.1, 3), claim, {"at least"}) == "undecided at this scale"
    assert outcome_of(Interval(1.0, 0.1, 3), claim, {"at most"}) == "undecided at this scale"
    assert outcome_of(Interval(-1.0, 0.1, 3), claim, {"at most"}) == "does not hold"
    assert outcome_of(Interval(1.0, 0.1, 3), claim, {"at least"}) == "holds"


def test_the_speed_of_lines_that_differ_by_their_seeds_alone_is_undecided():
    curves = [[0.2, 0.4, 0.8], [0.21, 0.38, 0.82], [0.19, 0.42, 0.78]]
    records = measurements({"a": curves, "b": curves[1:] + curves[:1]})
    found = judged(faster(PANEL, "a", "b", "zeroed/1"), records)
    assert found.outcome == "undecided at this scale"
    assert found.judged[0].tasks == (5, 5)


def test_a_claim_holds_when_all_its_comparisons_do():
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "undecided at this scale"]) == "undecided at this scale"
    assert overall(["holds", "undecided at this scale", "does not hold"]) == "does not hold"


def test_early_is_the_last_measurement_within_the_first_fifth():
    (line,) = lines("a")
    assert (line.at("early"), line.at("end")) == (20, 100)
    (short,) = lines("a", updates=(50, 100))
    assert short.at("early") == 50


def test_updates_are_told_beside_those_of_the_published_training():
    def told(full_updates: dict[str, int]) -> str:
        table = Table(lines("a", "b"), ends(a=[1.0], b=[0.5]), full_updates)
        return data_and_updates(judge(Claim("", (above(PANEL, "a", "b", "zeroed/1"),), ""), table))

    assert told({PANEL: 3000}) == "here, 100 of 3,000 updates"
    assert told({PANEL: 100}) == "here, 100 updates"
    assert told({}) == "here, 100 updates"


def test_a_claim_about_the_end_is_undecided_before_it():
    claim = Claim("", (above(PANEL, "a", "b", "zeroed/1"),), "", about_the_end=True)
    arguments = lines("a", "b"), ends(a=[0.8, 0.8, 0.8], b=[0.5, 0.5, 0.5])
    assert judge(claim, Table(*arguments, {PANEL: 100})).outcome == "holds"
    assert judge(claim, Table(*arguments, {PANEL: 101})).outcome == "undecided at this scale"


def test_the_published_training_is_longer_than_the_local_one():
    setting = Setting("local")
    assert FIGURES["initialization-and-zeroing"].full_updates(setting) == {
        "Omniglot, 5-way 1-shot": 3000,
        "Omniglot, 5-way 5-shot": 3000,
        "CIFAR-FS, 5-way 1-shot": 30_000,
        "CIFAR-FS, 5-way 5-shot": 30_000,
    }
    for spec in FIGURES.values():
        full = spec.full_updates(setting)
        assert all(line.updates[-1] <= full[line.panel] for line in spec.lines(setting))
