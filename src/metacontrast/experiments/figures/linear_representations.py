"""Do MAML and ANIL find a linear representation that all tasks share (Collins et al. 2022), and what do zeros change?

Task t is regression on y = v_tᵀx, x ~ N(0, I) in d dimensions, with v_t = B* a_t in a k-dimensional subspace and
a_t ~ N(0, I). The model is y = wᵀBᵀx. Its losses over all x are |Bw − v_t|² / 2, so that nothing is sampled but tasks.
The distance of B to B* is the sine of the largest angle between their columns' spaces: 0 is recovered.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from metacontrast.experiments.claims import Claim, Comparison, Number, TaskKind, above, same
from metacontrast.experiments.measurement import measured_once
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Measurement
from metacontrast.plots.curves import draw_checkpoints
from metacontrast.training.records import Record

_KIND = TaskKind("linear regression", "10 dimensions, of which 3 are shared")
_DISTANCE = Number("distance")
_SEEDS, _SIZE, _SHARED, _TASKS, _UPDATES = 8, 10, 3, 16, 600
_INNER_LR, _OUTER_LR = 0.2, 0.1
_SHOWN = tuple(range(0, _UPDATES + 1, 25))


class _Way(NamedTuple):
    """How B is trained: whether the inner step moves it, its order, and where the head starts."""

    adapts_encoder: bool
    second: bool
    head: str


_STARTS = {"small head": 0.1, "large head": 0.5, "zeroed head": 0.0}
_PLAIN = "without inner steps, small head"
_WAYS = {
    f"{'MAML' if adapts else 'ANIL'}, {'second' if second else 'first'} order, {head}": _Way(adapts, second, head)
    for adapts in (False, True)
    for second in (False, True)
    for head in _STARTS
} | {_PLAIN: _Way(False, False, "small head")}


def outer_gradient(
    encoder: Float[Tensor, "seed size shared"],
    head: Float[Tensor, "seed shared"],
    targets: Float[Tensor, "seed task size"],
    way: _Way,
    inner_lr: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of B and w after one inner step on each task, mean over tasks; of every seed by itself."""
    b, w = encoder.detach().requires_grad_(), head.detach().requires_grad_()
    residuals = (b @ w[..., None]).mT - targets
    at_head, at_encoder = residuals @ b, residuals[..., None] * w[:, None, None]
    if not way.second:
        at_head, at_encoder = at_head.detach(), at_encoder.detach()
    moved = b[:, None] - inner_lr * at_encoder if way.adapts_encoder else b[:, None]
    outputs = (moved @ (w[:, None] - inner_lr * at_head)[..., None])[..., 0]
    loss = (outputs - targets).square().sum(-1).mean(1).sum() / 2
    at_b, at_w = torch.autograd.grad(loss, [b, w])
    return at_b, at_w


def distance(
    encoder: Float[Tensor, "seed size shared"], true: Float[Tensor, "seed size shared"]
) -> Float[Tensor, " seed"]:
    """The sine of the largest angle between the spaces; 1 where the training diverged."""
    finite = encoder.isfinite().flatten(1).all(1)
    basis = torch.linalg.qr(torch.where(finite[:, None, None], encoder, true))[0]
    sine = torch.linalg.matrix_norm(basis - true @ (true.mT @ basis), 2)
    return torch.where(finite, sine, torch.ones_like(sine))


@cache
def _trained(name: str) -> dict[int, list[float]]:
    """The distances by update, one for each seed."""
    way, generator = _WAYS[name], torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(_SEEDS, *shape, generator=generator, dtype=torch.float64)

    true, encoder = (torch.linalg.qr(draw(_SIZE, _SHARED))[0] for _ in range(2))
    head, rate = _STARTS[way.head] * draw(_SHARED), 0.0 if name == _PLAIN else _INNER_LR
    found = {}
    for update in range(_UPDATES + 1):
        if update in _SHOWN:
            found[update] = distance(encoder, true).tolist()
        at_encoder, at_head = outer_gradient(encoder, head, draw(_TASKS, _SHARED) @ true.mT, way, rate)
        encoder = encoder - _OUTER_LR * at_encoder
        head = torch.zeros_like(head) if way.head == "zeroed head" else head - _OUTER_LR * at_head
    return found


