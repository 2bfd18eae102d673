"""MAML written as a contrastive loss: a loss without an inner loop whose encoder gradient is MAML's.

Per query sample, with everything in [·] under stop-gradient (paper, Eq. 7, 13 and 22),

    L = Σ_j [(q_j - 1{j=u}) w_j^0]ᵀ φ(q) + η E_s [c(q, s) φ(s)]ᵀ φ(q)

and for second order, one step (Eq. 14), φ(s) leaves the bracket. Eq. 14 still misses the path through the
support outputs; its gradient becomes SOMAML's with the head-curvature term Σ_s [δ(s)]ᵀ φ(s) of
`metacontrast.theory.decomposition`. A zeroed head leaves

    L = η E_s [q_t - 1{t=u}] φ(s)ᵀφ(q)                 first order with [φ(s)]: Eq. 8, 15; second: Eq. 16

Eq. 22 is printed with the sign of the negative gradient; here it is the loss itself, and one step gives Eq. 7.
The value of L means nothing by itself: it is linear in φ(q) and bounded on no side.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.4, B.4 - B.7 and C.
"""

from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.coefficients import contrastive_coefficients, zeroed_coefficients
from metacontrast.theory.decomposition import query_signals, support_signals
from metacontrast.theory.task import FeatureTask, Trajectory, append_constant, walk
from metacontrast.types import Inner


def contrastive_loss(
    task: FeatureTask,
    inner: Inner,
    *,
    drop_interference: bool = False,
    drop_noise: bool = False,
    drop_head_curvature: bool = False,
    path: Trajectory | None = None,
) -> Float[Tensor, ""]:
    """Mean over the query set of a loss whose gradient at the features is head-only MAML's.

    It gives the head no gradient: update it by `head_gradient` (Eq. 5, 9, 20) with the same arguments.

    Args:
        task: features with their graph, labels, and the head w^0; a zeroed one turns Eq. 7 into Eq. 8 and Eq. 14 into
            Eq. 16.
        inner: order `first` (Eq. 7, 22) or `second` (Eq. 14, completed), which has a loss for one step only.
        drop_interference: leave out the first term (Fig. 9, "ITF").
        drop_noise: leave -Σ_j q_j s_j + s_u out of the coefficients (Fig. 9, "nCTT").
        drop_head_curvature: leave δ(s) out, which gives Eq. 14 as printed.
        path: the inner loop where it was walked before; it holds what stands under stop-gradient.

    With a zeroed head, η = 2 and φ(q) = φ(s_0), the pull of 1/(1 + e) meets φ(s_0)ᵀφ(q) = 1:

    >>> import torch
    >>> from metacontrast import Head
    >>> zero, y = Head(torch.zeros(2, 2), None), torch.tensor([0, 1])
    >>> contrastive_loss(FeatureTask(torch.eye(2), y, torch.eye(2)[:1], y[:1], zero), Inner(lr=2.0))
    tensor(-0.2689)
    """
    if inner.order == "second" and inner.steps > 1:
        raise InputError(
            f"order='second' has no contrastive loss for {inner.steps} inner steps: use 1 step, "
            "or take the gradient from split_encoder_gradient, exact for any number"
        )
    path = walk(task, inner) if path is None else path
    support, query = append_constant(task.support, task.head), append_constant(task.query, task.head)
    anchors = support if path.order == "second" else path.support
    if drop_noise:
        c = len(path.support_probs) * zeroed_coefficients(path.query_probs, path.query_y, path.support_y)
    else:
        c = contrastive_coefficients(path.query_probs, path.query_y, path.support_probs, path.support_y)
    loss = path.lr * (c * (query @ anchors.T)).mean()
    if not drop_interference:
        loss = loss + (query_signals(path)[0] * query).sum()
    if path.order == "second" and not drop_head_curvature:
        loss = loss + (support_signals(path)[1] * support).sum()
    return loss
