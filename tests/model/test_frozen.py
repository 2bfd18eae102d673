"""A frozen encoder computes what the inductive policy computes, one image at a time."""

import pytest
import torch
from torch import nn

from metacontrast.errors import InputError
from metacontrast.model.encoders import PRESETS, build_encoder
from metacontrast.model.frozen import FixedNorm, freeze, frozen_like
from metacontrast.model.model import Model
from metacontrast.model.normalization import TaskBatchNorm

SHAPES = [(name, shape) for name in PRESETS for shape in ((1, 28, 28), (3, 32, 32))]


def images(count: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubles(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    """Parameters in float64; the norms' own are random, so that every part of the affine map counts."""
    drawn = model.init(torch.Generator().manual_seed(seed)).encoder
    noise = torch.Generator().manual_seed(seed + 1)
    return {n: t.double() + 0.1 * torch.randn(t.shape, generator=noise, dtype=torch.float64) for n, t in drawn.items()}


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_frozen_features_are_the_inductive_ones(name, shape):
    """Against `query_features` in float64 to 1e-12, for every built-in encoder, grey and colour."""
    model = Model(build_encoder(name, shape, filters=4), ways=3, norm="inductive")
    encoder, support, query = doubles(model), images(6, shape, 1), images(4, shape, 2)
    frozen = freeze(model, encoder, support)
    expected = model.query_features(encoder, support, query)
    torch.testing.assert_close(frozen(query), expected, atol=1e-12, rtol=1e-12)


def test_frozen_features_of_an_image_do_not_depend_on_its_batch():
    """Up to rounding, for kernels are chosen by the shape of the batch."""
    model = Model(build_encoder("conv4", (1, 28, 28), filters=8), ways=3)
    query = images(9, (1, 28, 28), 2)
    frozen = freeze(model, doubles(model), images(6, (1, 28, 28), 1))
    alone = torch.cat([frozen(one[None]) for one in query])
    torch.testing.assert_close(alone, frozen(query), atol=1e-12, rtol=1e-12)


def test_a_frozen_encoder_has_no_task_statistics_and_leaves_the_model_alone():
    model = Model(build_encoder("resnet12", (3, 32, 32), filters=2), ways=3)
    frozen = freeze(model, doubles(model), images(6, (3, 32, 32), 1))
    kinds = [type(child) for child in frozen.modules()]
    assert TaskBatchNorm not in kinds
    assert kinds.count(FixedNorm) == 16
    assert any(isinstance(child, TaskBatchNorm) for child in model.encoder.modules())


def test_a_frozen_encoder_comes_back_from_its_state():
    model = Model(build_encoder("conv4", (3, 32, 32), filters=4), ways=3)
    query = images(2, (3, 32, 32), 3)
    frozen = freeze(model, doubles(model), images(5, (3, 32, 32), 1))
    again = frozen_like(model).double()
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(again(query), frozen(query))


def test_a_norm_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x):
            return self.norm(2 * self.norm(x)).flatten(1)

    model = Model(Twice(), ways=2, feature_size=16)
    with pytest.raises(InputError, match="runs twice"):
        freeze(model, {}, torch.rand(3, 1, 4, 4))
