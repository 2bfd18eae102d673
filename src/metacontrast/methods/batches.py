"""Controls without tasks: they classify the training classes on class-balanced batches of images.

    supervised   cross entropy of a linear classifier of all training classes (Baseline, Chen et al. 2019)
    ... cosine   the same by angle: s ŵ_kᵀφ(x), |φ| = |ŵ| = 1, s learned (Baseline++)
    supcon       −1/|P(i)| Σ_{p ∈ P(i)} log softmax_{a ≠ i}(s φ_iᵀφ_a)[p], P(i) the other images of i's class
                 (supervised contrastive loss, Khosla et al. 2020; s = 1/temperature, learned)

A batch comes as the query set of a task without a support set (`BalancedBatches`); its labels are the numbers of the
training classes. At test the classifier is dropped and the class means of a task take its place.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.checks import check_method
from metacontrast.maml.outer import Metrics, accuracies, loss_gradient
from metacontrast.model.head import draw_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params

CLASSIFIER = "classifier.weight"
_BIAS = "classifier.bias"


def base_classifier(model: Model, params: Params, generator: torch.Generator, classes: int) -> Params:
    """The same parameters with a classifier of all training classes in `extra`: a row for each, and a bias unless the
    model's head compares by angle.
    """
    drawn = draw_head(classes, model.feature_size, model.head != "cosine", 1.0, generator)
    like = next(iter(params.encoder.values()), drawn.weight)
    extra = {CLASSIFIER: drawn.weight.to(like)}
    if drawn.bias is not None:
        extra[_BIAS] = drawn.bias.to(like)
    return params._replace(extra=params.extra | extra)


def supervised(model: Model, params: Params, episode: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The gradient of a batch's mean cross entropy under the classifier that `base_classifier` made.

    Args:
        episode: a batch as its query set.
        inner: not used.
    """
    check_method("supervised", model, ("prototype", "cosine"))
    if CLASSIFIER not in params.extra:
        raise InputError("supervised needs a classifier of the training classes: start from base_classifier(...)")
    classes = len(params.extra[CLASSIFIER])
    if episode.query_y.is_cpu and int(episode.query_y.max()) >= classes:
        raise InputError(
            f"the classifier is of {classes} classes, and a label is {int(episode.query_y.max())}: add more"
        )

    def loss(params: Params) -> tuple[Tensor, Tensor]:
        features, weight = model.features(params.encoder, episode.query_x), params.extra[CLASSIFIER]
        if _BIAS in params.extra:
            outputs = F.linear(features, weight, params.extra[_BIAS])
        else:
            outputs = params.extra["log_scale"].exp() * features @ F.normalize(weight, dim=1).T
        return F.cross_entropy(outputs, episode.query_y), accuracies(outputs, episode.query_y)

    return loss_gradient(params, loss)


def supcon(model: Model, params: Params, episode: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The gradient of a batch's mean supervised contrastive loss; the accuracy is that of the nearest other image.

    Args:
        model: with `head="cosine"`, whose scale is the inverse of the temperature.
        episode: a batch as its query set.
        inner: not used.
    """
    check_method("supcon", model, ("cosine",))
    if episode.query_y.is_cpu and len(episode.query_y.unique()) == len(episode.query_y):
        raise InputError("no class has two images in a batch, so that there is nothing to pull together: take more")

    def loss(params: Params) -> tuple[Tensor, Tensor]:
        return supcon_loss(
            model.features(params.encoder, episode.query_x), episode.query_y, params.extra["log_scale"].exp()
        )

    return loss_gradient(params, loss)


def supcon_loss(
    features: Float[Tensor, "image feature"], labels: Int[Tensor, " image"], scale: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean over images that have another of their class, and the share whose nearest other image is of their class.

    Three images on a circle, the first two of one class and in one place; with s = ln 2 the softmax of each is 2 : 1:

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> supcon_loss(features, torch.tensor([0, 0, 1]), torch.tensor(math.log(2)))
    (tensor(0.4055), tensor(1.))
    """
    similar = scale * features @ features.T
    alone = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_shares = similar.masked_fill(alone, -math.inf).log_softmax(1).masked_fill(alone, 0.0)
    positive = (labels[:, None] == labels) & ~alone
    counts = positive.sum(1)
    has_one = counts > 0
    each = -(log_shares * positive).sum(1)[has_one] / counts[has_one]
    nearest = labels[similar.masked_fill(alone, -math.inf).argmax(1)]
    return each.mean(), (nearest == labels)[has_one].to(each.dtype).mean()
