"""Classifiers on features that stay as they are, from a task's support set, without inner steps.

- `nearest-mean`: by the Euclidean distance to the mean feature of every class.
- `nearest-cosine`: by the angle to it, of features that are brought to length 1.
- `ridge`: W, b minimize Σ_s a_s |W φ_s + b − t_s|² + λ m |W|², in closed form.
- `logistic`: W, b minimize −Σ_s a_s log softmax(W φ_s + b)[y_s] + λ m |W|² / 2, by scikit-learn;
  for two classes the penalty is twice that.

Here t_s is the one-hot label, a_s gives every class the same share, and m = mean |φ|², so that λ means the same for
features of every length.
"""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from metacontrast.model.head import class_means, one_hot
from metacontrast.model.model import apply_head
from metacontrast.types import Head

Solver = Literal["nearest-mean", "nearest-cosine", "ridge", "logistic"]
STRENGTHS = {"ridge": 0.03, "logistic": 0.01}
"""λ where it is not chosen."""


def solver_scores(
    solver: Solver,
    support: Float[Tensor, "task support feature"],
    support_y: Int[Tensor, "task support"],
    query: Float[Tensor, "task query feature"],
    ways: int,
) -> Float[Tensor, "task query way"]:
    """The scores of every class; the largest one is the answer."""
    if solver.startswith("nearest"):
        if solver == "nearest-cosine":
            support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        means = torch.stack([class_means(*task, ways) for task in zip(support, support_y, strict=True)])
        return -torch.cdist(query, means) if solver == "nearest-mean" else query @ normalize(means, dim=-1).mT
    strength, scores = STRENGTHS[solver], []
    for features, labels, asked in zip(support, support_y, query, strict=True):
        if solver == "ridge":
            (head,) = ridge_heads(features, labels, ways, [strength])
        else:
            head = logistic_head(features, labels, ways, strength)
        scores.append(apply_head(head, asked))
    return torch.stack(scores)


def ridge_heads(
    features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], ways: int, strengths: Sequence[float]
) -> list[Head]:
    """The ridge regression's heads for several strengths λ of one penalty, from one eigendecomposition, in float64.

    With X the features less their weighted mean, times √a, and T the same of the targets, it is the smaller of XᵀX and
    XXᵀ that is decomposed: W = Tᵀ (XXᵀ + λ m I)⁻¹ X = Tᵀ X (XᵀX + λ m I)⁻¹.
    """
    if not strengths:
        return []
    phi, t, a = features.double(), one_hot(y, ways, torch.float64), balanced_weights(y, torch.float64)
    m, centre, mean_t = penalty_unit(phi, a), phi.T @ a, t.T @ a
    root = a.sqrt()[:, None]
    x, target = root * (phi - centre), root * (t - mean_t)
    wide = len(x) <= x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    right = vectors.T @ (target if wide else x.T @ target)
    heads = []
    for strength in strengths:
        solved = vectors @ (right / (values.clamp_min(0) + strength * m)[:, None])
        weight = (x.T @ solved if wide else solved).T
        heads.append(Head(weight.to(features), (mean_t - weight @ centre).to(features)))
    return heads


def logistic_head(
    features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], ways: int, strength: float
) -> Head:
    """scikit-learn's logistic regression with classes of equal weight."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    phi, a = features.double().cpu(), balanced_weights(y.cpu(), torch.float64)
    model = LogisticRegression(C=1 / (strength * penalty_unit(phi, a)), max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(phi.numpy(), y.cpu().numpy(), sample_weight=a.numpy())
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if ways == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(torch.from_numpy(weight).to(features), torch.from_numpy(bias).to(features))


def penalty_unit(phi: Float[Tensor, "support feature"], a: Float[Tensor, " support"]) -> float:
    """m = Σ_s a_s |φ_s|²; 1 where all features are 0."""
    return (a @ phi.square().sum(1)).item() or 1.0


def balanced_weights(y: Int[Tensor, " image"], dtype: torch.dtype = torch.float32) -> Float[Tensor, " image"]:
    """Weights with sum 1 that give every class the same share, however many images it has.

    How many examples of a class were collected says nothing about how often it will be asked for.

    >>> balanced_weights(torch.tensor([0, 0, 1]))
    tensor([0.2500, 0.2500, 0.5000])
    """
    _, inverse, counts = torch.unique(y, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[inverse].to(dtype))
