"""Fig. 1: with a head at zero and squared errors, is MAML a comparison of query and support features?"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metacontrast.experiments.measurement import measured_once
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Claim, FigureSpec, Measurement, Number, TaskKind, same
from metacontrast.plots.theory import draw_illustration
from metacontrast.theory import FeatureTask, mean_square_error_illustration
from metacontrast.training.records import Record
from metacontrast.types import Head

_KIND = TaskKind("random features", "5-way 2-shot")
_PRODUCTS, _LOOP = "inner products of features", "inner loop by differentiation"
_SEEDS, _WAYS, _SIZE = 10, 5, 16
_SUPPORT = torch.tensor([[1.0, 0.1], [0.3, 0.9], [-0.7, 0.5]])
_QUERY = torch.tensor([[0.55, 0.6]])


def _compute() -> list[Measurement]:
    measurements = [each for seed in range(_SEEDS) for each in _compared(seed)]
    drawn = FeatureTask(_SUPPORT, torch.arange(3), _QUERY, torch.tensor([0]), Head(torch.zeros(3, 2), None))
    shown = mean_square_error_illustration(drawn)
    measurements[0].record["drawn"] = {
        "support": _SUPPORT.tolist(),
        "query": _QUERY[0].tolist(),
        "outputs": shown.outputs[0].tolist(),
        "signal": shown.query_signal[0].tolist(),
    }
    return measurements


def _compared(seed: int) -> list[Measurement]:
    """The loss of the queries and the size of its error signal, computed in two ways."""
    generator = torch.Generator().manual_seed(seed)
    support_y = torch.arange(_WAYS).repeat(2)
    query_y = torch.arange(_WAYS)
    support, query = (torch.randn(len(y), _SIZE, generator=generator).double() for y in (support_y, query_y))
    zero = Head(support.new_zeros(_WAYS, _SIZE), None)
    closed = mean_square_error_illustration(FeatureTask(support, support_y, query, query_y, zero))
    loss, signal = _by_differentiation(support, support_y, query.requires_grad_(), query_y)
    found = {_PRODUCTS: (closed.loss.mean(), closed.query_signal.norm()), _LOOP: (loss, signal.norm())}
    return [
        Measurement(_KIND, curve, seed, measured_once({"loss": loss.item(), "signal": size.item()}))
        for curve, (loss, size) in found.items()
    ]


def _by_differentiation(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
    """One inner step of size |S| from a zero head; then the mean query loss and each query's own error signal."""
    head = torch.zeros(_WAYS, support.shape[1], dtype=support.dtype, requires_grad=True)
    inner = _squared_errors(support @ head.T, support_y).mean()
    (gradient,) = torch.autograd.grad(inner, head)
    losses = _squared_errors(query @ (head - len(support) * gradient).detach().T, query_y)
    (signal,) = torch.autograd.grad(losses.sum(), query)
    return losses.mean(), signal


def _squared_errors(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - torch.nn.functional.one_hot(y, _WAYS)).square().sum(1) / 2


def _draw(drawn: Record) -> Figure:
    support, query, outputs, signal = (np.array(drawn[name]) for name in ("support", "query", "outputs", "signal"))
    return draw_illustration(support, query, outputs, signal, own=0)


def _claims(setting: Setting) -> list[Claim]:
    comparisons = tuple(same(_KIND, _PRODUCTS, _LOOP, Number(name), 1e-9) for name in ("loss", "signal"))
    text = "From a zero head the outer loss compares the query's features with the support features; up to rounding."
    return [Claim(text, comparisons, "—", "early")]


SPEC = FigureSpec(
    name="comparing-features",
    title="MAML as a comparison of features",
    question="With the head at zero and squared errors, what does one step of MAML compute?",
    paper_figures=(1,),
    claims=_claims,
    plot="illustration",
    compute=_compute,
    draw=_draw,
)
