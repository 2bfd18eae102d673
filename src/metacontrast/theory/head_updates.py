"""What one task does to the linear head, in closed form, when the encoder stands still in the inner loop.

    inner step           w_k^p = w_k^{p-1} + η E_s[(1{k=t} - s_k^{p-1}) φ(s)]             Eq. 4, 17, 18
    first-order outer    w_k ← w_k^0 + ρ E_q[(1{k=u} - q_k) φ(q)]                         Eq. 5, 20
    second-order outer   w_k ← w_k^0 - ρ λ_k^0, a factor I - η Hessian per inner step     Eq. 9 - 11, 19

Here s^{p-1} are the support outputs before inner step p and q the query outputs after the last. Eq. 18
carries a minus sign in print where Eq. 17 gives a plus. Sums over tasks in the paper are means here.

With squared errors one step makes the head a comparison with the support features (the paper's first picture).
One inner step and one-hot targets. The loss of a sample with outputs z and label y is half the sum over classes,
½ Σ_k (z_k - 1{k=y})², and a set's loss is the mean over its samples. Then, from a head of zeros as in the paper,

    w_k^1 = η/|S| Σ_{s: t=k} φ(s)                          row k collects the support features of class k
    z_k(q) = φ(q)ᵀw_k^1 = η/|S| Σ_{s: t=k} φ(q)ᵀφ(s)       the output is a vector of inner products
    ∂L/∂φ(q) = Σ_k (z_k - 1{k=u}) w_k^1                    pulled to 1 for the own class, else to 0

Reference: Kao, Chiu and Chen, ICLR 2022, Fig. 1, Sections 2.3, B.1, B.2 and C.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.task import (
    FeatureTask,
    Trajectory,
    adjoints,
    append_constant,
    check_task,
    merge_bias,
    softmax_outputs,
    split_bias,
    strip_constant,
    targets,
    walk,
)
from metacontrast.types import Head, Inner


def adapted_heads(task: FeatureTask, inner: Inner) -> list[Head]:
    """The heads w^0, w^1 … w^N of the inner loop, Eq. 4, 17 and 18.

    From zero, each row moves along its own class's features and against the others', by η/|S| times 1 - 1/2
    or 1/2:

    >>> zero, y = Head(torch.zeros(2, 2), None), torch.tensor([0, 1])
    >>> task = FeatureTask(torch.eye(2), y, torch.eye(2), y, zero)
    >>> adapted_heads(task, Inner(lr=4.0))[-1].weight
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    return [split_bias(w, task.head) for w in walk(task, inner).heads]


def head_gradient(task: FeatureTask, inner: Inner) -> Head:
    """Gradient of the mean query loss that MAML gives to the initial head.

    With `inner.order` first it is Eq. 5 and 20 without -ρ, with second Eq. 9 (one step) and Eq. 19 (more).
    """
    return gradient_along(walk(task, inner), task.head)


def gradient_along(path: Trajectory, head: Head) -> Head:
    """`head_gradient` for an inner loop that was walked from `head`."""
    return split_bias(adjoints(path)[-1 if path.order == "first" else 0], head)


def head_update(task: FeatureTask, inner: Inner, *, outer_lr: float) -> Head:
    """The initial head after one outer step of gradient descent, Eq. 5, 9, 10, 19 and 20.

    Args:
        task: one task; for several average what this returns.
        inner: steps, step size and order (`first` is FOMAML, `second` SOMAML) of the inner loop.
        outer_lr: step size ρ.

    A head at zero that learns nothing from the support set, whose features are 0, moves along (1{k=u} - 1/2) φ(q):

    >>> zero, y = Head(torch.zeros(2, 2), None), torch.tensor([0, 1])
    >>> task = FeatureTask(torch.zeros(2, 2), y, torch.tensor([[1.0, 3.0]]), y[:1], zero)
    >>> head_update(task, Inner(), outer_lr=2.0).weight
    tensor([[ 1.,  3.],
            [-1., -3.]])
    """
    step, head = head_gradient(task, inner), task.head
    bias = None if head.bias is None or step.bias is None else head.bias.detach() - outer_lr * step.bias
    return Head(head.weight.detach() - outer_lr * step.weight, bias)


