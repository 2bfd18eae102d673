"""Verdicts: paired differences over seeds and tasks, stages, four outcomes, and that a false claim is called false."""

import math
from dataclasses import replace

import numpy as np
import pytest

from metacontrast.errors import InputError
from metacontrast.experiments.claims import Accuracy, Claim, Comparison, Endpoint, TaskKind, above, faster, same
from metacontrast.experiments.figures import FIGURES
from metacontrast.experiments.measurement import Table, decode_counts, encode_counts
from metacontrast.experiments.pictures import Drawn, mean_curve
from metacontrast.experiments.rows import data_and_updates, describe_interval
from metacontrast.experiments.setting import MEASURED_UPDATES, MeasurementPlan, Setting
from metacontrast.experiments.spec import Curve, Measurement
from metacontrast.experiments.statistics import estimate_speed_up, reached_between, speed_up, updates_to_reach
from metacontrast.experiments.verdicts import Verdict, judge, judge_together
from metacontrast.plots.curves import Look
from metacontrast.training.config import TrainConfig

KIND, THERE, NOWHERE = (TaskKind(name, "") for name in ("here", "there", "nowhere"))
ZEROED = Accuracy("zeroed", 1)
LOOK = Look("red", "o")
UPDATES = (10, 20, 100)
QUERIES = 75


def curves(*names: str, updates: tuple[int, ...] = UPDATES) -> list[Curve]:
    return [Curve(KIND, name, LOOK, TrainConfig(), MeasurementPlan(updates), range(3)) for name in names]


def means(curves: dict[str, list[list[float]]], updates: tuple[int, ...] = UPDATES) -> list[Measurement]:
    """By curve, per seed, the accuracy after each of `updates`, without counts."""
    return [
        Measurement(KIND, name, seed, {"update": update, "tasks": 5, "values": {"zeroed/1": value}})
        for name, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for update, value in zip(updates, curve, strict=True)
    ]


def ends(**values: list[float]) -> list[Measurement]:
    return means({name: [[0.2, 0.3, value] for value in found] for name, found in values.items()})


def counted(name: str, accuracies: np.ndarray, update: int) -> list[Measurement]:
    """Measurements of one update with counts; `accuracies` by seed and task."""
    return [
        Measurement(
            KIND,
            name,
            seed,
            {
                "update": update,
                "tasks": len(row),
                "queries": QUERIES,
                "values": {"zeroed/1": float(np.mean(np.round(row * QUERIES)) / QUERIES)},
                "correct": {"zeroed/1": encode_counts(np.round(row * QUERIES).astype(int).tolist())},
            },
        )
        for seed, row in enumerate(accuracies)
    ]


def claim_of(*comparisons: Comparison, speaks: str = "early") -> Claim:
    return Claim("a claim", comparisons, "", speaks)  # type: ignore[arg-type]


def judged(comparison: Comparison, records: list[Measurement]) -> Verdict:
    names = {measurement.curve for measurement in records}
    return judge(claim_of(comparison), Table(curves(*sorted(names)), records))


def test_counts_survive_their_encoding():
    """Every count of up to 300 queries, in a text that JSON writes with one character each up to 77."""
    counts = list(range(301))
    assert decode_counts(encode_counts(counts)).tolist() == counts
    assert all(character.isascii() and character not in '"\\' for character in encode_counts(range(78)))


def test_differences_are_paired_by_seed():
    """Seeds that differ by ten points among themselves leave a steady difference of one point certain."""
    verdict = judged(above(KIND, "a", "b", ZEROED), ends(a=[0.31, 0.41, 0.51], b=[0.30, 0.40, 0.50]))
    estimate = verdict.judged[0].lower
    assert (estimate.mean, estimate.error) == (pytest.approx(0.01), pytest.approx(0, abs=1e-12))
    assert verdict.outcome == "supported"


