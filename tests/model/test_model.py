"""Encoders, heads and normalization policies."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

import encoders_plain
from metacontrast.errors import InputError
from metacontrast.model.encoders import PRESETS, build_encoder, conv4, resnet12
from metacontrast.model.head import class_means, prototype_head, zero_head
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Head, to_tensors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, shape: tuple[int, int, int] = (1, 28, 28), seed: int = 1) -> torch.Tensor:
    return torch.rand(count, *shape, generator=generator(seed), dtype=torch.float64)


def double(params):
    return type(params)(
        {n: t.double() for n, t in params.encoder.items()},
        Head(*(None if t is None else t.double() for t in params.head)),
    )


@pytest.mark.parametrize(
    ("name", "shape", "features", "parameters"),
    [
        ("conv4-released", (1, 28, 28), 64, 91_781),
        ("conv4-released", (3, 84, 84), 800, 32_901),
        ("conv4", (1, 28, 28), 256, 113_221),
        ("conv4", (3, 84, 84), 1600, 121_093),
    ],
)
def test_presets_have_the_published_sizes(name, shape, features, parameters):
    """Feature lengths and parameter counts with a 5-way head: the released ones as counted from the checkpoints."""
    model = Model(build_encoder(name, shape), ways=5)
    assert model.feature_size == features
    assert sum(t.numel() for t in to_tensors(model.init(generator()))) == parameters


def test_released_encoder_computes_the_plain_forward_pass():
    """conv-ReLU-BN with strides, against a second author's functional version."""
    model = Model(build_encoder("conv4-released", (1, 28, 28)), ways=5)
    params = double(model.init(generator()))
    plain = dict(zip(encoders_plain.init_omniglot(generator()), params.encoder.values(), strict=True))
    assert torch.allclose(
        model.features(params.encoder, images(6)), encoders_plain.omniglot(plain, images(6)), atol=1e-12
    )


def test_starting_values_come_from_the_generator_alone():
    encoder = build_encoder("conv4", (1, 28, 28))
    torch.manual_seed(1)
    one = Model(encoder, 5).init(generator(3))
    torch.manual_seed(2)
    two = Model(build_encoder("conv4", (1, 28, 28)), 5).init(generator(3))
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(one), to_tensors(two), strict=True))
    assert not torch.equal(one.head.weight, Model(encoder, 5).init(generator(4)).head.weight)


def test_head_init_has_hes_standard_deviation_and_scales():
    """std = scale · sqrt(2 / N_f); 5 × 800 draws pin it within five standard errors (about 6 %)."""
    model = Model(build_encoder("conv4-released", (3, 84, 84)), 5)
    whole, half, none = (model.init(generator(), head_init_scale=s).head.weight for s in (1.0, 0.5, 0.0))
    assert whole.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.06)
    assert torch.allclose(half, whole / 2)
    assert not none.any()


def test_every_preset_says_its_feature_size():
    for name in PRESETS:
        encoder = build_encoder(name, (3, 32, 32), filters=4)
        assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.feature_size)


def test_transductive_features_depend_on_the_batch_and_inductive_ones_do_not():
    """The policies' definition: one query alone gets the same inductive features as among others."""
    encoder = build_encoder("conv4-released", (1, 28, 28))
    support, query = images(5), images(7, seed=2)
    for norm, alike in (("inductive", True), ("transductive", False)):
        model = Model(encoder, 5, norm=norm)
        params = double(model.init(generator()))
        together = model.query_features(params.encoder, support, query)[:2]
        fewer = model.query_features(params.encoder, support, query[:2])
        assert torch.allclose(together, fewer, atol=1e-12) == alike


def test_inductive_statistics_are_those_of_the_support_set():
    """The support images as queries get exactly their own support features."""
    model = Model(build_encoder("conv4-released", (1, 28, 28)), 5, norm="inductive")
    params, support = double(model.init(generator())), images(5)
    again = model.query_features(params.encoder, support, support)
    assert torch.allclose(again, model.features(params.encoder, support), atol=1e-10)


def test_batch_norms_of_a_foreign_module_lose_their_running_averages():
    """In a copy: the user's own module is left as it was, values kept, and its dropout is off."""
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).double()
    own[1].weight.data.fill_(2.0)
    model = Model(own, ways=2, feature_size=4 * 26 * 26)
    params = model.init(generator())
    assert isinstance(own[1], nn.BatchNorm2d)
    assert torch.equal(params.encoder["0.weight"], own[0].weight)
    assert torch.equal(params.encoder["1.weight"], torch.full((4,), 2.0, dtype=torch.float64))
    x = images(3)
    assert torch.equal(model.features(params.encoder, x), model.features(params.encoder, x))
    own.train()[2].eval()
    assert torch.allclose(model.features(params.encoder, x), own(x), atol=1e-12)


