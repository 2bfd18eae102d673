"""Verdicts on the paper's claims.

A comparison is the mean of a difference over training seeds and common test tasks. It is taken at the last stage that
all its curves have reached; `statistics` has the interval, which covers seeds and tasks where correct answers were
counted per task, and seeds only where nothing but means is kept. With the one-sided error e for this number of seeds,
and k comparisons in the claim, a comparison is

    supported          if its p value for the claim is at most e,
    not supported      if its p value against the claim is at most e/k,
    inconclusive       otherwise,

where an equality is tested by two one-sided tests. A claim is supported when all its comparisons are, and not
supported when one is not, except that a claim which speaks of the end of training is `not testable yet` before that
end, and one which speaks of all of training is not supported or not testable yet, but never supported, before it.

A claim may have several bodies of evidence. Where all of them that were tested come out alike, its p value is the
largest of theirs; where only some decide, it is the smallest times their number, and above e nothing is decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from metacontrast.experiments.claims import Claim, Comparison, When
from metacontrast.experiments.measurement import Table
from metacontrast.experiments.statistics import (
    ERROR,
    FEWEST_SEEDS,
    LOOKS,
    Estimate,
    SpeedEstimate,
    error_at_look,
    estimate_speed_up,
    over_seeds,
    over_seeds_and_tasks,
    seeds_at_look,
)

Decision = Literal["supported", "not supported", "inconclusive", "not testable yet"]


@dataclass(frozen=True)
class Judged:
    """A comparison with its estimate; for `faster` of the logarithm to base 2 of the ratio of updates.

    Args:
        error: one-sided error that this number of seeds may spend; 0 where there are too few.
        rivals: number of comparisons in the claim.
        updates: after how many it is judged.
        full_updates: how many the published training has, where that is known.
    """

    comparison: Comparison
    estimate: Estimate | SpeedEstimate
    error: float
    rivals: int
    updates: int
    full_updates: int | None = None

    @property
    def lower(self) -> Estimate:
        """The estimate whose interval has the lower end: for `faster` that of the lower bound."""
        return self.estimate.lower if isinstance(self.estimate, SpeedEstimate) else self.estimate

    @property
    def upper(self) -> Estimate:
        """The estimate whose interval has the upper end: for `faster` that of the upper bound."""
        return self.estimate.upper if isinstance(self.estimate, SpeedEstimate) else self.estimate

    @property
    def levels(self) -> tuple[float, float] | None:
        """For `faster`, between which accuracies, mean over seeds."""
        return self.estimate.levels if isinstance(self.estimate, SpeedEstimate) else None

    @property
    def interval(self) -> tuple[float, float]:
        """Interval at the error that decides, or of 95 % where there are too few seeds for a decision."""
        tail = self.error or ERROR / 2
        return self.lower.interval(tail)[0], self.upper.interval(tail)[1]

    @property
    def p_for(self) -> float:
        """One-sided p value for the claim, corrected for the looks."""
        found, margin = self.estimate, self.comparison.margin
        if isinstance(found, SpeedEstimate):
            return self._over_looks(found.p_faster)
        return self._over_looks(found.p_within(margin) if self._is_equality else found.p_above(margin))

    @property
    def p_against(self) -> float:
        """One-sided p value against the claim, corrected for the looks and the number of comparisons."""
        found, margin = self.estimate, self.comparison.margin
        if isinstance(found, SpeedEstimate):
            return self._over_looks(self.rivals * found.p_slower)
        return self._over_looks(self.rivals * (found.p_outside(margin) if self._is_equality else found.p_below(margin)))

    @property
    def outcome(self) -> Decision:
        """The decision as far as training went."""
        if self.p_for <= ERROR:
            return "supported"
        return "not supported" if self.p_against <= ERROR else "inconclusive"

    @property
    def is_at_the_end(self) -> bool:
        """Whether longer training would not change what is compared."""
        whens = {each.when for each in self.comparison.endpoints}
        speaks_early = self.comparison.measure == "faster" or whens == {"early"}
        return speaks_early or self.updates >= (self.full_updates or 0)

    @property
    def _is_equality(self) -> bool:
        return self.comparison.measure == "equal"

    def _over_looks(self, p: float) -> float:
        return min(1.0, p * ERROR / self.error) if self.error else 1.0


@dataclass(frozen=True)
class Verdict:
    """A claim, its comparisons, and the verdict that follows from them.

    Args:
        decided_by: of `judged` those from which the outcome follows.
        reason: why nothing was decided, and what would decide it; empty otherwise.
        p: of the direction that came out, or of the likelier one; none where it was not testable.
    """

    claim: Claim
    judged: Sequence[Judged]
    outcome: Decision
    decided_by: Sequence[Judged]
    reason: str = ""
    p: float | None = None


def judge(claim: Claim, table: Table) -> Verdict:
    """Judge a claim by one body of evidence: the comparisons of the claim."""
    found = [_judge(comparison, table, len(claim.comparisons)) for comparison in claim.comparisons]
    judged = [each for each in found if each is not None]
    lacking = [each for each, one in zip(claim.comparisons, found, strict=True) if one is None]
    outcome, reason = _outcome(claim, judged, lacking)
    p = None if outcome == "not testable yet" else _p(judged, outcome)
    return Verdict(claim, judged, outcome, judged, reason, p)


def judge_together(claims: Sequence[Claim], table: Table) -> Verdict:
    """Judge a claim by several bodies of evidence: each colour data set's comparisons, and the authors' models.

    Those that decide must agree; where none does, one that is inconclusive comes before one that is not testable yet.
    """
    bodies = {claim.comparisons: claim for claim in claims}
    bodies |= {claim.of_authors: replace(claim, comparisons=claim.of_authors) for claim in claims if claim.of_authors}
    verdicts = [_without_what_is_lacking(judge(claim, table)) for claim in bodies.values()]
    found = [each for each in verdicts if each.judged] or verdicts[:1]
    decided = {each.outcome for each in found if each.outcome in ("supported", "not supported")}
    outcome: Decision = "inconclusive"
    reason = "the bodies of evidence disagree"
    if len(decided) <= 1:
        outcome = next(each for each in get_args(Decision) if each in {one.outcome for one in found})
        reason = "; ".join(dict.fromkeys(each.reason for each in found if each.outcome == outcome and each.reason))
    tested = [each.p for each in found if each.p is not None]
    p = None
    if tested and outcome != "not testable yet":
        agree = all(each.outcome == outcome for each in found if each.p is not None)
        p = max(tested) if agree else min(1.0, len(tested) * min(tested))
    if decided and p is not None and p > ERROR:
        outcome = "inconclusive"
        reason = f"not all {len(tested)} bodies of evidence decide it: it may be chance"
    judged = _each_once(found)
    decided_by = _each_once([each for each in found if each.outcome == outcome])
    return Verdict(claims[0], judged, outcome, decided_by or judged, reason, p)


def _each_once(verdicts: Sequence[Verdict]) -> list[Judged]:
    """List the judged comparisons, some of which belong to several bodies of evidence."""
    return list({one.comparison: one for each in verdicts for one in each.judged}.values())


def _without_what_is_lacking(verdict: Verdict) -> Verdict:
    """The verdict, `not testable yet` where it is of the authors' models and these cover only a part of the claim."""
    is_of_authors = bool(verdict.claim.comparisons) and verdict.claim.comparisons[0].kind.is_authors
    if not (is_of_authors and verdict.claim.authors_lack and verdict.outcome == "supported"):
        return verdict
    reason = f"the authors' models support it but for {verdict.claim.authors_lack}, which they do not cover"
    return replace(verdict, outcome="not testable yet", reason=reason, p=None)


