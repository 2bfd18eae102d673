"""Blocks that run as one against the textbook's layers one after the other, with both derivatives."""

import itertools
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metacontrast.model.fused import block as blocks
from metacontrast.model.fused.block import convolution_block, norm_block
from metacontrast.model.fused.convolution import Geometry
from metacontrast.model.fused.kernels import BlockLayout
from metacontrast.model.fused.sequential import FusedSequential, fuse
from metacontrast.model.normalization import TaskBatchNorm

TOLERANCE = 1e-12
"""Sums of some hundred float64 numbers; gradients that are truly zero (a bias before a norm) are left to their size."""

GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), 1)


def randn(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def textbook(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, layout: BlockLayout) -> Tensor:
    outputs = []
    for task in F.conv2d(x, weight, bias, *GEOMETRY).split(layout.size):
        z = F.leaky_relu(task, float(layout.before)) if layout.before != 1 else task
        seen = z[: layout.reference]
        mean = seen.mean((0, 2, 3), keepdim=True)
        variance = (seen - mean).square().mean((0, 2, 3), keepdim=True)
        v = (z - mean) / (variance + 1e-5).sqrt() * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)
        o = F.leaky_relu(v, float(layout.after)) if layout.after != 1 else v
        outputs.append(F.max_pool2d(o, 2) if layout.window == 2 else o)
    return torch.cat(outputs)


def with_derivatives(function, inputs: list[Tensor]) -> list[Tensor]:
    """Output, gradient, and the gradient of a random combination of the gradient."""
    out = function(*inputs)
    cotangent = randn(*out.shape, seed=11)
    once = torch.autograd.grad(out, inputs, cotangent, retain_graph=True)
    gradient = torch.autograd.grad(out, inputs, cotangent, create_graph=True)
    combination = [randn(*t.shape, seed=20 + i) for i, t in enumerate(inputs)]
    twice = torch.autograd.grad(
        gradient, [*inputs[:-1], cotangent], combination, allow_unused=True, materialize_grads=True
    )
    return [out, *once, *gradient, *twice]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= TOLERANCE * max(1, theirs.abs().max())


@pytest.mark.parametrize("parts", ["whole", "in parts"])
@pytest.mark.parametrize(
    ("before", "after", "window", "size", "reference"),
    list(itertools.product((0.0, 1.0, 0.1), (0.0, 1.0), (1, 2), (4, 12), (2, 4))),
)
def test_a_block_and_its_derivatives_are_the_textbooks(monkeypatch, parts, before, after, window, size, reference):
    """Tasks side by side, statistics from few or all images, odd sizes, γ of either sign, a few images at a time."""
    monkeypatch.setattr(blocks, "_CACHE_BYTES", 3000 if parts == "in parts" else 2**20)
    layout = BlockLayout(size, reference, before, after, window)
    inputs = [randn(*shape, seed=3 * i) for i, shape in enumerate([(12, 2, 7, 6), (3, 2, 3, 3), (3,), (3,), (3,)])]
    assert min(inputs[3]) < 0 < max(inputs[3])
    found = with_derivatives(
        lambda x, w, b, gamma, beta: convolution_block(x, w, b, GEOMETRY, gamma, beta, layout, 1e-5), inputs
    )
    assert_close(found, with_derivatives(lambda *given: textbook(*given, layout), inputs))


def test_a_scale_of_zero_takes_the_first_of_each_window():
    """All elements of a window are equal then, and PyTorch's pooling takes the first."""
    y, gamma, beta = randn(4, 2, 4, 4, seed=0), torch.zeros(2, dtype=torch.float64), randn(2, seed=1)
    gamma.requires_grad_()
    layout = BlockLayout(4, 4, 1.0, 1.0, 2)
    ours = torch.autograd.grad(norm_block(y, gamma, beta, layout, 1e-5).square().sum(), [gamma, beta])
    plain = F.max_pool2d(F.batch_norm(y, None, None, gamma, beta, training=True), 2)
    theirs = torch.autograd.grad(plain.square().sum(), [gamma, beta])
    assert_close(list(ours), list(theirs))