def test_frozen_parameters_stay_out_of_what_is_learned():
    """Also those of a batch norm; the forward pass still uses them."""
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).double()
    own[0].weight.requires_grad_(False)
    own[1].requires_grad_(False)
    model = Model(own, ways=2, feature_size=4 * 26 * 26)
    params = model.with_ways(3).init(generator())
    assert set(params.encoder) == {"0.bias"}
    x = images(3)
    assert torch.allclose(model.features(params.encoder, x), own.train()(x), atol=1e-12)


def test_a_model_of_another_models_encoder_learns_the_same_parameters():
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    own[0].bias.requires_grad_(False)
    first = Model(own, ways=2, feature_size=4 * 26 * 26)
    for norm in ("transductive", "inductive"):
        assert Model(first.encoder, 2, feature_size=4 * 26 * 26, norm=norm).trained == first.trained
        assert first.with_norm(norm).trained == ("0.weight", "1.weight", "1.bias")


def test_a_module_whose_attributes_refer_to_themselves_is_copied():
    own = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    own.registry = {"scale": 2.0}
    own.registry["itself"] = own.registry
    assert Model(own, ways=2, feature_size=3).trained == ("1.weight", "1.bias")


def test_one_image_has_no_batch_statistics_and_says_what_to_do():
    model = Model(build_encoder("conv4-released", (1, 28, 28)), 5)
    params = model.init(generator())
    with pytest.raises(InputError, match="use norm='inductive'"):
        model.features(params.encoder, images(1).float())


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_a_model_in_bfloat16_is_computed_layer_by_layer(norm):
    """The fused blocks take bfloat16 activations, but parameters in float32 or float64 only."""
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).bfloat16()
    fused, plain = (Model(layers, 2, feature_size=4 * 26 * 26, norm=norm, fused=flag) for flag in (True, False))
    params, x = fused.init(generator()), torch.stack([images(3), images(3, seed=1)]).bfloat16()
    found = [model.query_task_features(model.for_tasks(params.encoder, 2), x, x) for model in (fused, plain)]
    assert torch.equal(*found)
    assert found[0].dtype == torch.bfloat16


def test_a_module_that_is_itself_a_batch_norm_is_handled():
    model = Model(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)), ways=2, feature_size=16, norm="inductive")
    params = model.init(generator())
    support, query = images(3, (1, 4, 4)).float(), images(1, (1, 4, 4), seed=4).float()
    assert model.query_features(params.encoder, support, query).shape == (1, 16)


def test_threads_do_not_disturb_one_another():
    """Eight threads with different parameters get what they get alone."""
    model = Model(build_encoder("conv4-released", (1, 28, 28)), 5)
    many = [model.init(generator(seed)).encoder for seed in range(8)]
    x = images(4).float()
    alone = [model.features(encoder, x) for encoder in many]
    with ThreadPoolExecutor(8) as executor:
        together = list(executor.map(lambda encoder: [model.features(encoder, x) for _ in range(20)][-1], many))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_prototype_head_ranks_by_distance_to_the_class_means():
    """w_k = 2 c_k, b_k = -|c_k|²: logits differ from minus the squared distance by |x|² alone."""
    features, labels = images(6, (1, 2, 2)).flatten(1), torch.tensor([0, 1, 2, 0, 1, 2])
    means = class_means(features, labels, 3)
    assert torch.allclose(means[1], features[[1, 4]].mean(0))
    queries = images(9, (1, 2, 2), seed=5).flatten(1)
    logits = apply_head(prototype_head(class_means(features, labels, 3)), queries)
    distances = torch.cdist(queries, means).square() - queries.square().sum(1, keepdim=True)
    assert torch.allclose(logits, -distances, atol=1e-12)


def test_zero_head_keeps_the_encoder_and_takes_any_number_of_ways():
    model = Model(build_encoder("mlp", (1, 8, 8)), 5)
    params = model.init(generator())
    zeroed = zero_head(params, ways=9)
    assert zeroed.encoder is params.encoder
    assert zeroed.head.weight.shape == (9, 64)
    assert not zeroed.head.weight.any()
    assert not zeroed.head.bias.any()
    assert zero_head(params).head.weight.shape == (5, 64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: conv4(image_size=8), "too small for 4 blocks"),
        (lambda: resnet12(image_size=8), "too small for resnet12"),
        (lambda: build_encoder("conv4", (3, 84, 80)), "square images"),
        (lambda: Model(nn.Flatten(), ways=5), "pass feature_size"),
        (lambda: Model(nn.Flatten(), ways=0, feature_size=3), "2 classes or more"),
    ],
)
def test_impossible_models_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_shapes_are_enforced_while_testing():
    """Guards `shape_checks`: features without an axis for images."""
    with pytest.raises(TypeCheckError):
        class_means(torch.zeros(3), torch.zeros(3, dtype=torch.int64), 2)
