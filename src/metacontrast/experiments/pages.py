"""Pages of figures: question, picture, what was found, a table of claims; everything else is folded below.

Everything comes from the specification and the records; a page is never written by hand.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from metacontrast.experiments import budgets
from metacontrast.experiments.authors import is_same_test, source
from metacontrast.experiments.authors_models import published_updates
from metacontrast.experiments.claims import Quantity, TaskKind
from metacontrast.experiments.deviations import deviations
from metacontrast.experiments.figure_records import FigureRecords
from metacontrast.experiments.measurement import Table
from metacontrast.experiments.pictures import curves_of, draw, panels_of
from metacontrast.experiments.rows import (
    NUMBERS_HEAD,
    comparison_row,
    data_and_updates,
    describe_interval,
    describe_p,
    numbers_rows,
    steps_head,
    steps_row,
)
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Panel
from metacontrast.experiments.statistics import ERROR, holm
from metacontrast.experiments.verdicts import Decision, Verdict, judge_together
from metacontrast.files import write_text

_COMPARISONS_HEAD = (
    "comparison",
    "where",
    "difference, 95 % interval",
    "seeds, updates, tasks",
    "verdict",
    "authors, same number of updates",
    "authors, end of training",
)
_PAIRED = (
    "Differences are paired by training seed and by test task, and taken at the last stage that all curves of a "
    "comparison have reached. The interval covers seeds and test tasks (crossed random effects) where correct answers "
    "were counted per task; where the tasks column says *means only* it covers the seeds alone, which is weaker "
    "evidence. Verdicts may be given at 3, 5, 8 and 12 seeds. The intervals have 95, 97.5, 98.5 and 99 % there, so "
    "that the error over all of these looks stays at 5 % for one length of training; looks at several lengths are not "
    "corrected for. A claim is *supported* when all its comparisons are, an equality by two one-sided tests; *not "
    "supported* when one is refuted, corrected for their number; *inconclusive* when an interval is too wide; *not "
    "testable yet* when it speaks of a part of training, or of seeds, that were not reached."
)
_NOTATION = (
    "`zeroed/1`: head zeroed at test, one inner step; `kept/own`: head as trained, as many steps as in training. "
    "`end`: the last stage reached here; `early`: the last one within the first fifth of the published training. FO, "
    "SO: first and second order (FOMAML, SOMAML). *faster*: how many times as many updates the slower curve needs to "
    "reach the same accuracy. A curve is known at its evaluations only, so the ratio has a lower and an upper bound, "
    "which is ∞ where the slower curve has not got there; the interval covers both. The authors' numbers are "
    "recomputed from their files. *Same number of updates*: the difference of their means after as many updates as "
    "here, or the ratio to the same levels, where they have that test. *End of training*: the difference of their "
    "means over the last five evaluations (*early*: after a fifth of their training) ± its unpaired standard error, or "
    "the ratio to levels that both curves reach."
)


def judge_figure(spec: FigureSpec, records: FigureRecords) -> tuple[Table, list[Verdict]]:
    """Judge a figure's claims; return all measurements and the verdicts."""
    full = {key: end for setting in records.settings for key, end in spec.full_updates(setting).items()}
    full |= {(each.kind, each.curve): published_updates(each.kind) for each in records.authors}
    table = Table(records.curves, [*records.measurements, *records.authors], full)
    claims = zip(*(spec.claims(setting.in_full()) for setting in records.settings), strict=True)
    return table, [judge_together(claim, table) for claim in claims]


def write_page(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Verdict]:
    """Draw the pictures, write the page, and return the verdicts."""
    table, verdicts = judge_figure(spec, records)
    pictures = draw(folder, spec, records, table)
    parts = [
        f"# {spec.title}",
        f"*{_paper_figures(spec)}.* {spec.question}",
        *(f"![{spec.title}: {path.stem}]({path.name})" for path in pictures),
        "## What we found",
        _finding(verdicts),
        _beside_authors(spec, _CLAIMS_HEAD, [_claim_row(*each) for each in enumerate(verdicts, 1)]),
        *_budgets(spec, records, table),
        *_folded("Every comparison, and how it is judged", _comparisons(spec, verdicts, table)),
        *_folded("Accuracies at every step, beside the authors'", _numbers(spec, records, table)),
        *_folded("What is wrong with the published figure", _bullets(spec.faults)),
        *_folded(
            "How this differs from the authors' experiments" if spec.of_paper else "How it was done",
            _bullets(deviations(records.settings[0].protocol, spec, [*table.curves.values()])),
        ),
        *_folded("Command, versions and hardware", _origin(spec, records)),
    ]
    write_text(folder / f"{spec.name}.md", "\n\n".join(parts) + "\n")
    return verdicts