def test_numbers_far_from_zero_keep_their_variance_in_single_precision():
    """A mean 1,000 standard deviations from 0, where the plain difference of squares has no digit left.

    The mean alone is rounded by 1000 · 6e-8 standard deviations, and each number less it once more: 1e-3 leaves room.
    """
    y = (1000 + randn(8, 3, 9, 9, seed=0)).detach()
    one = torch.ones(3)
    found = norm_block(y.float(), one, 0 * one, BlockLayout(8, 8, 1.0, 1.0, 1), 1e-5)
    expected = F.batch_norm(y.float().double(), None, None, one.double(), training=True)
    assert (found - expected).abs().max() < 1e-3


def test_what_is_not_a_number_stays_visible():
    y = randn(4, 2, 4, 4, seed=0).detach()
    y[1, 0, 2, 2] = float("nan")
    one = torch.ones(2, dtype=torch.float64)
    found = norm_block(y, one, one, BlockLayout(4, 4, 0.0, 1.0, 2), 1e-5)
    assert found[:, 0].isnan().all()
    assert found[:, 1].isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_strides_tell_the_memory_order_of_one_channel_too(channels):
    """By its strides PyTorch chooses a convolution's kernels; those of one channel may say either order."""
    images = torch.rand(2, channels, 4, 5)
    found = blocks.channels_last(images)
    assert torch.equal(found, images)
    assert found.stride() == (20 * channels, 1, 5 * channels, channels)


def test_bfloat16_rounds_to_the_nearest_even():
    """Statistics are sums of the rounded input in single precision, so that one rounding of the output is all."""
    y = randn(6, 4, 8, 8, seed=0).detach().bfloat16()
    gamma, beta = torch.rand(4), torch.rand(4)
    found = norm_block(y, gamma, beta, BlockLayout(6, 6, 0.0, 1.0, 1), 1e-5)
    expected = F.batch_norm(F.relu(y.double()), None, None, gamma.double(), beta.double(), training=True)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() <= expected.abs().max() * 2**-8
    assert (found == expected.bfloat16()).double().mean() > 0.99


def layers() -> list[nn.Module]:
    return [nn.Conv2d(1, 2, 3), nn.ReLU(), TaskBatchNorm(2), nn.MaxPool2d(2)]


def blocks_of(module: nn.Module) -> int:
    assert isinstance(module, FusedSequential)
    return len(module.blocks)


def test_layers_keep_their_names_and_their_order():
    named = nn.Sequential(OrderedDict(zip(("conv", "bend", "norm", "pool"), layers(), strict=True)))
    fused = fuse(nn.Sequential(named, nn.Flatten()))
    assert [name for name, _ in fused.named_parameters()] == [
        "0.conv.weight",
        "0.conv.bias",
        "0.norm.weight",
        "0.norm.bias",
    ]
    assert blocks_of(fused[0]) == 1


class Squared(nn.ReLU):
    def forward(self, input):
        return super().forward(input).square()


class Averaged(nn.MaxPool2d):
    def forward(self, input):
        return F.avg_pool2d(input, 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((1, Squared()), 3),
        ((3, Averaged(2)), 2),
        ((3, nn.AvgPool2d(2)), 2),
        ((3, nn.MaxPool2d(3)), 2),
        ((3, nn.MaxPool2d(2, ceil_mode=True)), 2),
        ((1, nn.GELU()), 3),
        ((0, nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")), 2),
        ((0, nn.Conv2d(1, 2, 3, padding="same")), 2),
        ((2, nn.GroupNorm(1, 2)), 4),
    ],
)
def test_what_blocks_do_not_know_runs_by_itself(change, expected):
    """The result is the layers' own whatever is fused."""
    parts = layers()
    parts[change[0]] = change[1]
    plain, x = nn.Sequential(*parts).double(), torch.rand(4, 1, 12, 12, dtype=torch.float64)
    wanted = plain(x)
    assert blocks_of(fuse(plain)) == expected
    torch.testing.assert_close(fuse(plain)(x), wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_layer_with_a_forward_of_its_own_is_called(place):
    plain, x = nn.Sequential(*layers()).double(), torch.rand(4, 1, 12, 12, dtype=torch.float64)
    before = plain[place].forward
    plain[place].forward = lambda given: 3 + before(given).square()
    wanted = plain(x)
    torch.testing.assert_close(fuse(plain)(x), wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_layer_that_a_hook_watches_is_not_hidden_in_a_block():
    watched = nn.Sequential(*layers())
    seen = []
    watched[1].register_forward_hook(lambda *_: seen.append(1))
    fuse(watched)(torch.rand(4, 1, 8, 8))
    assert seen == [1]
