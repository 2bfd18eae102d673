"""Fig. 7: what does the second order do to the step of the head?"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metacontrast.experiments.measurement import measured_once
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Claim, FigureSpec, Measurement, Number, TaskKind, above
from metacontrast.plots.theory import draw_preconditioner
from metacontrast.theory import FeatureTask, head_gradient, head_preconditioner
from metacontrast.training.records import Record
from metacontrast.types import Head, Inner, Order

_KIND = TaskKind("random features in the plane", "crowded along [1, 1]")
_SEEDS, _WAYS, _SHOTS = 10, 2, 20
_SHARE = Number("share of the step across the crowded direction")


def _compute() -> list[Measurement]:
    measurements = []
    for seed in range(_SEEDS):
        support, crowded, steps = _steps(seed)
        for curve, step in steps.items():
            across = 1 - ((step @ crowded) / step.norm()) ** 2
            measurements.append(Measurement(_KIND, curve, seed, measured_once({_SHARE.name: across.item()})))
        if seed == 0:
            shown = {"features": support, "crowded": crowded, **steps}
            measurements[0].record["drawn"] = {
                name: [*np.round(tensor.numpy(), 5).tolist()] for name, tensor in shown.items()
            }
    return measurements


def _steps(seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Support features, their crowded direction, and the step of the first row in both orders, from a zero head."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.tensor([[0.9, 0.9], [-0.3, 0.3]], dtype=torch.float64)
    images = _WAYS * _SHOTS
    support, query = (torch.randn(images, 2, generator=generator).double() @ across for _ in range(2))
    y = torch.arange(_WAYS).repeat_interleave(_SHOTS)
    zero = Head(torch.zeros(_WAYS, 2, dtype=torch.float64), None)
    shift = torch.tensor([0.2, 0.9], dtype=torch.float64)
    task = FeatureTask(support, y, query + y[:, None] * shift, y, zero)
    rate = 0.7 / (1 - head_preconditioner(task, Inner(lr=1.0)).eigenvalues.min().item())
    orders: tuple[Order, ...] = ("first", "second")
    steps = {f"{order} order": -head_gradient(task, Inner(lr=rate, order=order)).weight[0] for order in orders}
    second_moment = support.T @ support
    return support, torch.linalg.eigh(second_moment).eigenvectors[:, -1], steps


def _draw(drawn: Record) -> Figure:
    names = ("features", "crowded", "first order", "second order")
    return draw_preconditioner(*(np.array(drawn[name]) for name in names))


def _claims(setting: Setting) -> list[Claim]:
    text = "With a zero head, second order turns the head's step towards directions in which features vary less."
    return [Claim(text, (above(_KIND, "second order", "first order", _SHARE),), "—", "early")]


SPEC = FigureSpec(
    name="crowded-directions",
    title="What second order does to the head",
    question="How does the head's step differ between first and second order?",
    paper_figures=(7,),
    claims=_claims,
    plot="illustration",
    compute=_compute,
    draw=_draw,
    faults=(
        "This needs an inner learning rate below one over the largest eigenvalue of H. At the authors' rate of 0.4 the "
        "untrained Omniglot encoder is above it, and the step reverses in the crowded directions.",
    ),
)