def _outcome(claim: Claim, judged: Sequence[Judged], lacking: Sequence[Comparison]) -> tuple[Decision, str]:
    unfinished = [each for each in judged if claim.speaks != "early" and not each.is_at_the_end]
    can_be_refuted = claim.speaks != "end" or not unfinished
    if can_be_refuted and any(each.outcome == "not supported" for each in judged):
        return "not supported", ""
    if lacking or unfinished or any(each.error == 0 for each in judged):
        return "not testable yet", "; ".join(_needs(judged, unfinished, lacking))
    if all(each.outcome == "supported" for each in judged):
        return "supported", ""
    wide = [each for each in judged if each.outcome == "inconclusive"]
    return "inconclusive", "; ".join(f"{each.comparison.kind}, {each.comparison.label}: {_lack(each)}" for each in wide)


def _needs(judged: Sequence[Judged], unfinished: Sequence[Judged], lacking: Sequence[Comparison]) -> list[str]:
    """List what would make the claim testable."""
    updates = {
        f"{each.comparison.kind}: needs {each.full_updates:,} updates, has {each.updates:,}" for each in unfinished
    }
    seeds = {
        f"{each.comparison.kind}: needs {FEWEST_SEEDS} seeds, has {each.lower.seeds}"
        for each in judged
        if each.error == 0
    }
    missing = dict.fromkeys(f"{each.kind}: not measured: {each.label}" for each in lacking)
    return [*sorted(updates), *sorted(seeds), *missing]


