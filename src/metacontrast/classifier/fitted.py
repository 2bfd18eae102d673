"""A support set learned: what answers for an image by itself."""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from metacontrast.classifier import calibration
from metacontrast.classifier.candidates import PROTOTYPE, Candidate, on_features, solve, task_start
from metacontrast.classifier.cross_validation import HeldOut, Score, best, cross_validate, report, similarity
from metacontrast.classifier.image_format import ImageFormat
from metacontrast.classifier.plan import Plan
from metacontrast.classifier.progress import Track, unseen
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.classifier.support import Support
from metacontrast.errors import InputError
from metacontrast.maml.engine import arithmetic
from metacontrast.model.frozen import freeze
from metacontrast.model.head import class_means
from metacontrast.model.model import apply_head
from metacontrast.types import Head

GPU_BATCH = 256


class Network(nn.Module):
    """Pixels in, logits and similarity out; one image's answer depends on that image alone, up to rounding.

    Args:
        encoder: with the support set's statistics in it.
        weight, bias: the head.
        means: the class means of the support features.
        images: how pixels are normalized.
    """

    def __init__(self, encoder: nn.Module, head: Head, means: Float[Tensor, "way feature"], images: ImageFormat):
        super().__init__()
        self.encoder = encoder
        self.images = images
        self.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.means = nn.Parameter(means, requires_grad=False)

    def forward(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image way"], Float[Tensor, " image"]]:
        """Uncalibrated logits, and the largest cosine to a class mean."""
        features = self.encoder(self.images.to_input(pixels))
        return apply_head(Head(self.weight, self.bias), features), similarity(features, self.means)


@dataclass(frozen=True)
class Answers:
    """What is said of images.

    Args:
        probabilities: calibrated, of every class.
        similarity: the largest cosine to a class mean.
        rejected: which images are refused as unlike every class.
    """

    probabilities: Float[Tensor, "image way"]
    similarity: Float[Tensor, " image"]
    rejected: Bool[Tensor, " image"]


@dataclass(frozen=True)
class Fitted:
    """A classifier of the support set's classes.

    Args:
        network: with everything that was learned.
        candidate: the way it was learned.
        temperature: of the probabilities; 1 where nothing could be held out.
        threshold: similarity below which an image is refused; None refuses nothing.
        held_out: how many support images temperature and threshold were set on.
        scores: the cross-validation report, empty where nothing could be held out.
    """

    network: Network
    candidate: Candidate
    temperature: float
    threshold: float | None
    held_out: int
    scores: tuple[Score, ...]

    def on(self, device: str) -> "Fitted":
        """The same with its network on `device`."""
        if self.network.weight.device.type == device:
            return self
        return replace(self, network=copy.deepcopy(self.network).to(device))

    def answer(self, pixels: UInt8[Tensor, "image channel height width"]) -> Answers:
        """Answers for images in the model's format, computed where the network is.

        On a CPU each image passes alone: kernels are chosen by the shape of a batch and round differently, so only
        then is its answer bit for bit the same whatever else is asked. A GPU would idle: there images pass in batches.
        """
        device = self.network.weight.device
        batches = pixels.split(GPU_BATCH if device.type == "cuda" else 1)
        with torch.no_grad(), arithmetic("float32", device):
            probabilities, found = (torch.cat(part) for part in zip(*map(self._answer, batches), strict=True))
        return Answers(probabilities, found, calibration.is_rejected(found, self.threshold))

    def _answer(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image way"], Float[Tensor, " image"]]:
        """Probabilities and similarity of one batch, on the CPU."""
        logits, found = (part.cpu() for part in self.network(pixels.to(self.network.weight.device)))
        return (logits.double() / self.temperature).softmax(1), found


def fit_support(
    start: StartingPoint, support: Support, plan: Plan, device: str = "cpu", track: Track = unseen
) -> Fitted:
    """Choose the way, calibrate, then learn from the whole support set, in IEEE single precision.

    Args:
        device: where it is computed; the result is on the CPU.
        track: shows how far the cross-validation is.
    """
    with arithmetic("float32", torch.device(device)):
        return _fit_support(start, support, plan, device, track)


def _fit_support(start: StartingPoint, support: Support, plan: Plan, device: str, track: Track) -> Fitted:
    model, params = task_start(start.model.to(device), start.params_on(device), len(support.classes), plan.random_head)
    x, y = start.images.to_input(support.images.to(device)), support.y.to(device)
    held_out = cross_validate(model, params, x, y, plan.inner, (PROTOTYPE, *plan.stepping), plan.folds, track)
    chosen = _choose(plan, held_out)
    net, begin, shown = on_features(model, params, x) if plan.inner.scope == "head" else (model, params, x)
    ((_, adapted),) = solve(net, begin, shown, y, plan.inner, [chosen])
    with torch.no_grad():
        means = class_means(net.features(adapted.encoder, shown), y, model.ways)
    if not all(t.isfinite().all() for t in (means, adapted.head.weight)):
        raise InputError(f"adapting with lr={chosen.lr:g} and steps={chosen.steps} diverged: lower one of them")
    found = held_out.get(chosen)
    return Fitted(
        Network(freeze(model, adapted.encoder or params.encoder, x), adapted.head, means, start.images).eval().cpu(),
        chosen,
        found.temperature if found else 1.0,
        _threshold(plan.reject, found),
        len(found.y) if found else 0,
        report(held_out, PROTOTYPE, chosen),
    )


def _choose(plan: Plan, held_out: dict[Candidate, HeldOut]) -> Candidate:
    if plan.baseline == "prototype":
        return PROTOTYPE
    among = (*plan.stepping, PROTOTYPE) if plan.baseline == "auto" else plan.stepping
    if len(among) == 1:
        return among[0]
    if not held_out:
        return plan.default
    return best(held_out, among)


def _threshold(rate: float | None, found: HeldOut | None) -> float | None:
    if rate is None:
        return None
    return calibration.rejection_threshold(found.similarity if found else torch.empty(0), rate)
