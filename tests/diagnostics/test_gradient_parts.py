"""The real outer gradient as a sum of the theory's parts and a remainder: what each number must be."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from explained_tasks import small_model, tasks
from metacontrast import theory
from metacontrast.diagnostics.gradient import explain
from metacontrast.diagnostics.task_view import REMAINDER, describe_parts, flatten
from metacontrast.errors import InputError
from metacontrast.maml.engine import meta_gradient, unstack
from metacontrast.maml.inner import learned_step_norms
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner

# Rounding of float64 sums over a few thousand entries.
EXACT, MISS = 1e-10, 0.01
CONTRASTIVE = ("contrastive_query", "contrastive_support")


def explained(head="learned", episodes=None, **settings):
    model, params = small_model(head)
    return explain(model, params, episodes or tasks(), Inner(**({"steps": 1, "lr": 0.1} | settings)))


@pytest.mark.parametrize("head", ["learned", "zeroed", "shared", "prototype"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_parts_are_the_split_of_every_task_and_the_remainder_closes_the_sum(head, order):
    """Norms and shares against the gradient and the split computed here, for every way in which a head starts."""
    model, params = small_model(head)
    episodes, inner = tasks(), Inner(steps=2, lr=0.1, order=order)
    found = explain(model, params, episodes, inner)
    splits = [
        theory.split_encoder_gradient(model.features, model.start(params, e.support_x, e.support_y), e, inner)
        for e in unstack(episodes)
    ]
    parts = torch.stack([flatten(part) for part in theory.mean_split(splits)])
    g = flatten(meta_gradient(model, params, episodes, inner)[0].encoder)
    assert found.gradient_norm == pytest.approx(g.norm().item(), rel=EXACT)
    for name, part in zip(splits[0]._fields, parts, strict=True):
        assert found.parts[name].norm == pytest.approx(part.norm().item(), rel=EXACT, abs=1e-14)
        assert found.parts[name].share == pytest.approx((part @ g / g.square().sum()).item(), rel=EXACT, abs=1e-14)
    assert sum(part.share for part in found.parts.values()) == pytest.approx(1, abs=EXACT)
    assert found.distance == pytest.approx(((g - parts.sum(0)).norm() / g.norm()).item(), rel=1e-6)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(
    ("head", "scope", "steps"),
    [("learned", "head", 2), ("zeroed", "head", 2), ("zeroed", "all", 1), ("shared", "all", 1)],
)
def test_the_theory_is_exact_where_it_claims_to_be(head, scope, steps, order):
    """A head-only inner loop, and one step from equal rows though the whole network may adapt."""
    assert explained(head, scope=scope, steps=steps, order=order).distance < EXACT


@pytest.mark.parametrize(("head", "steps"), [("learned", 1), ("zeroed", 2), ("shared", 2)])
def test_the_theory_misses_where_the_encoder_adapts(head, steps):
    """The control: otherwise the distance could not tell the two apart."""
    assert explained(head, scope="all", steps=steps).distance > MISS


def test_a_zeroed_head_leaves_contrast_alone():
    """One step: no interference, no curvature, shares that are all contrastive, no wrong sign, no norm."""
    found = explained("zeroed", order="second")
    assert found.parts["interference"] == found.parts["head_curvature"] == (0, 0, 0)
    assert sum(found.parts[name].share for name in CONTRASTIVE) == pytest.approx(1, abs=EXACT)
    assert (found.wrong_sign_share, found.head_norm, found.head_spread) == (0, 0, 0)


def test_a_learned_head_interferes():
    found = explained("learned", order="second")
    assert min(found.parts[name].norm for name in ("interference", "head_curvature")) > 0
    assert 0 < found.head_spread < found.head_norm


def test_only_what_differs_between_rows_spreads():
    """A shared head has a norm and no spread; a learned one the spread of its rows about their mean."""
    shared = explained("shared")
    assert shared.head_norm > 0
    assert shared.head_spread == 0
    weight, bias = small_model()[1].head
    rows = torch.cat([weight, bias[:, None]], 1)
    assert explained().head_spread == pytest.approx((rows - rows.mean(0)).norm().item(), rel=EXACT)


def test_first_order_has_no_part_at_the_support_features():
    found = explained("learned")
    assert found.parts["contrastive_support"] == found.parts["head_curvature"] == (0, 0, 0)


def test_a_gradient_of_zero_has_parts_of_zero():
    """No division by zero."""
    parts = describe_parts(torch.zeros(2), torch.zeros(4, 2))
    assert set(parts.values()) == {(0, 0, 0)}
    assert list(parts)[-1] == REMAINDER


@pytest.mark.parametrize("head", ["zeroed", "shared"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_where_the_gradient_is_zero_and_the_theorys_is_not_there_is_no_distance(head, order):
    """Rows that stay equal let nothing but rounding through to the encoder; the theory's head would have adapted."""
    found = explained(head, scope="encoder", order=order)
    assert found.gradient_norm == 0 < found.parts[REMAINDER].norm
    assert found.distance is found.scalars()["distance"] is None
    assert sum(part.share for part in found.parts.values()) == 0


