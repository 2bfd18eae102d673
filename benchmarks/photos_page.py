"""The tables and the diagram that `photos.py` makes of its records, between two marks of a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN, END = "<!-- made by benchmarks/photos.py: begin -->", "<!-- end -->"
PICTURE = Path("pictures/photos-reliability.png")
BINS = 10


def reliability(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> list[dict[str, float]]:
    """Answers in ten bins of equally many, by confidence: each bin's share, mean confidence and accuracy."""
    order = np.argsort(confidence, kind="stable")
    parts = [rows for rows in np.array_split(order, BINS) if len(rows)]
    return [
        {
            "share": len(rows) / len(order),
            "confidence": float(confidence[rows].mean()),
            "accuracy": float(right[rows].mean()),
        }
        for rows in parts
    ]


def page_of(page: Path, records: Sequence[dict[str, Any]]) -> str:
    """The page's text with the part between the marks made again."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{as_markdown(records)}{END}{after}"


def draw(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """The reliability diagram beside the page."""
    from metacontrast.plots import COLORS, new_figure, save_figure, tidy

    lines = _diagram(records)
    if not lines:
        return
    figure = new_figure(4, 4)
    axes = tidy(figure.subplots())
    axes.plot([0, 1], [0, 1], color=COLORS["grey"], linewidth=1)
    for line, color in zip(lines, (COLORS["blue"], COLORS["orange"]), strict=False):
        bins, name = line["reliability"], line["row"].replace("x", " × ")
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=color, label=name)
    axes.set(xlabel="mean probability of the answers", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    save_figure(figure, folder / PICTURE)


def as_markdown(records: Sequence[dict[str, Any]]) -> str:
    """All tables; nothing where there are no records."""
    by_row = {line["row"]: line for line in records}
    accuracy = [line for line in records if "accuracy" in line]
    refusals = [line for line in records if "unknown" in line]
    parts = [_accuracy(accuracy)] if accuracy else []
    if lines := _diagram(records):
        names = " and ".join(line["row"] for line in lines)
        parts.append(f"![Share of right answers against their probability, {names}]({PICTURE.as_posix()})\n")
    parts += [_refusals(refusals)] if refusals else []
    parts += [_speed(by_row["speed"])] if "speed" in by_row else []
    return "\n".join(["", *parts])


def _diagram(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in records if "reliability" in line and line["row"] in ("mini-imagenet 5x5", "cifar-fs 5x5")]


def _accuracy(lines: Sequence[dict[str, Any]]) -> str:
    head = ("test classes, classes × images", "tasks", "model", "accuracy", "vs. logistic regression")
    head += ("vs. nearest class mean", "vs. easyfsl's SimpleShot", "ECE", "right class in its set of 0.9")
    rows = []
    for line in lines:
        low, high = line["ece_interval"]
        sets = f"{_percent(line, 'covered')}, {line['set_size']:.1f} classes" if "covered" in line else "too few images"
        rows.append(
            (
                line["row"].replace("x", " × "),
                str(line["tasks"]),
                ", ".join(f"{name} {count}" for name, count in line["models"].items()),
                _percent(line, "accuracy"),
                _percent(line, "more_than_logistic", "+"),
                _percent(line, "more_than_nearest_mean", "+"),
                _percent(line, "more_than_simple_shot", "+") if "simple_shot" in line else "not measured",
                f"{line['ece']:.3f} ({low:.3f} to {high:.3f})",
                sets,
            )
        )
    return _table(head, rows)


def _refusals(lines: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            line["row"].removeprefix("refusals ").replace("x", " × "),
            str(line["tasks"]),
            _percent(line, "known"),
            _percent(line, "unknown"),
        )
        for line in lines
    ]
    return _table(("classes × images", "classifiers", "rejected: known", "rejected: other classes"), rows)


def _speed(line: dict[str, Any]) -> str:
    return (
        f"On photographs of 640×480 ({line['processor']}): `fit` of 5 × 5 takes {line['fit_seconds']:.1f} s from the "
        f"command line and {line['fit_megabytes']:.0f} MB; one prediction {line['prediction_milliseconds']:.0f} ms; "
        f"`predict` of 1,000 files {line['images_per_second']:.0f} a second, its start included, and "
        f"{line['predict_megabytes']:.0f} MB.\n"
    )


def _percent(line: dict[str, Any], name: str, sign: str = "") -> str:
    return f"{100 * line[name]:{sign}.1f} ± {100 * line[f'{name}_ci95']:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
