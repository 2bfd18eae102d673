"""The split of MAML's outer gradient, whole and part by part, against automatic differentiation."""

import pytest
import torch
from hypothesis import given
from torch import nn

import encoders_plain as encoders
import reference
from feature_tasks import as_params, cases, concatenate, make_case, many, relative_error, table
from metacontrast.errors import InputError
from metacontrast.theory import adapted_heads, mean_split, split_encoder_gradient, split_feature_gradient
from metacontrast.types import Episode, Head, Inner, Params

# Rounding of a few hundred float64 terms is 1e-15; 1e-12 leaves room for cancellation between the parts.
EXACT = 1e-12
with_and_without_bias = pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
both_orders = pytest.mark.parametrize("order", ["first", "second"])


@both_orders
def test_the_parts_add_up_to_the_error_signal_at_every_feature(order):
    """Eq. 6, 12 and 21, and the completed second order, on random heads, ways, shots, steps, rates and
    biases."""

    @many
    @given(cases)
    def check(case):
        params, episode = as_params(case)
        expected = reference.task_meta_gradient(table, params, episode, case.steps, case.lr, "head", order).encoder
        parts = split_feature_gradient(case.task, case.inner(order))
        assert relative_error([parts.support, parts.query], [expected["support"], expected["query"]]) < EXACT

    check()


@with_and_without_bias
@both_orders
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_parts_add_up_to_the_gradient_of_the_released_encoder(order, steps, bias):
    """The same pulled back to all 16 tensors of the Omniglot encoder, support and query in separate
    passes."""
    g = torch.Generator().manual_seed(steps)
    params = encoders.random_params(g, encoders.init_omniglot(g), 5, 64, bias)
    episode = encoders.random_episode(g)
    expected = reference.task_meta_gradient(encoders.omniglot, params, episode, steps, 0.1, "head", order).encoder
    parts = split_encoder_gradient(encoders.omniglot, params, episode, Inner(steps, 0.1, order=order))
    assert relative_error(parts.total, expected) < EXACT
    for name, tensor in parts.total.items():
        assert relative_error([tensor], [expected[name]]) < 100 * EXACT


@both_orders
def test_the_parts_add_up_on_the_pooling_encoder(order):
    """The miniImageNet encoder, with its max-pools, on smaller images and fewer filters."""
    g = torch.Generator().manual_seed(0)
    params = encoders.random_params(g, encoders.init_mini(g, width=8), 3, 8 * 4, bias=True)
    episode = encoders.random_episode(g, ways=3, image=(3, 32, 32))
    expected = reference.task_meta_gradient(encoders.mini, params, episode, 1, 0.1, "head", order).encoder
    parts = split_encoder_gradient(encoders.mini, params, episode, Inner(lr=0.1, order=order))
    assert relative_error(parts.total, expected) < EXACT


@with_and_without_bias
def test_each_part_is_its_printed_formula(bias):
    """One step, every term with loops: Eq. 6 at the queries; c and δ(s) at the support. With a bias φ
    carries a 1."""
    case = make_case(7, bias=bias)
    w, phi_s, phi_q, t, u = case.head.weight, case.support, case.query, case.support_y, case.query_y
    if bias:
        w = torch.cat([w, case.head.bias[:, None]], 1)
        phi_s, phi_q = (torch.cat([f, torch.ones(len(f), 1)], 1) for f in (phi_s, phi_q))
    one_hot, n, m, eta = torch.eye(len(w), dtype=torch.float64), len(u), len(t), case.lr
    s = (phi_s @ w.T).softmax(-1)
    adapted = w + eta / m * (one_hot[t] - s).T @ phi_s
    q = (phi_q @ adapted.T).softmax(-1)
    g = sum(torch.outer(q[i] - one_hot[u[i]], phi_q[i]) for i in range(n)) / n
    c = [[-(q[i] @ s[j]) + s[j, u[i]] + q[i, t[j]] - float(t[j] == u[i]) for j in range(m)] for i in range(n)]
    interference = [sum((q[i] - one_hot[u[i]])[k] * w[k] for k in range(len(w))) / n for i in range(n)]
    to_query = [eta / (m * n) * sum(c[i][j] * phi_s[j] for j in range(m)) for i in range(n)]
    to_support = [eta / (m * n) * sum(c[i][j] * phi_q[i] for i in range(n)) for j in range(m)]
    delta = [-eta / m * sum((g[k] @ phi_s[j]) * s[j, k] * (w[k] - s[j] @ w) for k in range(len(w))) for j in range(m)]
    parts = split_feature_gradient(case.task, case.inner("second"))
    for got, expected in zip(parts, (interference, to_query, to_support, delta), strict=True):
        assert relative_error([got], [torch.stack(expected)[:, : case.support.shape[1]]]) < EXACT


def test_the_bias_adds_one_to_every_feature_product():
    """The logits of the adapted head are those of the start plus η E_s[(1{k=t} - s_k)(φ(s)ᵀφ(q) + 1)];
    rounding."""
    case = make_case(8, bias=True)
    end = adapted_heads(case.task, case.inner())[-1]
    s = (case.support @ case.head.weight.T + case.head.bias).softmax(-1)
    errors = torch.eye(5, dtype=torch.float64)[case.support_y] - s
    start = case.query @ case.head.weight.T + case.head.bias
    expected = start + case.lr / len(s) * (case.query @ case.support.T + 1) @ errors
    assert relative_error([case.query @ end.weight.T + end.bias], [expected]) < EXACT