def test_differences_are_paired_by_task():
    """Tasks that differ by 30 points leave a steady difference of four queries in 75 certain."""
    tasks = np.random.default_rng(0).uniform(0.4, 0.7, (3, 50))
    records = counted("a", tasks + 4 / QUERIES, 100) + counted("b", tasks, 100)
    estimate = judged(above(KIND, "a", "b", ZEROED), records).judged[0].lower
    assert (estimate.mean, estimate.error) == (pytest.approx(4 / QUERIES), pytest.approx(0, abs=1e-12))
    assert (estimate.seeds, estimate.tasks) == (3, 50)


def test_only_common_tasks_are_compared():
    """The first tasks of the longer list, which are the same ones; means of another number are of these as well."""
    tasks = np.random.default_rng(0).uniform(0.4, 0.7, (3, 50))
    records = counted("a", tasks, 100) + counted("b", tasks[:, :20], 100)
    estimate = judged(above(KIND, "a", "b", ZEROED), records).judged[0].lower
    assert (estimate.mean, estimate.tasks) == (0, 20)
    old = [replace(m, record={k: v for k, v in m.record.items() if k != "correct"}) for m in records[3:]]
    weaker = judged(above(KIND, "a", "b", ZEROED), records[:3] + old).judged[0].lower
    assert weaker.mean == pytest.approx(0, abs=1e-12)
    assert weaker.tasks == 0
    whole = [replace(m, record={k: v for k, v in m.record.items() if k != "correct"}) for m in records[:3]]
    with pytest.raises(InputError, match="mean over 50 tasks cannot be compared on the first 20"):
        judged(above(KIND, "a", "b", ZEROED), whole + records[3:])


def test_a_claim_that_fails_is_not_supported():
    records = ends(a=[0.30, 0.41, 0.50], b=[0.40, 0.50, 0.61])
    assert judged(above(KIND, "a", "b", ZEROED), records).outcome == "not supported"


def test_a_difference_smaller_than_claimed_is_not_supported():
    records = ends(a=[0.401, 0.501, 0.601], b=[0.40, 0.50, 0.60])
    assert judged(above(KIND, "a", "b", ZEROED), records).outcome == "supported"
    assert judged(above(KIND, "a", "b", ZEROED, margin=0.005), records).outcome == "not supported"


def test_noise_is_inconclusive_and_the_reason_says_how_many_seeds_would_decide():
    verdict = judged(above(KIND, "a", "b", ZEROED), ends(a=[0.40, 0.47, 0.60], b=[0.45, 0.40, 0.50]))
    assert verdict.outcome == "inconclusive"
    assert verdict.reason == "here, a − b, zeroed/1, end: at this spread, 12 seeds would not be enough"
    near = judged(above(KIND, "a", "b", ZEROED), ends(a=[0.46, 0.54, 0.62], b=[0.44, 0.50, 0.57]))
    assert near.reason.endswith("at this spread, 5 seeds would decide it")


def test_two_seeds_are_not_testable_yet():
    verdict = judged(above(KIND, "a", "b", ZEROED), ends(a=[0.9, 0.9], b=[0.1, 0.1]))
    assert (verdict.outcome, verdict.p) == ("not testable yet", None)
    assert verdict.reason == "here: needs 3 seeds, has 2"


def test_seeds_between_two_looks_are_not_looked_at():
    records = ends(a=[0.31, 0.41, 0.51, 0.0], b=[0.30, 0.40, 0.50, 0.9])
    assert judged(above(KIND, "a", "b", ZEROED), records).judged[0].lower.seeds == 3


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.009, 0.008, "supported"),
        (0.011, 0.02, "not supported"),
        (-0.03, -0.02, "not supported"),
        (-0.02, 0.001, "inconclusive"),
    ],
)
def test_alike_means_that_the_whole_interval_lies_within_the_margin(low, high, outcome):
    """Three seeds with the mean and the spread that give the interval; t_2 at 97.5 % is sqrt(2) 0.95 / sqrt(0.0975)."""
    t = math.sqrt(2) * 0.95 / math.sqrt(1 - 0.95**2)
    middle, spread = (low + high) / 2, (high - low) / 2 * math.sqrt(3) / t
    records = ends(a=[0.5 + middle - spread, 0.5 + middle, 0.5 + middle + spread], b=[0.5, 0.5, 0.5])
    verdict = judged(same(KIND, "a", "b", ZEROED, 0.01), records)
    assert verdict.judged[0].interval == (pytest.approx(low), pytest.approx(high))
    assert verdict.outcome == outcome