def test_in_float32_equal_rows_and_small_rates_have_no_distance_either():
    """The rounding of g does not shrink with the inner rate, as the theory's parts do."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.Tanh(), nn.Linear(6, 5))
    model = Model(encoder, ways=3, feature_size=5, head="shared")
    generator = torch.Generator().manual_seed(0)
    x, q = torch.rand(2, 3, 1, 28, 28, generator=generator), torch.rand(2, 6, 1, 28, 28, generator=generator)
    episodes = Episode(x, torch.arange(3).expand(2, -1), q, torch.arange(3).repeat(2).expand(2, -1))
    found = explain(model, model.init(generator), episodes, Inner(steps=2, lr=0.01, scope="encoder"))
    assert found.gradient_norm == 0
    assert found.distance is None


def test_batch_norms_of_every_step_are_not_what_the_theory_describes():
    model, params = small_model("zeroed")
    inner = Inner(steps=1, lr=0.1)
    with pytest.raises(InputError, match="batch norms of every inner step"):
        explain(model, learned_step_norms(model, params, inner), tasks(), inner)


def test_the_distance_of_nothing_from_nothing_is_zero():
    found = explained("zeroed")
    nothing = dataclasses.replace(found, parts=describe_parts(torch.zeros(2), torch.zeros(4, 2)))
    assert nothing.distance == 0


def gradients(heads, order="first", steps=1, loss="cross_entropy", scope="all", norm="transductive"):
    """Outer gradients under one encoder and several kinds of heads; the shared row has a weight and a bias."""
    inner = Inner(steps=steps, lr=0.1, order=order, loss=loss, scope=scope)
    for head in heads:
        model, params = small_model(head, norm=norm)
        params = params._replace(head=params.head._replace(bias=params.head.bias + (head == "shared")))
        encoder = small_model()[1].encoder
        yield meta_gradient(model, params._replace(encoder=encoder), tasks(), inner)[0]


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("scope", ["all", "head"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("order", ["first", "second"])
def test_equal_rows_are_a_zeroed_head_in_disguise(order, steps, scope, norm):
    """A vector and a bias added to every row change no softmax: same encoder gradient, and none for the row."""
    settings = {"order": order, "steps": steps, "scope": scope, "norm": norm}
    shared, zeroed = gradients(("shared", "zeroed"), **settings)
    one, two = flatten(shared.encoder), flatten(zeroed.encoder)
    assert (one - two).norm() < 1e-12 * two.norm()
    assert max(t.abs().max() for t in shared.head) < 1e-12


@pytest.mark.parametrize("order", ["first", "second"])
def test_with_square_errors_equal_rows_are_not_a_zeroed_head(order):
    """They see the outputs, and not only how these differ; the row's gradient is far above rounding."""
    shared, zeroed = gradients(("shared", "zeroed"), order, loss="mean_square_error")
    one, two = flatten(shared.encoder), flatten(zeroed.encoder)
    assert (one - two).norm() > MISS * two.norm()
    assert min(t.abs().max() for t in shared.head) > 1e-6


def test_threads_do_not_change_the_explanation():
    """Tasks are summed in their order."""
    from concurrent.futures import ThreadPoolExecutor

    model, params = small_model()
    episodes, inner = tasks(4), Inner(steps=1, lr=0.1)
    with ThreadPoolExecutor(3) as pool:
        threaded = explain(model, params, episodes, inner, pool)
    assert threaded.scalars() == explain(model, params, episodes, inner).scalars()


def test_scalars_are_numbers_that_json_can_hold():
    """None where a number is not defined: a class of one support image has no pair."""
    import json

    scalars = explained().scalars()
    assert json.loads(json.dumps(scalars, allow_nan=False)) == scalars
    undefined = {name for name, value in scalars.items() if value is None}
    assert undefined == {"contrast_support_support_before", "contrast_support_support_after"}


def test_bad_input_is_one_line():
    """No head, features that are not finite, a task with one class, another loss, no inner step."""
    model, params = small_model()
    headless = params._replace(head=params.head._replace(weight=params.head.weight[:0], bias=params.head.bias[:0]))
    good, inner = tasks(), Inner(steps=1, lr=0.1)
    one_class = good._replace(support_y=good.support_y * 0, query_y=good.query_y * 0)
    broken = good._replace(query_x=good.query_x * float("nan"))
    cases = [
        ((headless, good, inner), "these parameters have no head"),
        ((params, broken, inner), "6 of 6 rows are not finite"),
        ((params, one_class, inner), "all 3 samples are of class 0: a contrast needs two classes or more"),
        (
            (params, good, dataclasses.replace(inner, loss="mean_square_error")),
            "the theory is that of loss=",
        ),
        (
            (params, good, dataclasses.replace(inner, steps=0)),
            "inner steps=0, but the theory is",
        ),
        ((params, good, dataclasses.replace(inner, lr=1e200)), "not finite"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            explain(model, *arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"are not \(task, image\)"):
        explain(model, params, type(good)(*(t[0] for t in good)), inner)
    frozen = Model(copy.deepcopy(model.encoder).requires_grad_(False), model.ways, model.feature_size)
    with pytest.raises(InputError, match="the encoder is frozen, and what is explained is its gradient"):
        explain(frozen, params._replace(encoder={}), good, inner)


class Dropping(torch.nn.Module):
    """Dropout that is never off."""

    def __init__(self, body):
        super().__init__()
        self.body, self.feature_size = body, body.feature_size

    def forward(self, x):
        return torch.nn.functional.dropout(self.body(x), 0.2)


def test_an_encoder_that_draws_at_random_has_no_gradient_to_split():
    """Every call has another gradient, so that the remainder would be the difference of two draws."""
    model, params = small_model("learned")
    random = Model(Dropping(model.encoder.requires_grad_(True)), model.ways)
    params = params._replace(encoder={f"body.{name}": t for name, t in params.encoder.items()})
    with pytest.raises(InputError, match="draws at random when it is called"):
        explain(random, params, tasks(), Inner(1, 0.1))
