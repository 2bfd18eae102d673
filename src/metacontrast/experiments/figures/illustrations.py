"""Fig. 1 and 7, computed without training: what one inner step compares, and where second order turns it."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metacontrast.experiments.claims import Claim, Number, TaskKind, above, same
from metacontrast.experiments.measurement import measured_once
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Measurement
from metacontrast.plots.theory import draw_illustration, draw_preconditioner
from metacontrast.theory import FeatureTask, head_gradient, head_preconditioner, mean_square_error_illustration
from metacontrast.training.records import Record
from metacontrast.types import Head, Inner, Order

_COMPARED = TaskKind("random features", "5-way 2-shot")
_PRODUCTS, _LOOP = "inner products of features", "inner loop by differentiation"
_SEEDS, _WAYS, _SIZE = 10, 5, 16
_SUPPORT = torch.tensor([[1.0, 0.1], [0.3, 0.9], [-0.7, 0.5]])
_QUERY = torch.tensor([[0.55, 0.6]])


def _compute_comparison() -> list[Measurement]:
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
    """Compute the loss of the queries and the size of its error signal in two ways."""
    generator = torch.Generator().manual_seed(seed)
    support_y = torch.arange(_WAYS).repeat(2)
    query_y = torch.arange(_WAYS)
    support, query = (torch.randn(len(y), _SIZE, generator=generator).double() for y in (support_y, query_y))
    zero = Head(support.new_zeros(_WAYS, _SIZE), None)
    closed = mean_square_error_illustration(FeatureTask(support, support_y, query, query_y, zero))
    loss, signal = _by_differentiation(support, support_y, query.requires_grad_(), query_y)
    found = {_PRODUCTS: (closed.loss.mean(), closed.query_signal.norm()), _LOOP: (loss, signal.norm())}
    return [
        Measurement(_COMPARED, curve, seed, measured_once({"loss": loss.item(), "signal": size.item()}))
        for curve, (loss, size) in found.items()
    ]


def _by_differentiation(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of size |S| from a zero head; return the mean query loss and each query's own error signal."""
    head = torch.zeros(_WAYS, support.shape[1], dtype=support.dtype, requires_grad=True)
    inner = _squared_errors(support @ head.T, support_y).mean()
    (gradient,) = torch.autograd.grad(inner, head)
    losses = _squared_errors(query @ (head - len(support) * gradient).detach().T, query_y)
    (signal,) = torch.autograd.grad(losses.sum(), query)
    return losses.mean(), signal


def _squared_errors(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - torch.nn.functional.one_hot(y, _WAYS)).square().sum(1) / 2


def _draw_comparison(drawn: Record) -> Figure:
    support, query, outputs, signal = (np.array(drawn[name]) for name in ("support", "query", "outputs", "signal"))
    return draw_illustration(support, query, outputs, signal, own=0)


def _claims_comparison(setting: Setting) -> list[Claim]:
    comparisons = tuple(same(_COMPARED, _PRODUCTS, _LOOP, Number(name), 1e-9) for name in ("loss", "signal"))
    text = "From a zero head the outer loss compares the query's features with the support features; up to rounding."
    return [Claim(text, comparisons, speaks="early")]


COMPARING_FEATURES = FigureSpec(
    name="comparing-features",
    title="MAML as a comparison of features",
    question="With the head at zero and squared errors, what does one step of MAML compute?",
    paper_figures=(1,),
    claims=_claims_comparison,
    plot="illustration",
    compute=_compute_comparison,
    draw=_draw_comparison,
)


_CROWDED = TaskKind("random features in the plane", "crowded along [1, 1]")
_CLASSES, _SHOTS = 2, 20
_SHARE = Number("share of the step across the crowded direction")


def _compute_step() -> list[Measurement]:
    measurements = []
    for seed in range(_SEEDS):
        support, crowded, steps = _steps(seed)
        for curve, step in steps.items():
            across = 1 - ((step @ crowded) / step.norm()) ** 2
            measurements.append(Measurement(_CROWDED, curve, seed, measured_once({_SHARE.name: across.item()})))
        if seed == 0:
            shown = {"features": support, "crowded": crowded, **steps}
            measurements[0].record["drawn"] = {
                name: [*np.round(tensor.numpy(), 5).tolist()] for name, tensor in shown.items()
            }
    return measurements


def _steps(seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return support features, their crowded direction, and the first row's step from zero in both orders."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.tensor([[0.9, 0.9], [-0.3, 0.3]], dtype=torch.float64)
    images = _CLASSES * _SHOTS
    support, query = (torch.randn(images, 2, generator=generator).double() @ across for _ in range(2))
    y = torch.arange(_CLASSES).repeat_interleave(_SHOTS)
    zero = Head(torch.zeros(_CLASSES, 2, dtype=torch.float64), None)
    shift = torch.tensor([0.2, 0.9], dtype=torch.float64)
    task = FeatureTask(support, y, query + y[:, None] * shift, y, zero)
    rate = 0.7 / (1 - head_preconditioner(task, Inner(lr=1.0)).eigenvalues.min().item())
    orders: tuple[Order, ...] = ("first", "second")
    steps = {f"{order} order": -head_gradient(task, Inner(lr=rate, order=order)).weight[0] for order in orders}
    second_moment = support.T @ support
    return support, torch.linalg.eigh(second_moment).eigenvectors[:, -1], steps


def _draw_step(drawn: Record) -> Figure:
    names = ("features", "crowded", "first order", "second order")
    return draw_preconditioner(*(np.array(drawn[name]) for name in names))


def _claims_step(setting: Setting) -> list[Claim]:
    text = "With a zero head, second order turns the head's step towards directions in which features vary less."
    return [Claim(text, (above(_CROWDED, "second order", "first order", _SHARE),), speaks="early")]


CROWDED_DIRECTIONS = FigureSpec(
    name="crowded-directions",
    title="What second order does to the head",
    question="How does the head's step differ between first and second order?",
    paper_figures=(7,),
    claims=_claims_step,
    plot="illustration",
    compute=_compute_step,
    draw=_draw_step,
    faults=(
        "This needs an inner learning rate below one over the largest eigenvalue of H. At the authors' rate of 0.4 the "
        "untrained Omniglot encoder is above it, and the step reverses in the crowded directions.",
    ),
)