def test_refuting_a_claim_is_corrected_for_its_number_of_comparisons():
    """A p value of .02 refutes a claim of one comparison at 2.5 %, but not one of two."""
    records = ends(a=[0.42, 0.405, 0.395], b=[0.45, 0.45, 0.45], c=[0.1, 0.1, 0.1])
    failing, fine = above(KIND, "a", "b", ZEROED), above(KIND, "b", "c", ZEROED)
    table = Table(curves("a", "b", "c"), records)
    one, two = judge(claim_of(failing), table), judge(claim_of(failing, fine), table)
    assert 0.025 < one.judged[0].p_against < 0.05
    assert two.judged[0].p_against == pytest.approx(2 * one.judged[0].p_against)
    assert (one.outcome, two.outcome) == ("not supported", "inconclusive")


def test_a_claim_is_supported_when_all_its_comparisons_are():
    records = ends(a=[0.6, 0.61, 0.62], b=[0.5, 0.51, 0.52], c=[0.5, 0.6, 0.4])
    table = Table(curves("a", "b", "c"), records)
    sure, unsure = above(KIND, "a", "b", ZEROED), above(KIND, "b", "c", ZEROED)
    assert judge(claim_of(sure), table).outcome == "supported"
    assert judge(claim_of(sure, unsure), table).outcome == "inconclusive"
    assert judge(claim_of(sure, above(KIND, "b", "a", ZEROED)), table).outcome == "not supported"


def test_a_difference_of_differences_adds_and_takes_away_per_seed():
    records = ends(a=[0.5, 0.6, 0.7], b=[0.4, 0.5, 0.6], c=[0.3, 0.3, 0.3], d=[0.25, 0.25, 0.25])
    endpoints = [Endpoint(name, ZEROED) for name in "abcd"]
    claim = Comparison("", KIND, (endpoints[0], endpoints[3]), (endpoints[1], endpoints[2]))
    assert judged(claim, records).judged[0].lower.mean == pytest.approx(0.05)