def _compute() -> list[Measurement]:
    found = {name: _trained(name) for name in _WAYS}
    measurements = [
        Measurement(_KIND, name, seed, measured_once({"distance": values[_UPDATES][seed]}, _UPDATES))
        for name, values in found.items()
        for seed in range(_SEEDS)
    ]
    means = {name: [sum(values[u]) / _SEEDS for u in _SHOWN] for name, values in found.items()}
    measurements[0].record["drawn"] = {"updates": list(_SHOWN), "distances": means}
    return measurements


def _draw(drawn: Record) -> Figure:
    """Draw one panel for each start of the head."""
    panels = {
        head: {name.rpartition(",")[0]: values for name, values in drawn["distances"].items() if name.endswith(head)}
        for head in _STARTS
    }
    panels["small head"].pop("without inner steps", None)
    return draw_checkpoints(drawn["updates"], panels, "distance to the shared representation, mean over 8 seeds")


def _recovers(head: str, method: str = "") -> tuple[Comparison, ...]:
    """Compare with plain training, which must leave a far larger distance; in both orders, for one method or both."""
    names = [name for name, way in _WAYS.items() if way.head == head and name != _PLAIN and name.startswith(method)]
    return tuple(above(_KIND, _PLAIN, name, _DISTANCE, margin=0.8) for name in names)


def _claims(setting: Setting) -> list[Claim]:
    maml = [f"MAML, {order} order, {{}} head" for order in ("first", "second")]
    return [
        Claim(
            "MAML and ANIL recover the shared representation from a small head, in first and second order; training "
            "without inner steps does not (Collins et al. 2022).",
            _recovers("small head"),
            speaks="early",
        ),
        Claim(
            "From a large head ANIL recovers it and second-order MAML does not, whose encoder has an inner step "
            "proportional to it.",
            (
                *_recovers("large head", method="ANIL"),
                above(_KIND, maml[1].format("large"), "ANIL, second order, large head", _DISTANCE, margin=0.3),
            ),
            speaks="early",
        ),
        Claim(
            "With the zeroing trick all four recover it, and MAML is ANIL: the encoder has no inner step.",
            (
                *_recovers("zeroed head"),
                *(
                    same(_KIND, each.format("zeroed"), each.format("zeroed").replace("MAML", "ANIL"), _DISTANCE, 1e-9)
                    for each in maml
                ),
            ),
            speaks="early",
        ),
    ]


SPEC = FigureSpec(
    name="linear-representations",
    title="A linear representation that all tasks share",
    question="Do MAML and ANIL find it, in both orders, and what does a zeroed head do to it?",
    claims=_claims,
    plot="illustration",
    compute=_compute,
    draw=_draw,
    deviations=(
        f"A task is regression on y = ⟨Ba, x⟩, x and a standard normal in {_SIZE} and {_SHARED} dimensions, and the "
        "columns of B orthonormal and common to all tasks. Losses are expectations over x, so only tasks are drawn.",
        f"The model is y = ⟨Wᵀx, w⟩. One inner step of size {_INNER_LR}, {_UPDATES} outer updates of {_TASKS} tasks "
        f"at the rate {_OUTER_LR}, {_SEEDS} seeds, double precision. The head w starts at "
        f"{_STARTS['small head']:g} (small) or {_STARTS['large head']:g} (large) times a standard normal vector, or is "
        "set to zero after every update (zeroed).",
        "The distance is the sine of the largest angle between the columns' spaces of W and B: 0 where W has found the "
        "shared representation; 1 for a training that diverged.",
        "First-order MAML from a large head diverges on 7 of the 8 seeds and recovers the representation on the other, "
        "so no claim is made of it. No other training diverges.",
    ),
    of_paper=False,
)
