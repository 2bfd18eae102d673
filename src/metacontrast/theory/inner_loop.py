"""The head's walk through the inner loop, forwards and backwards, in closed form.

Forwards (paper, Eq. 4 and 17), with s^{p-1} the softmax outputs of the support sample s under w^{p-1}:

    w_k^p = w_k^{p-1} + η E_s[(1{k=t} - s_k^{p-1}) φ(s)]

Backwards, λ^p = ∂L_Q/∂w^p starts at λ_k^N = E_q[(q_k - 1{k=u}) φ(q)] and takes one factor of the product in
Eq. 19 per step:

    λ_k^{p-1} = λ_k^p - η E_s[ r_k(s) φ(s) ],        r_k(s) = s_k (z_k - Σ_j s_j z_j),        z_k = φ(s)ᵀλ_k^p

r is the softmax's Jacobian applied to z, and E_s[r_k φ(s)] is the Hessian of the inner loss applied to λ.
The paper prints only the case N = 1, as Eq. 9. The encoder stands still throughout.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory.task import FeatureTask, targets


class Trajectory(NamedTuple):
    """Heads w^0 … w^N, and the support outputs s^0 … s^{N-1} that moved them."""

    heads: Float[Tensor, "heads way feature"]
    support_probs: Float[Tensor, "step support way"]


def softmax_outputs(
    features: Float[Tensor, "image feature"], head: Float[Tensor, "way feature"]
) -> Float[Tensor, "image way"]:
    """s or q: what the head answers."""
    return (features @ head.T).softmax(dim=-1)


def descend(
    support: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    head: Float[Tensor, "way feature"],
    inner_lr: float,
    inner_steps: int,
) -> Trajectory:
    """Inner steps of gradient descent on the head, Eq. 17."""
    heads, outputs = [head], []
    for _ in range(inner_steps):
        s = softmax_outputs(support, heads[-1])
        heads.append(heads[-1] + inner_lr / len(support) * (targets(support_y, s) - s).T @ support)
        outputs.append(s)
    return Trajectory(torch.stack(heads), torch.stack(outputs))


def query_errors(task: FeatureTask, trajectory: Trajectory) -> Float[Tensor, "query way"]:
    """q_k - 1{k=u} under the adapted head."""
    q = softmax_outputs(task.query, trajectory.heads[-1])
    return q - targets(task.query_y, q)


def softmax_vjp(outputs: Float[Tensor, "image way"], z: Float[Tensor, "image way"]) -> Float[Tensor, "image way"]:
    """r_k = s_k (z_k - Σ_j s_j z_j)."""
    return outputs * (z - (outputs * z).sum(dim=-1, keepdim=True))


def adjoints(task: FeatureTask, trajectory: Trajectory, inner_lr: float) -> Float[Tensor, "heads way feature"]:
    """λ^0 … λ^N, gradients of the mean query loss with respect to each head of the trajectory."""
    lam = [query_errors(task, trajectory).T @ task.query / len(task.query)]
    for s in trajectory.support_probs.flip(0):
        r = softmax_vjp(s, task.support @ lam[0].T)
        lam.insert(0, lam[0] - inner_lr / len(task.support) * r.T @ task.support)
    return torch.stack(lam)
