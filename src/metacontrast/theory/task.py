"""One task as its linear head sees it, and the head's inner loop, forwards and backwards, in closed form.

A bias is a weight on a feature that is always 1. With φ̃(x) = (φ(x), 1) and w̃_k = (w_k, b_k)

    w_kᵀφ(x) + b_k = w̃_kᵀφ̃(x)        φ̃(s)ᵀφ̃(q) = φ(s)ᵀφ(q) + 1

so the equations of the paper, which has no bias, hold for φ̃ and w̃ as they stand. The error signal at φ is the one at
φ̃ without its last entry. The theory therefore computes in these coordinates, without a bias.

Shapes are checked everywhere, values on the CPU alone: on a GPU that would make the host wait for every task. There
PyTorch refuses a label out of range, and what is not finite stays visible in the result.

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
from torch.nn.functional import one_hot

from metacontrast.errors import InputError
from metacontrast.types import Head, Inner, Order, head_tensors, name_shapes


class FeatureTask(NamedTuple):
    """One task as its linear head sees it.

    Args:
        support, query: features φ(s), φ(q) under the meta-learned encoder, with or without their graph.
        support_y, query_y: labels t, u in [0, ways); two classes or more in the support set.
        head: w^0, one row per class, with or without a bias.
    """

    support: Float[Tensor, "support feature"]
    support_y: Int[Tensor, " support"]
    query: Float[Tensor, "query feature"]
    query_y: Int[Tensor, " query"]
    head: Head

    def __repr__(self) -> str:
        """The shapes."""
        tensors = self._asdict() | {"head": self.head.weight}
        return f"FeatureTask({name_shapes(**tensors)})"


def check_task(task: FeatureTask, inner: Inner, loss: str = "cross_entropy") -> None:
    """Raise `InputError` for a task or an inner loop that the theory does not describe.

    `inner.scope` is not asked: the theory moves the head alone, and tells what that has to do with other scopes.
    """
    check_inner(inner, loss)
    check_head(task.support, task.support_y, task.head)
    check_samples("query", task.query, task.query_y, len(task.head.weight))
    if task.query.shape[1] != task.support.shape[1]:
        raise InputError(
            f"support has {task.support.shape[1]} features and query {task.query.shape[1]}: "
            "take both from the same encoder"
        )


def check_inner(inner: Inner, loss: str = "cross_entropy", least: int = 1) -> None:
    """Raise `InputError` for an inner loop that is not `least` or more steps of gradient descent on that loss."""
    if inner.steps < least:
        raise InputError(f"inner steps={inner.steps}, but the theory is that of {least} step or more")
    if inner.loss != loss:
        found = "a loss of your own" if callable(inner.loss) else f"loss='{inner.loss}'"
        raise InputError(f"the theory is that of loss='{loss}', but this inner loop has {found}")
    if not inner.is_plain:
        raise InputError(
            "the theory is that of one loss and plain gradient descent: give an inner loop without query_loss, "
            "loss_weights and direction"
        )


def append_constant(features: Float[Tensor, "image feature"], head: Head) -> Float[Tensor, "image extended"]:
    """φ̃: the features and, where the head has a bias, a final 1."""
    if head.bias is None:
        return features
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def merge_bias(head: Head) -> Float[Tensor, "way extended"]:
    """w̃: weight and bias in one matrix."""
    return head.weight if head.bias is None else torch.cat([head.weight, head.bias[:, None]], dim=1)


def split_bias(joint_head: Float[Tensor, "way extended"], like: Head) -> Head:
    """Weight and bias from one matrix, the inverse of `merge_bias`.

    Args:
        like: a head that has a bias, or has none.
    """
    return Head(joint_head, None) if like.bias is None else Head(joint_head[:, :-1], joint_head[:, -1])


def strip_constant(signal: Float[Tensor, "image extended"], head: Head) -> Float[Tensor, "image feature"]:
    """The error signal at φ from the one at φ̃."""
    return signal if head.bias is None else signal[:, :-1]


def targets(y: Int[Tensor, " image"], like: Float[Tensor, "*rows way"]) -> Float[Tensor, "image way"]:
    """1{k=y} as a matrix, with as many columns as `like` has and of its dtype."""
    return one_hot(y.long(), like.shape[-1]).to(like.dtype)


def check_samples(name: str, features: Tensor, y: Tensor, ways: int) -> None:
    """Raise `InputError` unless these are features or probabilities `(sample, ...)` with one label each."""
    if features.ndim != 2 or y.ndim != 1 or len(features) != len(y) or not len(y):
        raise InputError(
            f"{name}: values {tuple(features.shape)} and labels {tuple(y.shape)} do not fit together: "
            "give (sample, feature) and one label per sample"
        )
    if features.is_cpu and (count := int((~torch.isfinite(features)).any(1).sum())):
        raise InputError(f"{name}: {count} of {len(y)} rows are not finite: lower the learning rate or fix the images")
    check_classes(name, y, ways)


def check_classes(name: str, y: Tensor, ways: int) -> None:
    """Raise `InputError` unless these labels are whole numbers from 0 to `ways` − 1."""
    if y.is_floating_point():
        raise InputError(f"{name}: labels are {y.dtype}, but classes are whole numbers: pass labels.long()")
    if y.is_cpu and y.numel() and (int(y.min()) < 0 or int(y.max()) >= ways):
        raise InputError(
            f"{name}: labels run from {int(y.min())} to {int(y.max())}, but {ways} classes have labels 0 to {ways - 1}"
        )


def check_head(features: Tensor, y: Tensor, head: Head) -> None:
    """Raise `InputError` unless the support set has two classes or more and the head fits its features."""
    check_samples("support", features, y, len(head.weight))
    if y.is_cpu and len(y.unique()) < 2:
        raise InputError(
            f"support: all {len(y)} samples are of class {int(y[0])}: a contrast needs two classes or more"
        )
    if head.weight.ndim != 2 or head.weight.shape[1] != features.shape[1]:
        raise InputError(
            f"head weight {tuple(head.weight.shape)} does not fit {features.shape[1]} features: "
            "it must be (way, feature)"
        )
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise InputError(f"head bias {tuple(head.bias.shape)} does not fit {len(head.weight)} classes: one per class")
    if head.weight.is_cpu and not all(t.isfinite().all() for t in head_tensors(head)):
        raise InputError("the head is not finite: give one from before training diverged")


class Trajectory(NamedTuple):
    """The inner loop of one task in coordinates without a bias, see `metacontrast.theory.task`; nothing has a graph.

    Args:
        support, query: features φ̃.
        support_y, query_y: labels t, u.
        lr, order: η, and whether the outer gradient runs through the loop.
        heads: w̃^0 … w̃^N.
        support_probs: s^0 … s^{N-1}, the support outputs that moved them.
        query_probs: q, the query outputs after the last step.
    """

    support: Float[Tensor, "support feature"]
    support_y: Int[Tensor, " support"]
    query: Float[Tensor, "query feature"]
    query_y: Int[Tensor, " query"]
    lr: float
    order: Order
    heads: Float[Tensor, "heads way feature"]
    support_probs: Float[Tensor, "step support way"]
    query_probs: Float[Tensor, "query way"]


@torch.no_grad()
def walk(task: FeatureTask, inner: Inner) -> Trajectory:
    """Check a task and run its inner loop on the head, Eq. 17."""
    check_task(task, inner)
    support, query = (append_constant(t.detach(), task.head) for t in (task.support, task.query))
    heads, outputs = [merge_bias(task.head).detach()], []
    for _ in range(inner.steps):
        s = softmax_outputs(support, heads[-1])
        heads.append(heads[-1] + inner.lr / len(support) * (targets(task.support_y, s) - s).T @ support)
        outputs.append(s)
    q = softmax_outputs(query, heads[-1])
    labelled = support, task.support_y, query, task.query_y
    return Trajectory(*labelled, inner.lr, inner.order, torch.stack(heads), torch.stack(outputs), q)


def softmax_outputs(
    features: Float[Tensor, "image feature"], head: Float[Tensor, "way feature"]
) -> Float[Tensor, "image way"]:
    """s or q: the softmax of a linear head's outputs."""
    return (features @ head.T).softmax(dim=-1)


def query_errors(path: Trajectory) -> Float[Tensor, "query way"]:
    """q_k - 1{k=u} under the adapted head."""
    return path.query_probs - targets(path.query_y, path.query_probs)


def softmax_vjp(outputs: Float[Tensor, "image way"], z: Float[Tensor, "image way"]) -> Float[Tensor, "image way"]:
    """r_k = s_k (z_k - Σ_j s_j z_j), the softmax's Jacobian applied to z."""
    return outputs * (z - (outputs * z).sum(dim=-1, keepdim=True))


def adjoints(path: Trajectory) -> Float[Tensor, "heads way feature"]:
    """λ^0 … λ^N, gradients of the mean query loss with respect to each head of the trajectory."""
    lam = [query_errors(path).T @ path.query / len(path.query)]
    for s in path.support_probs.flip(0):
        r = softmax_vjp(s, path.support @ lam[0].T)
        lam.insert(0, lam[0] - path.lr / len(path.support) * r.T @ path.support)
    return torch.stack(lam)
