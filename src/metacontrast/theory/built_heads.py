"""The outer gradient of learners whose head is computed from a task's support set, in the paper's terms.

Row k of such a head is a sum of the task's own support features, w_k = Σ_s A_ks φ(s), with a bias b_k or none:

    prototype   A_ks = 2 · 1{k=t}/n_k,             b_k = −|c_k|²    nearest class mean (ProtoNet, Snell et al. 2017)
    cosine      A_ks = τ · 1{k=t}/(n_k |c_k|),     b_k = 0          nearest class mean by angle, where |φ| = 1
    ridge       A = α Yᵀ(XXᵀ + λI)⁻¹,              b_k = β          ridge regression (R2D2, Bertinetto et al. 2019)

with c_k the mean of the n_k support features of class k, X the support features in rows and Y their one-hot labels.
The outer loss is the mean cross entropy of the outputs z_k(q) = w_kᵀφ(q) + b_k. Then

    ∂L/∂φ(q) = 1/|Q| Σ_s c(q, s) φ(s)                    contrastive, query side; c(q, s) = Σ_k (q_k − 1{k=u}) A_ks
    ∂L/∂φ(s) = 1/|Q| Σ_q c(q, s) φ(q)                    contrastive, support side: the same weight pulls both ends
             + the path through A and b                  head curvature

There is no interference: no row holds anything of earlier tasks. For prototypes c(q, s) = 2/n_t (q_t − 1{t=u}), which
is Eq. 8's coefficient times η/|S| for η = 2|S|/n_t: a ProtoNet is second-order MAML with the zeroing trick and one step
of that size (Eq. 16), but for b_k: in what q it is, and in the curvature −2/n_t E_q[q_t − 1{t=u}] c_t. For ridge
regression the coefficients q_t − 1{t=u} are mixed by (XXᵀ + λI)⁻¹ and may change sign; as λ → ∞ they are Eq. 8's again,
α/λ in the place of η/|S|.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError, check_choice
from metacontrast.model.head import solve
from metacontrast.theory.decomposition import FeatureGradient
from metacontrast.theory.task import check_samples, targets

BuiltHead = Literal["prototype", "cosine", "ridge"]


class BuiltTask(NamedTuple):
    """A head that was built from a support set, and the errors of its outputs on the query set.

    Args:
        weights: A.
        rows: w.
        errors: q_k − 1{k=u}.
        coefficients: c(q, s).
    """

    weights: Float[Tensor, "way support"]
    rows: Float[Tensor, "way feature"]
    errors: Float[Tensor, "query way"]
    coefficients: Float[Tensor, "query support"]


@torch.no_grad()
def build_task(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: BuiltHead,
    *,
    ways: int,
    scale: float | Tensor = 1.0,
    penalty: float | Tensor = 1.0,
) -> BuiltTask:
    """Weights, rows, errors and coefficients of one task.

    Args:
        support_features, query_features: φ(s), φ(q); of length 1 for `cosine`.
        support_y, query_y: labels t, u in [0, ways).
        scale: τ or α.
        penalty: λ.

    Two prototypes of one orthogonal image each; the query is the first of them, with outputs −0 and −2 less |φ(q)|²:

    >>> y = torch.tensor([0, 1])
    >>> build_task(torch.eye(2), y, torch.eye(2)[:1], y[:1], "prototype", ways=2).coefficients
    tensor([[-0.2384,  0.2384]])
    """
    check_choice("head", head, get_args(BuiltHead))
    if head == "ridge" and torch.as_tensor(penalty).is_cpu and not penalty > 0:
        raise InputError(f"penalty={penalty}, but it must be above 0")
    check_samples("support", support_features, support_y, ways)
    check_samples("query", query_features, query_y, ways)
    if (own := support_features.shape[1]) != (other := query_features.shape[1]):
        raise InputError(f"support images have {own} features and query images {other}: take those of one encoder")
    one_hot = targets(support_y, support_features.new_zeros(0, ways)).T
    if head == "ridge":
        weights = scale * _solve_ridge(support_features, penalty, one_hot.T).T
    else:
        weights = one_hot / one_hot.sum(1, keepdim=True)
        if not weights.isfinite().all():
            raise InputError(f"support: some of the {ways} classes have no sample, whose mean the head is made of")
        means = weights @ support_features
        if head == "cosine" and means.is_cpu and not means.any(1).all():
            raise InputError("support: the features of a class sum to zero, which has no angle: take other images")
        weights = 2 * weights if head == "prototype" else scale * weights / means.norm(dim=1, keepdim=True)
    rows = weights @ support_features
    bias = -rows.square().sum(1) / 4 if head == "prototype" else 0.0
    q = (query_features @ rows.T + bias).softmax(1)
    errors = q - targets(query_y, q)
    return BuiltTask(weights, rows, errors, errors @ weights)


@torch.no_grad()
def split_built_gradient(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: BuiltHead,
    *,
    ways: int,
    scale: float | Tensor = 1.0,
    penalty: float | Tensor = 1.0,
) -> FeatureGradient:
    """The error signals at the features of one task whose head answers without an inner step; exact.

    The arguments are those of `build_task`. The curvature at φ(s), with g_k = E_q[(q_k − 1{k=u}) φ(q)] = ∂L/∂w_k:

        prototype   −2/n_t E_q[q_t − 1{t=u}] c_t
        cosine      −τ/(n_t |c_t|) (ĉ_tᵀg_t) ĉ_t                                                    ĉ = c/|c|
        ridge       −Σ_k (P_sk w_k + A_ks Σ_s' P_s'k φ(s')),        P = (XXᵀ + λI)⁻¹ X gᵀ
    """
    task = build_task(
        support_features, support_y, query_features, query_y, head, ways=ways, scale=scale, penalty=penalty
    )
    count = len(query_y)
    at_rows = task.errors.T @ query_features / count
    if head == "prototype":
        curvature = -(task.weights * task.errors.mean(0)[:, None]).T @ task.rows / 2
    elif head == "cosine":
        units = task.rows / task.rows.norm(dim=1, keepdim=True)
        curvature = -task.weights.T @ ((units * at_rows).sum(1, keepdim=True) * units)
    else:
        back = _solve_ridge(support_features, penalty, support_features @ at_rows.T)
        curvature = -(back @ task.rows + task.weights.T @ (back.T @ support_features))
    return FeatureGradient(
        torch.zeros_like(query_features),
        task.coefficients @ support_features / count,
        task.coefficients.T @ query_features / count,
        curvature,
    )


def _solve_ridge(
    features: Float[Tensor, "support feature"], penalty: float | Tensor, right: Float[Tensor, "support way"]
) -> Float[Tensor, "support way"]:
    """Solve (XXᵀ + λI) Z = R for Z, where X are the features."""
    gram = features @ features.T
    return solve(gram + penalty * torch.eye(len(gram)).to(gram), right)
