"""How often a fitted classifier is right on labelled images, which classes it confuses, and its worst mistakes.

The interval of the accuracy is Wilson's for a share of n images.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from metacontrast import html
from metacontrast.classifier.explanation import as_seen
from metacontrast.classifier.fitted import Prediction
from metacontrast.classifier.storage import State
from metacontrast.classifier.support import pictures
from metacontrast.data.decode import to_png
from metacontrast.errors import InputError

MISTAKES = 24
MOST_COLUMNS = 30


@dataclass(frozen=True)
class Report:
    """What came of asking about labelled images.

    Args:
        classes: the labels, those that the classifier does not know last.
        confusion: how many images of each class got each answer; rejected images are the last column.
        known: how many of the classes the classifier knows.
        mistakes: wrong answers, each behind the right label, the most confident ones first.
        unreadable: images that could not be read, with the reason.
    """

    classes: tuple[Hashable, ...]
    confusion: Int[np.ndarray, "label answer"]
    known: int
    mistakes: tuple[tuple[Hashable, Prediction], ...]
    unreadable: tuple[tuple[str, str], ...]

    @property
    def images(self) -> int:
        """How many images were answered."""
        return int(self.confusion.sum())

    @property
    def right(self) -> int:
        """How many of the answers were right."""
        return int(np.trace(self.confusion[:, : self.known]))

    @property
    def accuracy(self) -> float:
        """The share of right answers; a refusal counts as wrong."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return wilson_interval(self.right, self.images)

    @property
    def counts(self) -> list[int]:
        """How many images of each class were answered."""
        return self.confusion.sum(1).tolist()

    @property
    def recalls(self) -> list[float | None]:
        """Of each class, the share of its images that was classified correctly; None for a class without images."""
        right = [int(self.confusion[k, k]) if k < self.known else 0 for k in range(len(self.classes))]
        return [r / n if n else None for r, n in zip(right, self.counts, strict=True)]

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the recalls."""
        return float(np.mean([recall for recall in self.recalls if recall is not None]))


def wilson_interval(right: int, images: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share.

    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    share, extra = right / images, z**2 / images
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / images + extra / images / 4) / (1 + extra)
    return middle - half, middle + half


def report_on(state: State, labels: Sequence[Hashable], answers: Iterator[Prediction]) -> Report:
    """The report on images with these labels and answers."""
    known = list(state.support.classes)
    classes = known + [label for label in dict.fromkeys(labels) if label not in known]
    number = {label: k for k, label in enumerate(classes)}
    confusion = np.zeros((len(classes), len(known) + 1), dtype=np.int64)
    mistakes, unreadable = [], []
    for label, answer in zip(labels, answers, strict=True):
        if answer.problem is not None:
            unreadable.append((answer.image, answer.problem))
            continue
        confusion[number[label], len(known) if answer.rejected else number[answer.label]] += 1
        if not answer.rejected and answer.label != label:
            mistakes.append((label, answer))
            mistakes = sorted(mistakes, key=lambda each: -each[1].probability)[:MISTAKES]
    if not confusion.sum():
        raise InputError("none of the images could be read: there is nothing to score")
    return Report(tuple(classes), confusion, len(known), tuple(mistakes), tuple(unreadable))


def as_page(report: Report, state: State, title: str) -> str:
    """The report as one HTML page without anything beside it."""
    low, high = report.interval
    body = [
        html.paragraph(
            f"Accuracy {100 * report.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %) on "
            f"{report.images} images; mean over classes {100 * report.balanced_accuracy:.1f} %."
        ),
        html.heading("Classes"),
        html.table(("class", "images", "right", "most often taken for"), _class_rows(report)),
    ]
    if len(report.classes) <= MOST_COLUMNS:
        names = [*map(str, report.classes[: report.known]), "rejected"]
        rows = [
            [str(name), *map(str, row)] for name, row in zip(report.classes, report.confusion.tolist(), strict=True)
        ]
        body += [
            html.heading("Confusion: a row for each class, a column for each answer"),
            html.table(("", *names), rows),
        ]
    if report.mistakes:
        body.append(html.heading("The most confident mistakes"))
        for label, answer in report.mistakes:
            assert answer.pixels is not None
            seen = as_seen(state, pictures(answer.pixels[None])[0])
            caption = f"{answer.image}: {label}, taken for {answer.label} ({answer.probability:.0%})"
            body.append(html.figure(to_png(seen.transpose(1, 2, 0)), caption))
    if report.unreadable:
        body += [html.heading("Not read"), html.table(("image", "why"), report.unreadable)]
    return html.render_page(title, body)


def _class_rows(report: Report) -> list[list[str]]:
    rows = []
    names = [*report.classes[: report.known], "rejected"]
    for k, (label, count, recall) in enumerate(zip(report.classes, report.counts, report.recalls, strict=True)):
        wrong = report.confusion[k].copy()
        if k < report.known:
            wrong[k] = 0
        most = f"{names[int(wrong.argmax())]} ({wrong.max()})" if wrong.max() else ""
        share = "" if recall is None else f"{100 * recall:.1f} %"
        rows.append([str(label), str(count), share if k < report.known else "not a class of the classifier", most])
    return rows