@with_and_without_bias
def test_a_zeroed_head_neither_interferes_nor_bends(bias):
    """Corollary 1 and its complement: with w^0 = 0 and one step, both noise terms are zero to the last
    bit."""
    case = make_case(9, bias=bias, scale=0.0)
    parts = split_feature_gradient(case.task, case.inner("second"))
    assert not parts.interference.any()
    assert not parts.head_curvature.any()
    assert parts.contrastive_query.any()
    assert parts.contrastive_support.any()


def test_equal_rows_of_the_head_do_not_bend_either():
    """δ(s) holds w_k^0 - Σ_j s_j w_j^0, which is zero for equal rows; rounding of the softmax sum
    remains, a few 1e-16 of the head."""
    case = make_case(9)
    head = Head(case.head.weight[:1].expand(5, -1), None)
    parts = split_feature_gradient(case.task._replace(head=head), case.inner("second"))
    assert parts.head_curvature.abs().max() < 1e-14


def test_from_the_second_step_on_a_zeroed_head_bends():
    """Beyond the paper: the zeroing trick removes head curvature for one inner step only, since w^1 is not
    zero."""
    case = make_case(9, steps=2, scale=0.0)
    parts = split_feature_gradient(case.task, case.inner("second"))
    assert not parts.interference.any()
    assert parts.head_curvature.norm() > 0.01 * parts.support.norm()


@with_and_without_bias
def test_from_equal_rows_curvature_lies_in_the_span_of_the_support_features(bias):
    """Three steps, 6 support features of 12 dimensions; a head whose rows differ is the control; rounding."""
    case = make_case(9, size=12, support=4, steps=3, bias=bias)
    equal = Head(*(None if t is None else t[:1].expand_as(t) for t in case.head))
    misses = []
    for head in (equal, case.head):
        bend = split_feature_gradient(case.task._replace(head=head), case.inner("second")).head_curvature
        weights = torch.linalg.lstsq(case.support.T, bend.T).solution
        misses.append(relative_error([case.support.T @ weights], [bend.T]))
    assert misses[0] < EXACT
    assert misses[1] > 0.01


def test_first_order_sends_no_signal_to_the_support_features():
    """FOMAML neglects ∂L/∂φ(s), Section 2.3; exactly zero."""
    parts = split_feature_gradient(make_case(1).task, Inner(lr=0.3))
    assert not parts.support.any()


@both_orders
def test_the_split_of_a_batch_is_the_mean_of_its_tasks(order):
    """N_batch tasks, Section C: the gradient is linear, so means over tasks commute with the split;
    rounding."""
    g = torch.Generator().manual_seed(2)
    params = encoders.random_params(g, encoders.init_mlp(g, (16, 12, 6)), 4, 6, bias=True)
    batch = [encoders.random_episode(g, ways=4, image=(1, 4, 4)) for _ in range(3)]
    expected = reference.meta_gradient(encoders.mlp, params, batch, 2, 0.5, "head", order).encoder
    splits = [split_encoder_gradient(encoders.mlp, params, task, Inner(2, 0.5, order=order)) for task in batch]
    assert relative_error(mean_split(splits).total, expected) < EXACT


@both_orders
def test_query_features_may_depend_on_the_support_images(order):
    """Batch statistics of the support set: the signal at φ(q) stays exact and reaches the encoder by the joint pass."""
    g = torch.Generator().manual_seed(4)
    params = encoders.random_params(g, encoders.init_mlp(g, (16, 12, 6)), 3, 6, bias=True)
    episode = encoders.random_episode(g, ways=3, image=(1, 4, 4))

    def features(encoder, x):
        raw = encoders.mlp(encoder, x)
        return (raw - raw.mean(0)) / raw.std(0)

    def query_features(encoder, support_x, query_x):
        raw = encoders.mlp(encoder, support_x)
        return (encoders.mlp(encoder, query_x) - raw.mean(0)) / raw.std(0)

    def reference_features(encoder, x):
        return features(encoder, x) if x is episode.support_x else query_features(encoder, episode.support_x, x)

    expected = reference.task_meta_gradient(reference_features, params, episode, 2, 0.3, "head", order).encoder
    parts = split_encoder_gradient(features, params, episode, Inner(2, 0.3, order=order), query_features=query_features)
    assert relative_error(parts.total, expected) < EXACT


def test_a_batch_of_tasks_must_be_split_one_by_one():
    batch = Episode(torch.ones(2, 4, 1, 2, 2), torch.zeros(2, 4).long(), torch.ones(2, 4, 1, 2, 2), torch.zeros(2, 4))
    with pytest.raises(InputError, match="one task at a time"):
        split_encoder_gradient(encoders.mlp, Params({}, make_case(0).head), batch, Inner(lr=0.1))


def test_any_module_can_be_the_encoder():
    """A module with batch norm called by `functional_call`; a tensor the features do not use gets a
    gradient of zero."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh())
    net.register_parameter("unused", nn.Parameter(torch.ones(3)))
    net = net.double()

    def features(encoder, x):
        return torch.func.functional_call(net, encoder, (x,))

    g = torch.Generator().manual_seed(3)
    params = Params(dict(net.named_parameters()), encoders.random_head(g, 3, 8, bias=False))
    episode = encoders.random_episode(g, ways=3, image=(1, 4, 4))
    expected = reference.task_meta_gradient(features, params, episode, 1, 0.5, "head", "second").encoder
    parts = split_encoder_gradient(features, params, episode, Inner(lr=0.5, order="second"))
    assert relative_error(parts.total, expected) < EXACT
    assert not parts.total["unused"].any()
    assert concatenate(parts.interference).any()
    assert all(parameter.grad is None for parameter in net.parameters())
