"""The theory's edges: here the closed forms must miss, and where they unexpectedly still hold, they must
hold."""

import pytest
import torch

import encoders_plain as encoders
import reference
from feature_tasks import make_case, relative_error
from metacontrast.theory import (
    FeatureTask,
    contrastive_loss,
    head_gradient,
    split_encoder_gradient,
    split_feature_gradient,
)
from metacontrast.types import Head, Inner, Params

# The closed forms agree with automatic differentiation to 1e-15 where they hold; a miss below is at least
# a percent.
EXACT, MISS = 1e-12, 0.01
both_orders = pytest.mark.parametrize("order", ["first", "second"])


def released(scale: float, seed: int = 0):
    """The Omniglot encoder under a head of the released initial scale, sqrt(2/64) = 0.177, or a zeroed
    one."""
    g = torch.Generator().manual_seed(seed)
    encoder, episode = encoders.init_omniglot(g), encoders.random_episode(g)
    return Params(encoder, encoders.random_head(g, 5, 64, True, scale)), episode


def miss(params, episode, scope, order, steps, theory_order=None, theory_steps=None, lr=0.1):
    theory = split_encoder_gradient(
        encoders.omniglot, params, episode, Inner(theory_steps or steps, lr, order=theory_order or order)
    )
    actual = reference.task_meta_gradient(encoders.omniglot, params, episode, steps, lr, scope, order).encoder
    return relative_error(theory.total, actual)


@both_orders
def test_it_misses_when_the_encoder_adapts_under_a_random_head(order):
    """Assumption (a) of Theorem 1 is needed: ordinary MAML, which adapts the whole network, is not the
    closed form."""
    params, episode = released(scale=0.177)
    assert miss(params, episode, "head", order, 1) < EXACT
    assert miss(params, episode, "all", order, 1) > 0.3


@both_orders
def test_with_a_zeroed_head_and_one_step_it_holds_though_the_encoder_may_adapt(order):
    """Beyond the paper: ∂L_S/∂φ(s) = Σ_j (s_j - 1{j=t}) w_j^0 = 0, so the inner step leaves the encoder in
    place by
    itself and Corollary 1 does not need its assumption (a)."""
    params, episode = released(scale=0.0)
    assert miss(params, episode, "all", order, 1) < EXACT


@both_orders
def test_equal_rows_do_for_one_step_what_a_zeroed_head_does(order):
    """Σ_j (s_j - 1{j=t}) w_j^0 = 0 for rows that are all one vector; a second step moves the encoder."""
    params, episode = released(scale=0.177)
    params = params._replace(head=Head(*(t[:1].expand_as(t) for t in params.head)))
    assert miss(params, episode, "all", order, 1) < EXACT
    assert miss(params, episode, "all", order, 2) > MISS


def test_that_head_moves_as_in_the_theory_in_first_order_only():
    """Second order sees that a head away from zero would have moved the encoder: ∂φ^1/∂w^0 is not zero."""
    params, episode = released(scale=0.0)
    support, query = (encoders.omniglot(params.encoder, x) for x in (episode.support_x, episode.query_x))
    misses = []
    for order in ("first", "second"):
        task = FeatureTask(support, episode.support_y, query, episode.query_y, params.head)
        closed = head_gradient(task, Inner(lr=0.1, order=order))
        actual = reference.task_meta_gradient(encoders.omniglot, params, episode, 1, 0.1, "all", order).head
        misses.append(relative_error(closed, actual))
    assert misses[0] < EXACT
    assert misses[1] > MISS


@both_orders
def test_from_the_second_step_on_a_zeroed_head_misses_too_when_the_encoder_adapts(order):
    """w^1 is not zero, so the second inner step moves the encoder."""
    params, episode = released(scale=0.0)
    assert miss(params, episode, "head", order, 2) < EXACT
    assert miss(params, episode, "all", order, 2) > MISS


def test_equation_14_as_printed_misses_with_a_random_head_and_holds_with_a_zeroed_one():
    """Eq. 14 stops the gradient through s_k; what it lacks is δ(s), which vanishes at w^0 = 0 and gives Eq.
    16."""
    for scale, low, high in ((0.177, MISS, 1.0), (0.0, 0.0, EXACT)):
        params, episode = released(scale)
        encoder = reference.leaves(params).encoder
        support, query = (encoders.omniglot(encoder, x) for x in (episode.support_x, episode.query_x))
        task = FeatureTask(support, episode.support_y, query, episode.query_y, params.head)
        loss = contrastive_loss(task, Inner(lr=0.1, order="second"), drop_head_curvature=True)
        actual = reference.task_meta_gradient(encoders.omniglot, params, episode, 1, 0.1, "head", "second").encoder
        assert low <= relative_error(reference.gradients(loss, encoder), actual) < high


@pytest.mark.parametrize("scale", [0.177, 0.0], ids=["random head", "zeroed head"])
def test_the_one_step_form_misses_second_order_maml_of_two_steps(scale):
    """Eq. 14 and 16 are for one step; for two, Eq. 19's product of Jacobians enters, which the split
    follows."""
    params, episode = released(scale)
    assert miss(params, episode, "head", "second", 2) < EXACT
    assert miss(params, episode, "head", "second", 2, theory_steps=1) > MISS


def test_first_order_is_not_second_order():
    """FOMAML lacks the signal at the support features, even with a zeroed head."""
    params, episode = released(scale=0.0)
    assert miss(params, episode, "head", "second", 1, theory_order="first") > MISS


def test_leaving_the_bias_out_misses():
    """The equations have no bias, the released code has: dropping it from φ(s)ᵀφ(q) + 1 changes q, and so
    the signal."""
    case = make_case(1, bias=True, scale=0.0)
    with_bias = split_feature_gradient(case.task, Inner(lr=0.3))
    without = split_feature_gradient(case.task._replace(head=case.head._replace(bias=None)), Inner(lr=0.3))
    assert relative_error([without.query], [with_bias.query]) > MISS


def test_equation_22_as_printed_is_the_negative_of_the_loss():
    """Eq. 21 is -∂L/∂φ(q); Eq. 22 integrates it and keeps the sign, so that one step gives minus Eq. 7."""
    case = make_case(2)
    one_hot = torch.eye(5, dtype=torch.float64)
    s = (case.support @ case.head.weight.T).softmax(-1)
    adapted = case.head.weight + case.lr / len(s) * (one_hot[case.support_y] - s).T @ case.support
    q = (case.query @ adapted.T).softmax(-1)
    printed = torch.zeros((), dtype=torch.float64)
    for i, u in enumerate(case.query_y):
        printed += (one_hot[u] - q[i]) @ case.head.weight @ case.query[i] / len(q)
        for j, t in enumerate(case.support_y):
            bracket = q[i] @ s[j] - s[j, u] - q[i, t] + float(t == u)
            printed += case.lr / len(s) * bracket * (case.support[j] @ case.query[i]) / len(q)
    assert relative_error([contrastive_loss(case.task, case.inner())], [-printed]) < EXACT