SURE = above(KIND, "a", "b", ZEROED)
AHEAD = ends(a=[0.8, 0.8, 0.8], b=[0.5, 0.5, 0.5])
BEHIND = ends(a=[0.5, 0.5, 0.5], b=[0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    ("speaks", "records", "before", "there"),
    [
        ("early", AHEAD, "supported", "supported"),
        ("early", BEHIND, "not supported", "not supported"),
        ("end", AHEAD, "not testable yet", "supported"),
        ("end", BEHIND, "not testable yet", "not supported"),
        ("throughout", AHEAD, "not testable yet", "supported"),
        ("throughout", BEHIND, "not supported", "not supported"),
    ],
)
def test_what_a_claim_speaks_of_decides_when_it_can_be_tested(speaks, records, before, there):
    for full, outcome in ((1000, before), (100, there)):
        table = Table(curves("a", "b"), records, {(KIND, name): full for name in "ab"})
        verdict = judge(claim_of(SURE, speaks=speaks), table)
        assert verdict.outcome == outcome
        assert (outcome == "not testable yet") == (verdict.reason == "here: needs 1,000 updates, has 100")


def test_a_verdict_is_given_at_the_last_stage_that_all_curves_have_reached():
    """One curve has gone further on all seeds, the other on one; the stage is the last with three seeds of both."""
    records = means({"a": [[0.5, 0.6, 0.9]] * 3, "b": [[0.4, 0.5, 0.95]] * 3})
    records = [m for m in records if m.curve == "a" or m.record["update"] < 100 or m.seed == 0]
    verdict = judged(SURE, records)
    assert (verdict.judged[0].updates, verdict.outcome) == (20, "supported")
    assert data_and_updates(verdict) == "here, 20 updates"


def test_a_stage_with_a_thousand_counted_tasks_comes_before_a_later_one_with_means():
    rows = np.random.default_rng(0).uniform(0.4, 0.7, (3, 1000))
    records = counted("a", rows + 4 / QUERIES, 20) + counted("b", rows, 20)
    assert judged(SURE, records + ends(a=[0.1] * 3, b=[0.9] * 3)[2::3]).judged[0].updates == 20
    few = counted("a", rows[:, :250] + 4 / QUERIES, 20) + counted("b", rows[:, :250], 20)
    assert judged(SURE, few + ends(a=[0.1] * 3, b=[0.9] * 3)[2::3]).judged[0].updates == 100


def test_early_is_the_last_measurement_within_the_first_fifth_of_the_published_training():
    table = Table(curves("a"), ends(a=[0.5]), {(KIND, "a"): 100})
    endpoints = [Endpoint("a", ZEROED)]
    assert table.stage(KIND, endpoints, "early") == (20, [0])
    assert table.stage(KIND, endpoints, "end") == (100, [0])
    longer = Table(curves("a"), ends(a=[0.5]), {(KIND, "a"): 1000})
    assert longer.stage(KIND, endpoints, "early") == (100, [0])


def test_what_was_not_measured_is_said():
    missing = above(KIND, "a", "c", ZEROED)
    verdict = judge(claim_of(SURE, missing), Table(curves("a", "b"), AHEAD))
    assert verdict.outcome == "not testable yet"
    assert verdict.reason == "here: not measured: a − c, zeroed/1, end"
    refuted = judge(claim_of(SURE, missing), Table(curves("a", "b"), BEHIND))
    assert refuted.outcome == "not supported"


def elsewhere(records: list[Measurement], kind: TaskKind) -> list[Measurement]:
    return [replace(measurement, kind=kind) for measurement in records]


def test_several_bodies_of_evidence_must_agree():
    there = above(THERE, "a", "b", ZEROED)
    claim = replace(claim_of(SURE), of_authors=(there,))
    both = [claim, replace(claim, comparisons=(above(NOWHERE, "a", "b", ZEROED),))]
    cases = [(AHEAD, AHEAD, "supported"), (AHEAD, BEHIND, "inconclusive"), (AHEAD, [], "supported")]
    for ours, theirs, outcome in cases:
        table = Table(curves("a", "b"), ours + elsewhere(theirs, THERE))
        verdict = judge_together(both, table)
        assert verdict.outcome == outcome
        assert len(verdict.judged) == 1 + bool(theirs)
    noise = ends(a=[0.40, 0.55, 0.60], b=[0.45, 0.50, 0.58])
    assert judge_together(both, Table(curves("a", "b"), noise + elsewhere(AHEAD, THERE))).outcome == "supported"


def test_one_body_of_several_must_decide_by_more():
    """Alone p = .031 is enough; as one of two of which the other leaves it open, it is not; if both say so, it is."""
    barely = ends(a=[0.53, 0.53, 0.55], b=[0.5, 0.5, 0.5])
    noise = ends(a=[0.40, 0.55, 0.60], b=[0.45, 0.50, 0.58])
    claim = replace(claim_of(SURE), of_authors=(above(THERE, "a", "b", ZEROED),))
    cases = [(barely, [], "supported"), (barely, noise, "inconclusive"), (barely, barely, "supported")]
    for ours, theirs, outcome in cases:
        verdict = judge_together([claim], Table(curves("a", "b"), ours + elsewhere(theirs, THERE)))
        assert verdict.outcome == outcome
        assert verdict.p == pytest.approx(0.0630 if outcome == "inconclusive" else 0.0315, abs=2e-3)
        assert bool(verdict.reason) == (outcome == "inconclusive")


def test_a_comparison_of_several_bodies_of_evidence_is_listed_once():
    """A claim about Omniglot and colour images has its Omniglot comparison with each set of colour images."""
    colours = [above(kind, "a", "b", ZEROED) for kind in (THERE, NOWHERE)]
    both = [claim_of(SURE, colour) for colour in colours]
    verdict = judge_together(both, Table(curves("a", "b"), AHEAD + elsewhere(AHEAD, THERE)))
    assert [each.comparison for each in verdict.judged] == [SURE, colours[0]]


def test_models_that_cover_a_part_of_a_claim_refute_it_but_do_not_support_it():
    """The authors released no models with a zero start, of which the sentence speaks too."""
    theirs = replace(THERE, is_authors=True)
    claim = replace(claim_of(SURE), of_authors=(above(theirs, "a", "b", ZEROED),), authors_lack="the zero start")
    found = judge_together([claim], Table(curves("a", "b"), elsewhere(AHEAD, theirs)))
    assert found.outcome == "not testable yet"
    assert "support it but for the zero start" in found.reason
    refuted = judge_together([claim], Table(curves("a", "b"), elsewhere(BEHIND, theirs)))
    assert refuted.outcome == "not supported"


def test_nothing_measured_is_not_testable_yet():
    assert judge_together([claim_of(SURE)], Table(curves("a", "b"), [])).outcome == "not testable yet"


def test_updates_to_a_level_lie_on_the_line_between_evaluations():
    curve = {10: 0.2, 20: 0.4, 100: 0.8}
    assert updates_to_reach(curve, 0.6) == pytest.approx(60)
    assert updates_to_reach(curve, 0.1) == 10
    assert updates_to_reach(curve, 0.9) == math.inf
    assert reached_between(curve, 0.6) == (20, 100)


def test_the_ratio_of_a_stretched_curve_lies_within_its_bounds():
    """Three times the updates, seen at the same evaluations: level 0.5 is reached in (10, 20] and in (20, 60]."""
    fast, slow = {10: 0.2, 20: 0.8, 60: 0.8}, {10: 0.1, 20: 0.2, 60: 0.8}
    found = speed_up(fast, slow)
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(math.log2(6)))
    assert found.levels == (0.2, 0.8)
    assert speed_up(slow, fast).low == pytest.approx(-math.log2(6))


