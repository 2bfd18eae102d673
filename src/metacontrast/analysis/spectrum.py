"""The eigenvalues of I − ηH_k, H_k = E_s[s_k φ(s)φ(s)ᵀ], without the matrix (paper, Eq. 10, Fig. 7).

H_k is a sum of |S| outer products, so its eigenvalues are those of the |S| × |S| matrix √s_k(s) √s_k(s') φ(s)ᵀφ(s')/|S|
and zeros. A few-shot support set is small where features are long: 5 × 5 in place of 800 × 800.

`metacontrast.theory.head_preconditioner` gives the matrix itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.model.model import apply_head
from metacontrast.types import Head


def preconditioner_spectrum(
    support: Float[Tensor, "support feature"], head: Head, inner_lr: float
) -> Float[Tensor, "way extended"]:
    """All eigenvalues of I − ηH_k for every class k, in ascending order.

    With a bias φ(s) carries a final 1, which is counted in `extended`.

    >>> zero = Head(torch.zeros(2, 3), None)
    >>> preconditioner_spectrum(2 * torch.eye(3)[:2], zero, inner_lr=0.5)[0]
    tensor([0.5000, 0.5000, 1.0000])
    """
    return spectrum(support_curvature(support, head), support.shape[1] + (head.bias is not None), inner_lr)


@torch.no_grad()
def support_curvature(support: Float[Tensor, "support feature"], head: Head) -> Float[Tensor, "way support support"]:
    """The |S| × |S| matrix of every class."""
    s = apply_head(head, support).softmax(1)
    products = support @ support.T + (head.bias is not None)
    root = (s / len(s)).sqrt()
    return torch.einsum("ak,ab,bk->kab", root, products, root)


def spectrum(
    curvature: Float[Tensor, "*task way support support"], extended: int, inner_lr: float
) -> Float[Tensor, "*task way extended"]:
    """`preconditioner_spectrum` from such matrices, of many tasks at once: a GPU is waited for once a call.

    Args:
        extended: how many eigenvalues there are, zeros included.
    """
    largest = torch.linalg.eigvalsh(curvature).clamp_min(0).flip(-1)[..., :extended]
    rest = largest.new_zeros(*largest.shape[:-1], extended - largest.shape[-1])
    return 1 - inner_lr * torch.cat([largest, rest], dim=-1)
