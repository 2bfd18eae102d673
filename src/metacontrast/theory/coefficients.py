"""How strongly MAML pulls or pushes a query feature along every support feature.

The error signal at φ(q) holds the support features with weights η/|S| · c(q, s), and (paper, Eq. 6 and 12;
Eq. 21 for more steps than one)

    c(q, s) = Σ_p ( -Σ_j q_j s_j^{p-1} + s_u^{p-1} + q_t - 1{t=u} ),        p = 1 … N_step

where (s, t) is a support sample, (q, u) a query sample, s_j^{p-1} the softmax outputs of s before inner
step p, and q_j those of q after the last one. A negative weight attracts. Each bracket is -⟨q - e_u, s -
e_t⟩: minus the inner product of the two output errors. As q sums to 1, it is

    Σ_j q_j (s_u - s_j + 1{j=t} - 1{u=t}),

and is computed so: where q and s are sure of their class nearly all of the printed sum cancels, but here no term of a
class's own samples is above 0, also after rounding, and the differences of a uniform s are exactly 0.

Reference: Kao, Chiu and Chen, "MAML is a Noisy Contrastive Learner in Classification", ICLR 2022.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.task import check_classes, check_samples


def contrastive_coefficients(
    query_probs: Float[Tensor, "query way"],
    query_y: Int[Tensor, " query"],
    support_probs: Float[Tensor, "*step support way"],
    support_y: Int[Tensor, " support"],
) -> Float[Tensor, "query support"]:
    """Weight of every support feature in every query's error signal, Eq. 6; the factor η/|S| is left out.

    Args:
        query_probs: softmax outputs with the adapted head.
        query_y: labels u.
        support_probs: softmax outputs with the head before the inner step; with a leading axis one set per step, and
            the weights of all steps are summed (Eq. 21).
        support_y: labels t.

    With uniform outputs and two classes a matching pair attracts and a mismatch repels:

    >>> p = torch.full((1, 2), 0.5)
    >>> contrastive_coefficients(p, torch.tensor([0]), p, torch.tensor([0]))
    tensor([[-0.5000]])
    >>> contrastive_coefficients(p, torch.tensor([0]), p, torch.tensor([1]))
    tensor([[0.5000]])
    """
    ways = query_probs.shape[-1]
    steps = support_probs.reshape(-1, *support_probs.shape[-2:])
    check_samples("query", query_probs, query_y, ways)
    for step in steps:
        check_samples("support", step, support_y, ways)
    ahead = (steps[:, :, query_y.long(), None] - steps[:, :, None]).sum(0)
    matches = _matches(query_probs, query_y, support_y)
    return torch.einsum("qj,sqj->qs", query_probs, ahead + len(steps) * matches)


def zeroed_coefficients(
    query_probs: Float[Tensor, "query way"], query_y: Int[Tensor, " query"], support_y: Int[Tensor, " support"]
) -> Float[Tensor, "query support"]:
    """The weights q_t - 1{t=u} that are left when the head starts at zero, Eq. 8.

    It is also what remains of Eq. 6 when its noise, -Σ_j q_j s_j + s_u, is dropped (Fig. 9).

    >>> zeroed_coefficients(torch.tensor([[0.7, 0.3]]), torch.tensor([0]), torch.tensor([0, 1]))
    tensor([[-0.3000,  0.3000]])
    """
    check_samples("query", query_probs, query_y, query_probs.shape[-1])
    check_classes("support", support_y, query_probs.shape[-1])
    return torch.einsum("qj,sqj->qs", query_probs, _matches(query_probs, query_y, support_y))


def _matches(
    query_probs: Float[Tensor, "query way"], query_y: Int[Tensor, " query"], support_y: Int[Tensor, " support"]
) -> Float[Tensor, "support query way"]:
    """Compute 1{j=t} − 1{u=t} for every support image, query image and class j.

    t is the class of the support image and u that of the query image.
    """
    t = torch.eye(query_probs.shape[-1], dtype=query_probs.dtype, device=query_probs.device)[support_y.long()]
    return t[:, None] - t[:, query_y.long(), None]


def wrong_sign_share(
    coefficients: Float[Tensor, "query support"], query_y: Int[Tensor, " query"], support_y: Int[Tensor, " support"]
) -> Float[Tensor, ""]:
    """Share of all pairs whose weight breaks Definition 1: attraction between classes, or repulsion in one.

    Within a class Eq. 6 cannot repel, for there c = -Σ_{j≠u} q_j s_j - (1 - q_u)(1 - s_u); so this counts
    false attractions. It is not a number where a weight is not.

    >>> wrong_sign_share(torch.tensor([[-0.3, -0.1]]), torch.tensor([0]), torch.tensor([0, 1]))
    tensor(0.5000)
    """
    if coefficients.shape != (len(query_y), len(support_y)):
        raise InputError(
            f"coefficients {tuple(coefficients.shape)} do not fit {len(query_y)} query "
            f"and {len(support_y)} support labels"
        )
    wrong = torch.where(query_y[:, None] == support_y, coefficients > 0, coefficients < 0)
    return wrong.to(coefficients.dtype).where(~coefficients.isnan(), math.nan).mean()