def test_what_stays_below_the_first_point_of_the_other_needs_more_updates_than_it_has():
    """Levels between 0.5 and 0.6: reached in (10, 20] by the one, and after 40, if ever, by the other."""
    high, low = {10: 0.5, 20: 0.6}, {10: 0.2, 40: 0.4}
    found = speed_up(high, low)
    assert (found.low, found.high, found.levels) == (1, math.inf, (0.5, 0.6))
    found = speed_up(low, high)
    assert (found.low, found.high) == (-math.inf, -1)


@pytest.mark.parametrize(("of_seeds", "noise"), [(0.0, 0.01), (0.02, 0.003)])
def test_two_flat_curves_are_not_told_apart(of_seeds, noise):
    """Neither rises: which is above the other is the noise of evaluations, or that of seeds, alike at all of them."""
    updates = tuple(update for update in MEASURED_UPDATES["omniglot"] if update <= 3000)
    generator = np.random.default_rng(0)
    decided = 0
    for _ in range(150):
        own = generator.normal(0.4, of_seeds, (2, 3))
        flat = own[:, :, None] + generator.normal(0, noise, (2, 3, len(updates)))
        table = Table(curves("a", "b", updates=updates), means(dict(zip("ab", flat.tolist(), strict=True)), updates))
        decided += judge(claim_of(faster(KIND, "a", "b", ZEROED)), table).outcome != "inconclusive"
    assert decided <= 0.05 * 150 + 3 * math.sqrt(0.05 * 150)


