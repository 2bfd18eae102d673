"""Regression tasks, and what the theory says where labels are numbers."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from metacontrast.data.regression import AngleTasks, SineTasks, turn
from metacontrast.errors import InputError
from metacontrast.maml.engine import meta_gradient
from metacontrast.maml.inner import adapt
from metacontrast.model.model import Model
from metacontrast.training.train import train
from metacontrast.types import Episode, Inner, map_params
from toy_images import noisy_images, numbered_images


def half_squares(outputs, labels):
    return ((outputs[:, 0] - labels) ** 2).mean() / 2


def test_sines_are_sines():
    """Within the bounds of the MAML paper, and one wave through all points of a task: two of them give a and p."""
    batch = SineTasks(5, 7, seed=3).batch(range(50))
    assert batch.support_x.shape == (50, 5, 1)
    assert batch.query_y.shape == (50, 7)
    x = torch.cat([batch.support_x, batch.query_x], 1)[..., 0].double()
    y = torch.cat([batch.support_y, batch.query_y], 1).double()
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    waves = torch.stack([x.sin(), x.cos()], 2)
    solved = torch.linalg.lstsq(waves, y[..., None]).solution
    assert torch.allclose((waves @ solved)[..., 0], y, atol=1e-4)
    amplitude, phase = solved[:, :, 0].norm(dim=1), torch.atan2(solved[:, 1, 0], solved[:, 0, 0])
    assert 0.1 <= amplitude.min() < amplitude.max() <= 5
    assert 0 <= phase.min() < phase.max() <= math.pi


def test_equal_numbers_are_equal_tasks_whoever_asks():
    for tasks in (SineTasks(), AngleTasks(noisy_images(size=8))):
        whole, part = tasks.batch(range(4)), tasks.batch([2])
        assert torch.equal(whole.support_x[2], part.support_x[0])
        assert torch.equal(whole.query_y[2], part.query_y[0])
        assert not torch.equal(whole.support_x[0], whole.support_x[1])


def test_a_task_of_angles_has_one_class_and_no_image_twice():
    images = numbered_images([9] * 5, size=16)
    batch = AngleTasks(images, 3, 5, largest=30.0).batch(range(20))
    middle = torch.cat([batch.support_x, batch.query_x], 1)[:, :, 0, 4:12] * 255
    left, right = middle[..., 5:7].mean((2, 3)), middle[..., 9:11].mean((2, 3))
    assert all(len({round(v) for v in row.tolist()}) == 1 for row in left)  # its left half is an image's class
    assert all(len({round(v) for v in row.tolist()}) == 8 for row in right)  # its right half its number
    assert batch.support_y.abs().max() <= 1
    assert batch.query_y.min() < -0.8 < 0.8 < batch.query_y.max()


def test_images_turn_counter_clockwise_by_their_angle():
    """The bright half goes from the right to the top in a quarter turn, and back to the left in a half."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1
    up, left = turn(image.expand(2, -1, -1, -1), torch.tensor([90.0, 180.0]))
    assert torch.allclose(up, image[0].mT.flip(1), atol=1e-4)
    assert torch.allclose(left, image[0].flip(2), atol=1e-4)
    assert torch.allclose(turn(image, torch.tensor([0.0])), image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SineTasks(shots=0), "shots=0, but it must be 1 or more"),
        (lambda: AngleTasks(noisy_images(size=8), largest=0.0), "largest=0.0, but it must be above 0"),
        (lambda: AngleTasks(noisy_images(size=8), shots=15, queries=10), "have 20 images|has 20 images"),
    ],
)
def test_tasks_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("head", ["zeroed", "learned"])
def test_the_contrast_of_a_regression_is_a_product_of_residuals(head):
    """∂L/∂φ(q) = (z_q − y_q) w⁰ / |Q| + η/(|S||Q|) Σ_s c(q, s) φ(s), c = −(z_q − y_q)(z⁰_s − y_s): from a head of zeros
    (z_q − y_q) y_s, so images attract one another where what is missing at q has the sign of y_s. No class, and no sign
    that is known beforehand."""
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)), 1, 4, head=head, head_bias=False)
    params = map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(0)))
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 3, generator=g).double(), torch.randn(2, 6, generator=g).double()

    task = Episode(x[:1], y[:1], x[1:], y[1:])
    inner = Inner(1, 0.3, "head", loss=half_squares)
    found, _ = meta_gradient(model, params, task, inner)
    encoder = {name: t.clone().requires_grad_() for name, t in params.encoder.items()}
    support, query = model.features(encoder, x[0]).detach(), model.features(encoder, x[1])
    w = params.head.weight[0]
    at_start = support @ w
    adapted = w + 0.3 * (y[0] - at_start) @ support / 6
    errors = (query @ adapted - y[1]).detach()
    c = -errors[:, None] * (at_start - y[0])
    loss = (errors * (query @ w)).mean() + 0.3 * (c * (query @ support.T)).mean()
    expected = torch.autograd.grad(loss, list(encoder.values()))
    for name, each in zip(encoder, expected, strict=True):
        assert torch.allclose(found.encoder[name], each, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("tasks", [SineTasks(), AngleTasks(noisy_images(size=8))], ids=["sines", "angles"])
def test_a_regression_is_trained(tasks):
    """MAML with a head of zeros, by the same `train`; the query error after adaptation falls."""
    size = tasks.batch([0]).support_x[0, 0].numel()
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(size, 20), nn.Tanh()), 1, 20, head="zeroed")
    inner, seen = Inner(1, 0.5, loss=half_squares), []
    params = train(
        model,
        tasks,
        inner,
        updates=60,
        meta_batch=8,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        on_update=lambda update, params, metrics: seen.append(metrics.loss.mean()),
    )
    batch = tasks.batch([1000])
    adapted = adapt(model, params, batch.support_x[0], batch.support_y[0], inner)
    outputs = model.query_logits(adapted, batch.support_x[0], batch.query_x[0])
    assert outputs.shape == (len(batch.query_y[0]), 1)
    assert torch.stack(seen[-20:]).mean() < torch.stack(seen[:20]).mean()


def test_images_of_any_sides_turn_without_distortion():
    """A bar along the centre row of a 5 × 9 image stands upright in the centre column; a square keeps its sides."""
    bar = torch.zeros(1, 1, 5, 9)
    bar[..., 2, 2:7] = 1.0
    upright = torch.zeros(1, 1, 5, 9)
    upright[..., :, 4] = 1.0
    assert torch.allclose(turn(bar, torch.tensor([90.0])), upright, atol=1e-5)
