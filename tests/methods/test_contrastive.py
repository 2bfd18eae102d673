"""Training by the contrastive loss in place of MAML: the same updates, head included (paper, Fig. 8 and 9)."""

import dataclasses
from functools import partial
from itertools import product

import pytest
import torch

from metacontrast.errors import InputError
from metacontrast.maml.engine import mean_task_gradient
from metacontrast.methods import contrastive
from metacontrast.training.config import TrainConfig
from metacontrast.training.train_run import initial_state, outer_step
from metacontrast.types import Episode, map_params, to_tensors
from toy_images import noisy_images

IMAGES = noisy_images(seed=0)
HEAD_ONLY = TrainConfig(filters=4, ways=3, queries=2, meta_batch=1, inner_scope="head", inner_lr=0.1, head="learned")


def double_state(config):
    model = config.model(IMAGES.shape)
    state = initial_state(config, model, "cpu")
    params = map_params(lambda t: t.double(), state.params)
    return model, dataclasses.replace(state, params=params, optimizer=torch.optim.Adam(to_tensors(params), lr=1e-3))


def double_batch(config, first):
    batch = config.training_tasks(IMAGES).batch(range(first, first + config.meta_batch))
    return Episode(batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y)


def parameters_after(config, updates=50):
    model, state = double_state(config)
    for number in range(updates):
        outer_step(config, model)(state, double_batch(config, number))
    return torch.cat([t.flatten() for t in to_tensors(state.params)])


def relative_distance(one, two):
    return ((one - two).norm() / two.norm()).item()


ALL = list(product([("first", 1), ("first", 3), ("second", 1)], ["learned", "zeroed"], ["transductive", "inductive"]))
SOME = [case for n, case in enumerate(ALL) if n % 4 in (0, 3)]
"""Every order with every head, each with one policy."""


@pytest.mark.parametrize(
    ("order_and_steps", "head", "norm"),
    [case if case in SOME else pytest.param(*case, marks=pytest.mark.slow) for case in ALL],
)
def test_head_only_maml_and_its_reformulation_stay_together_for_fifty_updates(order_and_steps, head, norm):
    """Fig. 8, Eq. 5, 9 and 20 for the head. Adam can magnify rounding: 1e-9 after fifty updates, not 1e-12."""
    order, steps = order_and_steps
    config = dataclasses.replace(HEAD_ONLY, order=order, inner_steps=steps, head=head, norm=norm)
    maml = parameters_after(config)
    assert relative_distance(parameters_after(config, 0), maml) > 1e-3
    assert relative_distance(parameters_after(dataclasses.replace(config, method="contrastive")), maml) < 1e-9


def test_without_a_head_bias_too():
    config = dataclasses.replace(HEAD_ONLY, head_bias=False)
    contrastive = dataclasses.replace(config, method="contrastive")
    assert relative_distance(parameters_after(contrastive, 10), parameters_after(config, 10)) < 1e-9


def encoder_gradient(head, **dropped):
    config = dataclasses.replace(HEAD_ONLY, head=head, method="contrastive", meta_batch=2)
    model, state = double_state(config)
    task = (model, state.params, double_batch(config, 0), config.inner())
    gradient, _ = mean_task_gradient(partial(contrastive, **dropped), *task)
    return torch.cat([t.flatten() for t in gradient.encoder.values()]), torch.cat([*gradient.head[:1]])


@pytest.mark.parametrize("switch", ["drop_interference", "drop_noise"])
def test_a_switch_changes_the_encoders_gradient_and_not_the_heads(switch):
    """Fig. 9 with a head that keeps its update, Eq. 5; with a zeroed head there is nothing to drop."""
    whole, whole_head = encoder_gradient("learned")
    part, part_head = encoder_gradient("learned", **{switch: True})
    assert relative_distance(part, whole) > 0.01
    assert torch.equal(part_head, whole_head)
    whole, part = encoder_gradient("zeroed")[0], encoder_gradient("zeroed", **{switch: True})[0]
    assert relative_distance(part, whole) < 1e-12


def test_the_metrics_are_those_of_the_adapted_head():
    """The record of an update says the same for both."""
    config = dataclasses.replace(HEAD_ONLY, meta_batch=3)
    seen = []
    for method in ("maml", "contrastive"):
        model, state = double_state(config)
        seen.append(outer_step(dataclasses.replace(config, method=method), model)(state, double_batch(config, 0)))
    assert torch.allclose(seen[0].loss, seen[1].loss, rtol=1e-12)
    assert torch.equal(seen[0].accuracy, seen[1].accuracy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_scope": "all"}, "cannot have inner_scope=all: add --inner-scope head"),
        ({"head": "shared"}, "cannot have head=shared: add --head learned or zeroed"),
        ({"order": "second", "inner_steps": 2}, "no second order for 2 steps: use 1 step"),
        (
            {"inner_loss": "mean_square_error"},
            "cannot have inner_loss=mean_square_error: add --inner-loss cross_entropy",
        ),
        ({"inner_steps": 0}, "--inner-steps 1 or more"),
        (
            {"method": "maml", "drop_noise": True},
            "drop_noise=True is an option of the method contrastive: add --method",
        ),
        ({"method": "maml", "explain_every": 5, "inner_steps": 0}, "explain_every=5 needs"),
    ],
)
def test_what_the_closed_forms_do_not_cover_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(HEAD_ONLY, **({"method": "contrastive"} | change))
