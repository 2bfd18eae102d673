"""A figure's page: question, pictures, verdicts, numbers, what is wrong with the published figure, departures, command.

Everything comes from the specification and the records; a page is never written by hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metacontrast.experiments.departures import departures
from metacontrast.experiments.pictures import draw, lines_of
from metacontrast.experiments.records import FigureRecords
from metacontrast.experiments.released import is_same_test, source
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, View
from metacontrast.experiments.tables import (
    NUMBERS_HEAD,
    comparison_row,
    data_and_updates,
    describe_interval,
    numbers_rows,
    steps_head,
    steps_row,
)
from metacontrast.experiments.verdicts import Table, Verdict, judge
from metacontrast.files import write_text

_COMPARISONS_HEAD = (
    "comparison",
    "where",
    "difference, 95 % interval",
    "seeds, updates, tasks",
    "verdict",
    "released, as far",
    "released, whole training",
)
_PAIRED = (
    "Differences are paired by training seed on the same test tasks; the interval is Student's, over seeds, and does "
    "not cover the choice of test tasks. A claim holds when all its comparisons do, and does not when one does not, "
    "each at 95 %, without correction for their number. Verdicts are of the updates that were made here: after 300 of "
    "3,000 nothing is said of what the other 2,700 would change. So a claim about the end of training is undecided "
    "before that end, whatever its comparisons say."
)
_NOTATION = (
    "`zeroed/1`: head zeroed at test, one inner step; `kept/own`: head as trained, as many steps as in training. "
    "`end`: the last update made here; `early`: the last measured one within the first fifth of these. Released: "
    "recomputed from the authors' files; *as far*: the difference of their means after as many updates, or the ratio "
    "to the same levels, where they have that test; *whole training*: paired by seed and, unless it says otherwise, "
    "over the last five evaluations."
)


def write_page(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Verdict]:
    """Draw the pictures, write the page, and return the verdicts."""
    setting = records.setting
    table = Table(spec.lines(setting), records.measurements, spec.full_updates(setting))
    verdicts = [judge(claim, table) for claim in spec.claims(setting)]
    pictures = draw(folder, spec, records)
    parts = [
        f"# {spec.title}",
        f"*{_papers(spec)}* {spec.question}",
        *(f"![{spec.title}: {path.stem}]({path.name})" for path in pictures),
        *_verdicts(spec, verdicts, table),
        *_numbers(spec, setting, table),
        *_list("What is wrong with the published figure", spec.faults),
        *_list("Departures", departures(setting, [spec])),
        *_origin(spec, records),
    ]
    write_text(folder / f"{spec.name}.md", "\n\n".join(parts) + "\n")
    return verdicts


def write_summary(
    folder: Path, results: Mapping[str, Sequence[Mapping[str, str]]], figures: Sequence[FigureSpec], setting: Setting
) -> Path:
    """Every claim with its verdict and a link."""
    by_name = {figure.name: figure for figure in figures}
    rows = [
        (by_name[name].papers, each["claim"], each["data"], f"[{each['verdict']}]({name}.md)", each["released"])
        for name, found in results.items()
        for each in found
    ]
    parts = [
        "# Every figure of the paper, with a verdict",
        f"Scale `{setting.scale}`, protocol `{setting.protocol}`. {_PAIRED}",
        _markdown(("figure", "claim", "tested on", "verdict here", "what the released numbers say"), rows),
        "## Departures",
        *_bullets(departures(setting, [])),
        f"Released numbers: {source()}.",
        "## Command",
        _command(f"metacontrast figure all{_flags(setting)}", f"metacontrast figure all{_flags(setting)} --redraw"),
    ]
    file = folder / "README.md"
    write_text(file, "\n\n".join(parts) + "\n")
    return file


def summarize(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Claims and verdicts as plain values."""
    return [
        {
            "claim": each.claim.text,
            "data": data_and_updates(each),
            "verdict": each.outcome,
            "released": each.claim.released,
            "differences": "; ".join(f"{j.comparison.label}: {describe_interval(j)}" for j in each.judged),
        }
        for each in verdicts
    ]


def as_text(spec: FigureSpec, verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal."""
    lines = [f"{spec.name} ({_papers(spec).rstrip('.')})"]
    for verdict in verdicts:
        lines.append(f"  {verdict.outcome.upper()}: {verdict.claim.text}")
        lines += [f"      {j.comparison.panel}: {j.comparison.label}: {describe_interval(j)}" for j in verdict.judged]
        lines.append(f"      released: {verdict.claim.released}")
    return "\n".join(lines)


def _papers(spec: FigureSpec) -> str:
    if not spec.papers[0].isdigit():
        return f"Figure: {spec.papers}."
    return f"Figure{'s' * (',' in spec.papers)} {spec.papers.replace(', ', ' and ')} of the paper."


def _verdicts(spec: FigureSpec, verdicts: Sequence[Verdict], table: Table) -> list[str]:
    parts = ["## Verdicts", _PAIRED, *([] if spec.plot == "illustration" else [_NOTATION])]
    for verdict in verdicts:
        parts.append(f"**{verdict.outcome}** ({data_and_updates(verdict)}): {verdict.claim.text}")
        parts.append(f"Released numbers: {verdict.claim.released}.")
        parts.append(_markdown(_COMPARISONS_HEAD, [comparison_row(each, table) for each in verdict.judged]))
    return parts


def _numbers(spec: FigureSpec, setting: Setting, table: Table) -> list[str]:
    if spec.plot != "curves":
        return []
    parts = [
        "## Numbers",
        "Accuracy in per cent, mean ± standard deviation over seeds. Published curve: where smoothing over mixed rows "
        "puts its end. Released after as many updates: straight between evaluations.",
    ]
    for view in spec.views(setting):
        other = "" if all(map(is_same_test, lines_of(view, table))) else " (released: other test data)"
        parts += [f"**{view.title}**{other}", _without_empty_columns(NUMBERS_HEAD, numbers_rows(view, table))]
    return [*parts, *_all_steps(spec.views(setting), table)]


def _all_steps(views: Sequence[View], table: Table) -> list[str]:
    parts = ["### All test steps", "Head at test / inner steps; nearest-mean: nearest class mean, without adaptation."]
    for panel in dict.fromkeys(view.panel for view in views):
        lines = [line for (where, _), line in table.lines.items() if where == panel]
        names = steps_head(lines, table)
        parts += [f"**{panel}**", _markdown(("", *names), [steps_row(line, names, table) for line in lines])]
    return parts


def _origin(spec: FigureSpec, records: FigureRecords) -> list[str]:
    made = records.header["made"][0]
    versions = ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items())
    return [
        "## Command",
        _command(f"metacontrast figure {spec.name}{_flags(records.setting)}"),
        f"Made on {made['device']}; {versions}; revision {made['revision']}. With `--redraw` the page and its pictures "
        "are made again from the records, without compute or data.",
    ]


def _flags(setting: Setting) -> str:
    scale = "" if setting.scale == "local" else f" --scale {setting.scale}"
    return scale + ("" if setting.protocol == "released" else f" --protocol {setting.protocol}")


def _command(*lines: str) -> str:
    return "```sh\n" + "\n".join(lines) + "\n```"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", *_bullets(items)] if items else []


def _bullets(items: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {item}" for item in items)]


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [number for number in range(len(head)) if any(row[number] != "—" for row in rows)]
    return _markdown([head[number] for number in kept], [[row[number] for number in kept] for row in rows])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