def write_summary(
    folder: Path, results: Mapping[str, Sequence[Mapping[str, Any]]], figures: Sequence[FigureSpec], setting: Setting
) -> Path:
    """Write the summary page: every claim with its verdict and a link."""
    by_name = {figure.name: figure for figure in figures}
    flags = " --scale smoke" * (setting.scale == "smoke") + _protocol(setting)
    adjusted = holm([each["p"] for found in results.values() for each in found if each["p"] is not None])
    told = iter(adjusted)
    rows = [
        (
            _numbers_of(by_name[name]),
            each["claim"],
            each["data"],
            f"[{each['verdict']}]({name}.md)",
            "—" if each["p"] is None else f"{describe_p(each['p'])} ({describe_p(next(told))})",
            each["authors"],
        )
        for name, found in results.items()
        for each in found
    ]
    parts = [
        "# Every figure of the paper, with a verdict",
        f"Protocol `{setting.protocol}`. {counts_of(results, adjusted)} {_PAIRED}",
        "The p value is that of the claim's least certain comparison, or of the one that refutes it, corrected for "
        "looks and comparisons; in brackets with Holm's correction over all claims that were testable as well: above "
        ".05 there, chance alone may give one such verdict among this many.",
        _markdown(SUMMARY_HEAD, rows),
        "## What is undecided, and what would decide it",
        *_bullets(
            [f"{each['claim']} {each['reason']}." for found in results.values() for each in found if each["reason"]]
        ),
        f"The authors' numbers: {source()}.",
        "## Command",
        "Every page names the command that makes its records; with `--claims 1,3` it trains only what these claims of "
        "the page compare, with `--until` and `--seeds` further and on more seeds. All pages are drawn again from the "
        "records, without compute or data, by",
        _command(f"metacontrast figure all{flags} --redraw"),
    ]
    file = folder / "README.md"
    write_text(file, "\n\n".join(parts) + "\n")
    return file


SUMMARY_HEAD = ("figure", "claim", "tested on", "verdict here", "p (Holm)", "what the authors' numbers say")


def counts_of(results: Mapping[str, Sequence[Mapping[str, Any]]], adjusted: Sequence[float]) -> str:
    """Count the claims by verdict in a sentence, given the adjusted p values of those that have one."""
    claims = [each for some in results.values() for each in some]
    found = Counter(each["verdict"] for each in claims)
    told = ", ".join(f"{found[outcome]} {outcome}" for outcome in get_args(Decision))
    testable = zip((each for each in claims if each["p"] is not None), adjusted, strict=True)
    held = [p <= ERROR for each, p in testable if each["verdict"] in ("supported", "not supported")]
    firm = f"; {sum(held)} of the {len(held)} decisions hold with Holm's correction over all claims" if held else ""
    return f"Of {found.total()} claims: {told}{firm}."


