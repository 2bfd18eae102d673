"""The report folder of an explained run: pictures as PNG and PDF, one JSON file, one page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from metacontrast import html
from metacontrast.diagnostics.task_view import MAPS, contrasts
from metacontrast.files import write_text
from metacontrast.plots import save_figure
from metacontrast.plots.curves import draw_checkpoints
from metacontrast.plots.images import Moment, draw_coefficients, draw_heatmaps, drawable
from metacontrast.plots.theory import draw_gradient_parts, draw_spectrum
from metacontrast.report.findings import Findings, as_json, facts, headline, setting


class Picture(NamedTuple):
    """A figure with its file name (without ending) and caption."""

    name: str
    figure: Figure
    caption: str


def write_report(folder: Path, found: Findings, command: str) -> Path:
    """Write everything into `folder`; return the page, `explain.html`.

    Args:
        command: what to type to get the same report.
    """
    body = [html.paragraph(headline(found)), html.paragraph(setting(found))]
    for picture in draw_pictures(found):
        save_figure(picture.figure, folder / f"{picture.name}.pdf")
        body.append(html.figure(save_figure(picture.figure, folder / f"{picture.name}.png"), picture.caption))
    body += [
        html.heading("Every number"),
        html.table(("quantity", "value", "what it means"), facts(found)),
        html.footer(command, found.tasks.images.digest),
    ]
    write_text(folder / "explain.json", json.dumps({"command": command} | as_json(found), ensure_ascii=False) + "\n")
    report = folder / "explain.html"
    write_text(report, html.render_page("Why this model learns: a decomposition of its outer gradient", body))
    return report


def draw_pictures(found: Findings) -> Iterator[Picture]:
    """Draw every picture for which the findings have data."""
    if found.explanation.gradient_norm:
        yield Picture("gradient-parts", _parts(found), _PARTS)
    yield Picture("coefficients", _coefficients(found), _COEFFICIENTS)
    yield Picture("similarity", _similarity(found), _SIMILARITY)
    if not found.answers_at_once:
        yield Picture("spectrum", draw_spectrum(found.explanation.eigenvalues.numpy(), "Preconditioner"), _SPECTRUM)
    if len(found.history) > 1:
        yield Picture("checkpoints", _checkpoints(found), _CHECKPOINTS)
        yield Picture("similarity-checkpoints", _similarity_history(found), _SIMILARITY_HISTORY)


def _parts(found: Findings) -> Figure:
    explanation = found.explanation
    whole = explanation.gradient_norm
    parts = {name: part._asdict() | {"norm_ratio": part.norm / whole} for name, part in explanation.parts.items()}
    return draw_gradient_parts(parts, f"Outer gradient of the encoder, {explanation.tasks} tasks")


def _coefficients(found: Findings) -> Figure:
    explanation, images, first = found.explanation, found.tasks.images.images.cpu(), found.tasks.rows(0)
    query, support = (drawable(images[torch.from_numpy(rows)].numpy()) for rows in (first.query, first.support))
    matrix, labels = explanation.coefficients.numpy(), (explanation.query_y.numpy(), explanation.support_y.numpy())
    shown = np.concatenate([np.flatnonzero(labels[0] == way)[:SHOWN_QUERIES] for way in range(found.tasks.ways)])
    return draw_coefficients(
        matrix[shown], labels[0][shown], labels[1], query[shown], support, "Coefficients of a task"
    )


SHOWN_QUERIES = 3
SHOWN_CHECKPOINTS = 4


def _similarity(found: Findings) -> Figure:
    moments = (("before adaptation", found.explanation.before), ("after adaptation", found.explanation.after))
    return draw_heatmaps([_moment(*each) for each in moments], MAPS, "Similarity of features, class by class")


def _similarity_history(found: Findings) -> Figure:
    updates = list(found.history)
    shown = sorted({updates[i] for i in np.linspace(0, len(updates) - 1, SHOWN_CHECKPOINTS).round().astype(int)})
    moments = [_moment(f"update {each}", found.history[each].before) for each in shown]
    return draw_heatmaps(moments, MAPS, "Similarity before adaptation, during training")


def _moment(label: str, maps: torch.Tensor) -> Moment:
    return Moment(label, maps.numpy(), list(contrasts(maps).values()))


def _checkpoints(found: Findings) -> Figure:
    history = [each.scalars() for each in found.history.values()]

    def curve(name: str) -> list[float | None]:
        return [scalars[name] for scalars in history]

    panels = {
        "spread of the head's rows": {"": curve("head_spread")},
        "contrast, query-support": {w: curve(f"contrast_query_support_{w}") for w in ("before", "after")},
        "wrong-sign share": {"": curve("wrong_sign_share")},
    }
    return draw_checkpoints(list(found.history), panels, "Over the copies of the model from training")


_PARTS = (
    "Decomposition of the encoder's outer gradient. Left: the norm of each part relative to the gradient's. Middle: "
    "its share, measured along the gradient; shares sum to 1, and a negative share works against the gradient. Right: "
    "its cosine with the gradient. Parts that are zero are left out. The residual is what the theory does "
    "not cover: adaptation of the encoder in the inner loop, the gradient through the prototypes of a prototype head, "
    "and a head that is not adapted."
)
_COEFFICIENTS = (
    f"Coefficients of the first task; rows: up to {SHOWN_QUERIES} query images of each class, columns: support images. "
    "Blue: the gradient pulls the query's feature towards the support image's. Red: it pushes them apart. Frames mark "
    "pairs of the same class. A contrastive learner is blue inside the frames and red outside; blue outside is noise."
)
_SIMILARITY = (
    "Mean cosine similarity of the features of each pair of classes, before (top) and after (bottom) the model adapts "
    "to the task, on the same scale. Contrast is the mean of the diagonal minus the mean of the rest: it is high if "
    "features of the same class are similar and features of different classes are not. An image is not compared with "
    "itself; a dash marks a class with a single image."
)
_SIMILARITY_HISTORY = (
    f"The same maps before adaptation for up to {SHOWN_CHECKPOINTS} copies of the model from training (--keep-every)."
)
_SPECTRUM = (
    "In second order the head's step is multiplied by I − ηH. An eigenvalue of 1 leaves the step in its direction "
    "unchanged, one between 0 and 1 shortens it, and one below 0 reverses it (below −1 it also grows): the inner "
    "learning rate is then too large for that direction."
)
_CHECKPOINTS = (
    "The same numbers for the copies of the model from training (--keep-every): the distance of the head's rows from "
    "their mean, the part that can interfere; the contrast between query and support features before and after "
    "adaptation; and the share of coefficients with the wrong sign."
)