class Preconditioner(NamedTuple):
    """I - ηH_k of every class, with its eigenvalues in ascending order and its condition number."""

    matrix: Float[Tensor, "way feature feature"]
    eigenvalues: Float[Tensor, "way feature"]
    condition_number: Float[Tensor, " way"]


@torch.no_grad()
def head_preconditioner(task: FeatureTask, inner: Inner) -> Preconditioner:
    """The matrix that second order multiplies the head's step by, I - ηH_k with H_k = E_s[s_k φ(s)φ(s)ᵀ], at w^0.

    This is Eq. 10 and Fig. 7, for one inner step; of several, it is the factor of the first.

    H_k is not the Hessian of the inner loss: its block (k, m) is E_s[s_k (1{k=m} - s_m) φ(s)φ(s)ᵀ]. On a
    step whose rows sum to zero over classes, as every outer step's do, a zeroed head makes the two agree
    (Eq. 11); else the rest is the third term of Eq. 9. With a bias φ(s) carries a final 1. The condition
    number is max|λ| / min|λ|. An eigenvalue below zero means that η overshoots: the step reverses in
    that direction, and below -1 it also grows.

    >>> zero, y = Head(torch.zeros(2, 2), None), torch.tensor([0, 1])
    >>> task = FeatureTask(2 * torch.eye(2), y, torch.eye(2), y, zero)
    >>> head_preconditioner(task, Inner(lr=0.5)).eigenvalues[0]
    tensor([0.5000, 0.5000])
    """
    check_task(task, inner)
    phi = append_constant(task.support, task.head)
    s = softmax_outputs(phi, merge_bias(task.head))
    curvature = torch.einsum("sk,sf,sg->kfg", s, phi, phi) / len(phi)
    matrix = torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device) - inner.lr * curvature
    eigenvalues = torch.linalg.eigvalsh(matrix.to(torch.promote_types(matrix.dtype, torch.float32))).to(matrix.dtype)
    size = eigenvalues.abs()
    return Preconditioner(matrix, eigenvalues, size.amax(-1) / size.amin(-1))


class Illustration(NamedTuple):
    """What Fig. 1 shows: w^1, and per query its outputs, its loss and that loss's error signal at φ(q)."""

    adapted_head: Head
    outputs: Float[Tensor, "query way"]
    loss: Float[Tensor, " query"]
    query_signal: Float[Tensor, "query feature"]


@torch.no_grad()
def mean_square_error_illustration(task: FeatureTask, inner: Inner | None = None) -> Illustration:
    """Adapt the head by one step on squared errors and compare the query with it, as Fig. 1 does from a head of zeros.

    Args:
        task: features, labels and the head w^0.
        inner: one step with `loss="mean_square_error"`; None takes η = |S|, which leaves the learning rate out as the
            paper does.

    From zero, with one support image per class, the adapted head is the support features themselves:

    >>> s, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> zero = Head(torch.zeros(2, 2), None)
    >>> fig1 = mean_square_error_illustration(FeatureTask(s, y, torch.tensor([[0.5, 0.1]]), y[:1], zero))
    >>> fig1.adapted_head.weight
    tensor([[1., 0.],
            [0., 2.]])
    >>> fig1.outputs
    tensor([[0.5000, 0.2000]])
    >>> fig1.query_signal
    tensor([[-0.5000,  0.4000]])
    """
    loss = "mean_square_error"
    inner = Inner(lr=float(len(task.support_y)), loss=loss) if inner is None else inner
    check_task(task, inner, loss)
    if inner.steps != 1:
        raise InputError(f"inner steps={inner.steps}, but the illustration is that of 1 step")
    support, query = append_constant(task.support, task.head), append_constant(task.query, task.head)
    start = merge_bias(task.head)
    errors = targets(task.support_y, start.T) - support @ start.T
    adapted = start + inner.lr / len(support) * errors.T @ support
    outputs = query @ adapted.T
    errors = outputs - targets(task.query_y, outputs)
    signal = strip_constant(errors @ adapted, task.head)
    return Illustration(split_bias(adapted, task.head), outputs, 0.5 * errors.square().sum(-1), signal)