@pytest.mark.parametrize("curve", [[0.5, 0.6, 0.9], [0.2, 0.5, 0.9]])
def test_the_interval_of_a_ratio_never_has_zero_width(curve):
    """Three seeds that are alike to the last digit, as happens on a coarse grid of evaluations."""
    records = means({"fast": [curve] * 3, "slow": [[0.2, 0.3, 0.4]] * 3})
    found = judged(faster(KIND, "fast", "slow", ZEROED), records).judged[0]
    low, high = found.interval
    assert low < found.lower.mean < high
    assert "in every seed" not in describe_interval(found)


def test_a_curve_that_is_clearly_faster_is_and_the_other_is_not():
    updates = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
    seeds = [0.9, 1.0, 1.1]
    shapes = {
        name: [[1 - math.exp(-update * seed / time) for update in updates] for seed in seeds]
        for name, time in (("fast", 20), ("slow", 80))
    }
    table = Table(curves("fast", "slow", updates=updates), means(shapes, updates))
    assert judge(claim_of(faster(KIND, "fast", "slow", ZEROED)), table).outcome == "supported"
    assert judge(claim_of(faster(KIND, "slow", "fast", ZEROED)), table).outcome == "not supported"


def test_the_speed_of_lines_that_differ_by_their_seeds_alone_is_inconclusive():
    curves = [[0.2, 0.4, 0.8], [0.21, 0.38, 0.82], [0.19, 0.42, 0.78]]
    records = means({"a": curves, "b": curves[1:] + curves[:1]})
    assert judged(faster(KIND, "a", "b", ZEROED), records).outcome == "inconclusive"


def test_curves_are_compared_on_the_same_tasks_where_one_has_means_only():
    """The first 5 of 10 tasks are easy; a mean over all 10 is compared with the mean of a counted curve over all 10."""
    updates = (10, 20, 30, 40)
    easy = np.repeat([0.3, 0.0], 5)
    shares = {update: np.tile(0.2 + update / 100 + easy, (3, 1)) for update in updates}
    records = [each for update in updates for each in counted("a", shares[update], update)]
    records += [
        Measurement(KIND, "b", each.seed, {name: value for name, value in each.record.items() if name != "correct"})
        for each in records
    ]
    for each in records:
        if each.record["update"] == 10:  # both have the first 5 tasks alone there
            part = easy[:5] + 0.3
            each.record["tasks"], each.record["values"] = 5, {"zeroed/1": float(part.mean())}
            if "correct" in each.record:
                counts = np.round(part * QUERIES).astype(int).tolist()
                each.record["correct"] = {"zeroed/1": encode_counts(counts)}
    (found,) = judge(claim_of(faster(KIND, "a", "b", ZEROED)), Table(curves("a", "b", updates=updates), records)).judged
    assert found.lower.tasks == 0
    assert found.lower.mean == pytest.approx(-found.upper.mean)
    assert found.outcome == "inconclusive"


def test_few_test_tasks_widen_the_interval_of_a_ratio():
    """The bootstrap over tasks adds to the error; the same numbers as means only leave it out."""
    generator = np.random.default_rng(0)
    curves = [
        {update: 0.3 + update / scale + generator.normal(0, 0.15, (3, 40)) for update in (10, 20, 30, 40)}
        for scale in (100, 200)
    ]
    found = estimate_speed_up(*curves)
    alone = estimate_speed_up(*({u: v.mean(1, keepdims=True) for u, v in c.items()} for c in curves))
    assert found.levels == pytest.approx(alone.levels)
    assert found.lower.mean == pytest.approx(alone.lower.mean)
    assert found.lower.error > 1.1 * alone.lower.error
    assert (found.lower.tasks, alone.lower.tasks) == (40, 0)
    assert (found.above.tasks, alone.above.tasks) == (40, 0)