def verdict_values(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Convert claims and verdicts to plain values."""
    return [
        {
            "claim": each.claim.text,
            "data": data_and_updates(each),
            "verdict": each.outcome,
            "reason": each.reason,
            "p": each.p,
            "authors": each.claim.authors_say,
            "differences": "; ".join(f"{j.comparison.label}: {describe_interval(j)}" for j in each.judged),
        }
        for each in verdicts
    ]


def verdicts_text(spec: FigureSpec, verdicts: Sequence[Verdict]) -> str:
    """Format the verdicts for a terminal."""
    lines = [f"{spec.name} ({_paper_figures(spec)})"]
    for verdict in verdicts:
        lines.append(f"  {verdict.outcome.upper()}: {verdict.claim.text}")
        lines += [f"      {verdict.reason}"] if verdict.reason else []
        lines += [f"      {j.comparison.kind}: {j.comparison.label}: {describe_interval(j)}" for j in verdict.judged]
        lines.append(f"      authors: {verdict.claim.authors_say}")
    return "\n".join(lines)


def _paper_figures(spec: FigureSpec) -> str:
    if not spec.paper_figures:
        return f"Figure: {_numbers_of(spec)}" if spec.of_paper else "Not in the paper"
    return f"Figure{'s' * (len(spec.paper_figures) > 1)} {' and '.join(map(str, spec.paper_figures))} of the paper"


def _numbers_of(spec: FigureSpec) -> str:
    return ", ".join(map(str, spec.paper_figures)) or "none: only in the authors' data"


_CLAIMS_HEAD = ("", "claim", "verdict", "decided by", "difference, 95 % interval", "what the authors' numbers say")


def _finding(verdicts: Sequence[Verdict]) -> str:
    """List the claims of each verdict in a sentence."""
    sentences = []
    for outcome in get_args(Decision):
        texts = [each.claim.text.rstrip(".") for each in verdicts if each.outcome == outcome]
        if texts:
            sentences.append(f"**{outcome.capitalize()}**: {'; '.join(texts)}.")
    return " ".join(sentences)


def _claim_row(number: int, verdict: Verdict) -> Sequence[str]:
    """Build the row of a claim with the comparison that decides it, or that is the least certain one."""
    claim = f"{number}", verdict.claim.text, verdict.outcome
    if not verdict.judged:
        return *claim, "—", "—", verdict.claim.authors_say
    if verdict.outcome == "not supported":
        decisive = min(verdict.decided_by, key=lambda each: each.p_against)
    else:
        decisive = max(verdict.decided_by, key=lambda each: each.p_for)
    unit = "update" if decisive.updates == 1 else "updates"
    where = f"{decisive.comparison.label}; {decisive.comparison.kind}, {decisive.updates:,} {unit}"
    return *claim, where, describe_interval(decisive), verdict.claim.authors_say


def _comparisons(spec: FigureSpec, verdicts: Sequence[Verdict], table: Table) -> list[str]:
    parts = [_PAIRED, *([] if spec.plot == "illustration" else [_NOTATION])]
    for number, verdict in enumerate(verdicts, 1):
        why = f" *Why: {verdict.reason}.*" if verdict.reason else ""
        parts.append(f"{number}. **{verdict.outcome}**: {verdict.claim.text}{why}")
        if verdict.judged:
            rows = [comparison_row(each, table) for each in verdict.judged]
            parts.append(_beside_authors(spec, _COMPARISONS_HEAD, rows))
    if any(each.comparison.kind.is_authors for verdict in verdicts for each in verdict.judged):
        parts.append(_AUTHORS)
    return parts


_AUTHORS = (
    "*The authors' models*: the checkpoints that they released, measured here on the common test tasks, on another "
    "copy of the images, on which accuracies are two to three points lower than published. Their models, our "
    "measurement."
)


def _budgets(spec: FigureSpec, records: FigureRecords, table: Table) -> list[str]:
    """Build tables of accuracies at one budget, and of whether the order of methods depends on how they classify."""
    if spec.plot == "answers" and spec.authors_test:
        test, answers = spec.authors_test, budgets.answers_of(spec.authors_test)
        rows = _markdown(("trained by", *answers), budgets.answer_rows(test, table))
        return [_ANSWERS, rows, *_ranks(test.kind, [*test.curves], table, answers)]
    if spec.plot != "costs":
        return []
    parts = [_BUDGETS]
    for panel in panels_of(spec, records.settings, table):
        curves = curves_of(panel, table)
        names = [curve.name for curve in curves]
        updates = budgets.stage_of(panel.kind, names, budgets.SELECTED, table)
        title = f"**{panel.title}, {updates:,} updates**"
        parts += [title, _markdown(budgets.HEAD, budgets.budget_rows(curves, table))] if curves else []
        parts += _ranks(panel.kind, names, table, budgets.ANSWERS)
    return parts


def _ranks(kind: TaskKind, curves: Sequence[str], table: Table, answers: Mapping[str, Quantity]) -> list[str]:
    correlations = budgets.rank_correlations(kind, curves, table, answers)
    return [_markdown(("classified by", "and by", "rank correlation"), correlations)] if correlations else []


_RANKS = (
    "Below, Spearman's rank correlation of the methods under two ways to classify, without an interval: near 1 their "
    "order does not depend on the classifier."
)
_ANSWERS = f"Accuracy in per cent, mean over seeds, on the common test tasks. {_RANKS}"


_BUDGETS = (
    "Accuracy in per cent, mean over seeds, on the common test tasks. Every method saw the same number of images; the "
    "columns are ways to classify with the model that was best on the validation tasks. The last column is the last "
    f"model whose training took no more core-time than the whole training of the cheapest method. {_RANKS}"
)


def _numbers(spec: FigureSpec, records: FigureRecords, table: Table) -> list[str]:
    if spec.plot != "curves":
        return []
    parts = [
        "Accuracy in per cent, mean ± sample standard deviation over seeds. Published curve: where smoothing over "
        "mixed rows puts its end. Authors after as many updates: straight between evaluations."
    ]
    panels = [each for panel in panels_of(spec, records.settings, table) for each in panel.tabulated()]
    for panel in panels:
        other = "" if all(map(is_same_test, curves_of(panel, table))) else " (authors: other test data)"
        parts += [f"**{panel.title}**{other}", _without_empty_columns(NUMBERS_HEAD, numbers_rows(panel, table))]
    return [*parts, *_all_steps(panels, table)]


def _all_steps(panels: Sequence[Panel], table: Table) -> list[str]:
    parts = ["Head at test / inner steps; nearest-mean: nearest centroid, without adaptation."]
    for kind in dict.fromkeys(panel.kind for panel in panels):
        curves = [curve for curve in table.curves.values() if curve.kind == kind]
        names = steps_head(curves, table)
        parts += [f"**{kind}**", _markdown(("", *names), [steps_row(curve, names, table) for curve in curves])]
    return parts


def _origin(spec: FigureSpec, records: FigureRecords) -> list[str]:
    ways = dict.fromkeys(_way(made) for made in records.made)
    flags = dict.fromkeys(_flags(spec, each, records) for each in _recorded(spec, records))
    redrawn = "With `--redraw` the page and its pictures are made again from the records, without compute or data."
    command = _command(*(f"metacontrast figure {spec.name}{each}" for each in flags))
    return [command, f"Made on {'; '.join(ways)}. {redrawn}" if ways else redrawn, *_mixed_data(records)]


def _mixed_data(records: FigureRecords) -> list[str]:
    """Name the data sets of which runs have seen different images."""
    digests: dict[str, set[str]] = {}
    for made in records.made:
        for name, digest in (made.get("data") or {}).items():
            digests.setdefault(name, set()).add(digest)
    mixed = [name for name, found in digests.items() if len(found) > 1]
    if not mixed:
        return []
    return [f"**Not all runs have seen the same images of {', '.join(mixed)}**: they may differ by that."]


def _recorded(spec: FigureSpec, records: FigureRecords) -> Sequence[Setting]:
    """Select the settings whose colour images are recorded; where none are, any one will do."""
    measured = {(each.kind, each.curve) for each in records.measurements}
    found = [
        setting
        for setting in records.settings
        if any(
            (curve.kind, curve.name) in measured and curve.config.dataset == setting.colour
            for curve in spec.curves(setting.in_full())
        )
    ]
    return found or records.settings[:1]


def _flags(spec: FigureSpec, setting: Setting, records: FigureRecords) -> str:
    """Return the flags of the shortest length and fewest seeds that measure all that is recorded, and of the data."""
    if setting.scale == "smoke":
        return f" --scale smoke{_protocol(setting)}"
    if spec.authors_test is not None:
        return " --authors-models DIR"
    curves = spec.curves(setting.in_full())
    reached = dict.fromkeys(((curve.kind, curve.name) for curve in curves), 0)
    for each in records.measurements:
        if (key := (each.kind, each.curve)) in reached:
            reached[key] = max(reached[key], each.record["update"])
    most = max(reached.values(), default=0)
    local = replace(setting, scale="local", until=None)
    lengths = {"": local, f" --until {most}": replace(local, until=most or None), " --scale full": setting.in_full()}
    ends = {
        flag: {(curve.kind, curve.name): curve.updates[-1] for curve in spec.curves(tried)}
        for flag, tried in lengths.items()
    }
    length = next(flag for flag, end in ends.items() if all(end.get(key, 0) >= reached[key] for key in reached))
    colour = f" --colour {setting.colour}" if any(each.config.dataset == setting.colour for each in curves) else ""
    planned = {(curve.kind, curve.name): len(curve.seeds) for curve in curves}
    beyond = [m.seed + 1 for m in records.measurements if m.seed >= planned.get((m.kind, m.curve), m.seed + 1)]
    more = max(beyond, default=0)
    return f"{length}{f' --seeds {more}' * bool(more)}{colour}{_protocol(setting)}"


def _way(made: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items())
    return f"{made['device']}, {versions}, revision {made['revision']}"


def _protocol(setting: Setting) -> str:
    return "" if setting.protocol == "authors" else f" --protocol {setting.protocol}"


def _command(*lines: str) -> str:
    return "```sh\n" + "\n".join(lines) + "\n```"


def _folded(title: str, parts: Sequence[str]) -> list[str]:
    """Build a block that opens on demand; nothing where there is nothing in it."""
    return [f"<details>\n<summary>{title}</summary>", *parts, "</details>"] if parts else []


def _bullets(items: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {item}" for item in items)] if items else []


def _beside_authors(spec: FigureSpec, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a table whose columns for the authors' numbers are left out where the authors have no such figure."""
    return _markdown(head, rows) if spec.of_paper else _without_empty_columns(head, rows)


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [number for number in range(len(head)) if any(row[number] != "—" for row in rows)]
    return _markdown([head[number] for number in kept], [[row[number] for number in kept] for row in rows])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