def _lack(judged: Judged) -> str:
    """Say what leaves the comparison open: evaluations too far apart, or the number of seeds."""
    if judged.lower.mean <= 0 < judged.upper.mean and judged.comparison.measure == "faster":
        return "the evaluations are too far apart"
    for seeds in LOOKS:
        more = replace(judged, estimate=judged.estimate.with_more_seeds(seeds), error=error_at_look(seeds, seeds))
        if seeds > judged.lower.seeds and more.outcome != "inconclusive":
            return f"at this spread, {seeds} seeds would decide it"
    return f"at this spread, {max(LOOKS)} seeds would not be enough"


def _p(judged: Sequence[Judged], outcome: Decision) -> float:
    holds, fails = max(each.p_for for each in judged), min(each.p_against for each in judged)
    return {"supported": holds, "not supported": fails}.get(outcome, min(holds, fails))


def _judge(comparison: Comparison, table: Table, rivals: int) -> Judged | None:
    """Judge one comparison; None where a curve is lacking."""
    endpoints = comparison.endpoints
    if not all(table.has(comparison.kind, each) for each in endpoints):
        return None
    planned = min(table.planned(comparison.kind, each.curve) for each in endpoints)
    found = (_judge_speed if comparison.measure == "faster" else _judge_difference)(comparison, table, planned)
    if found is None:
        return None
    estimate, seeds, updates = found
    full = table.full(comparison.kind, endpoints)
    return Judged(comparison, estimate, error_at_look(seeds, planned), rivals, updates, full)


_Found = tuple[Estimate | SpeedEstimate, int, int]
"""An estimate, the number of seeds that it rests on, and after how many updates it was taken."""


def _judge_difference(comparison: Comparison, table: Table, planned: int) -> _Found | None:
    endpoints = comparison.endpoints
    stages: dict[str, tuple[int, list[int]]] = {}
    whens: list[When] = [*dict.fromkeys(each.when for each in endpoints)]
    for when in whens:
        found = table.stage(comparison.kind, endpoints, when)
        if found is None:
            return None
        stages[when] = found
    seeds = sorted(set.intersection(*(set(those) for _, those in stages.values())))
    if not seeds:
        return None
    seeds = seeds[: seeds_at_look(len(seeds), planned)]
    at = {when: update for when, (update, _) in stages.items()}
    return _estimate(comparison, table, seeds, at), len(seeds), max(at.values())


def _estimate(comparison: Comparison, table: Table, seeds: list[int], at: dict[str, int]) -> Estimate:
    endpoints = comparison.endpoints
    known = {
        when: table.count_tasks(comparison.kind, [each for each in endpoints if each.when == when], update, seeds)
        for when, update in at.items()
    }
    is_counted = all(counted for _, counted in known.values())
    tasks = _common_tasks(known, is_counted)
    scores = [table.scores(comparison.kind, each, at[each.when], seeds, tasks[each.when]) for each in endpoints]
    differences = comparison.signed_sum([each if is_counted else each.mean(1) for each in scores])
    return over_seeds_and_tasks(differences) if is_counted else over_seeds(differences.tolist())


_Stage = TypeVar("_Stage")


def _common_tasks(known: Mapping[_Stage, tuple[int, bool]], is_counted: bool) -> dict[_Stage, int]:
    """How many of the first test tasks to compare on at each stage: the same everywhere if all are counted.

    Of a mean no part can be taken, so that with means only every stage is compared on all that its curves share.
    """
    tasks = {stage: number for stage, (number, _) in known.items()}
    return dict.fromkeys(tasks, min(tasks.values())) if is_counted else tasks


def _judge_speed(comparison: Comparison, table: Table, planned: int) -> _Found | None:
    endpoints = [comparison.plus[0], comparison.minus[0]]
    found = table.stage(comparison.kind, endpoints, "end")
    if found is None:
        return None
    end, seeds = found
    seeds = seeds[: seeds_at_look(len(seeds), planned)]
    updates = [u for u, those in table.common(comparison.kind, endpoints).items() if u <= end and {*seeds} <= {*those}]
    known = {update: table.count_tasks(comparison.kind, endpoints, update, seeds) for update in updates}
    is_counted = known[end][1]
    updates = [update for update in updates if known[update][1] or not is_counted]
    tasks = _common_tasks({update: known[update] for update in updates}, is_counted)
    curves = []
    for endpoint in endpoints:
        scores = {update: table.scores(comparison.kind, endpoint, update, seeds, tasks[update]) for update in updates}
        curves.append(scores if is_counted else {u: each.mean(1, keepdims=True) for u, each in scores.items()})
    return estimate_speed_up(*curves), len(seeds), end