def test_levels_that_some_samples_of_the_tasks_never_reach_leave_the_ratio_open():
    """Curves that hardly rise, on a few tasks that are right or wrong."""
    generator = np.random.default_rng(1)
    fast, slow = (
        {10: (generator.random((12, 6)) < 0.5) * 1.0, 20: (generator.random((12, 6)) < 0.52) * 1.0} for _ in "ab"
    )
    found = estimate_speed_up(fast, slow)
    assert (found.lower.interval()[0], found.upper.interval()[1]) == (-math.inf, math.inf)


def test_updates_are_told_beside_those_of_the_published_training():
    def told(full: int | None) -> str:
        known = {} if full is None else {(KIND, name): full for name in "ab"}
        return data_and_updates(judge(claim_of(SURE), Table(curves("a", "b"), ends(a=[1.0], b=[0.5]), known)))

    assert [told(full) for full in (3000, 100, None)] == [
        "here, 100 of 3,000 updates",
        "here, 100 updates",
        "here, 100 updates",
    ]


def test_every_claim_about_the_end_needs_the_published_length():
    """Earlier lengths, a tenth of it or less, cannot judge these."""
    ends_of = {claim.text: claim.speaks for spec in FIGURES.values() for claim in spec.claims(Setting())}
    for start in (
        "The zeroing trick keeps the network from memorizing",
        "A head scaled by 0.5 behaves like one at zero",
        "Zeroing the head at test raises accuracy on Omniglot",
        "With the trick, non-mutually-exclusive tasks cost less than one point",
        "FOMAML with and without the trick, and SOMAML with it, converge",
    ):
        assert [speaks for text, speaks in ends_of.items() if text.startswith(start)] == ["end"]


def test_the_claim_of_section_b6_is_about_the_runs_of_figure_8():
    texts = [claim.text for claim in FIGURES["exact-reformulation"].claims(Setting())]
    assert any("(Section B.6)" in text for text in texts)
    assert not any("B.6" in claim.text for claim in FIGURES["first-and-second-order"].claims(Setting()))


def test_the_published_lengths():
    setting = Setting("local")
    full = FIGURES["initialization-and-zeroing"].full_updates(setting)
    assert {kind.data: end for (kind, _), end in full.items()} == {"Omniglot": 3000, "CIFAR-FS": 30_000}
    assert set(FIGURES["inner-steps"].full_updates(setting).values()) == {17_500}
    assert set(FIGURES["inner-steps"].full_updates(Setting("local", "paper")).values()) == {30_000}
    assert set(FIGURES["exact-reformulation"].full_updates(setting).values()) == {20_000}
    for spec in FIGURES.values():
        full = spec.full_updates(setting)
        assert all(curve.updates[-1] <= full[curve.kind, curve.name] for curve in spec.curves(setting))


def test_a_curve_is_drawn_as_far_as_three_seeds_got():
    """Two of five stop early: up to there the mean of five, beyond it of three; of fewer seeds all must get there."""
    (curve,) = curves("one")
    far, near = means({"one": [[0.1, 0.2, 0.3]] * 3}), means({"one": [[0.1, 0.2]] * 5}, UPDATES[:2])
    late = [replace(each, record=each.record | {"values": {"zeroed/1": 0.7}}) for each in near if each.seed > 2]
    drawn = mean_curve(Drawn(curve, LOOK, ZEROED), Table([curve], [*far, *late]))
    assert drawn.updates == [10, 20, 100]
    assert drawn.mean == pytest.approx([(0.3 + 1.4) / 5, (0.6 + 1.4) / 5, 0.3])
    two = [each for each in far if each.seed == 0] + [each for each in near if each.seed == 1]
    assert mean_curve(Drawn(curve, LOOK, ZEROED), Table([curve], two)).updates == [10, 20]
