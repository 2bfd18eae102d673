"""What a task does to the head, in closed form, against automatic differentiation: Eq. 4, 5, 9 to 11, 17 to
20."""

import pytest
import torch
from hypothesis import given

import encoders_plain as encoders
import reference
from feature_tasks import as_params, cases, make_case, many, relative_error, table
from metacontrast.theory import FeatureTask, adapted_heads, head_gradient, head_preconditioner, head_update
from metacontrast.types import Inner

# Matrix products of a few hundred terms in float64 differ by summation order, 1e-15; 1e-12 leaves room
# for cancellation.
EXACT = 1e-12


@many
@given(cases)
def test_inner_steps_equal_gradient_descent_on_the_support_loss(case):
    """Eq. 4 and 17, with and without a bias."""
    params, episode = as_params(case)
    heads = adapted_heads(case.task, case.inner())
    assert len(heads) == case.steps + 1
    for steps, head in enumerate(heads):
        expected = reference.adapt(table, params, episode.support_x, case.support_y, steps, case.lr, "head")
        assert relative_error(head, expected.head) < EXACT


def test_the_adapted_head_is_the_start_plus_all_steps():
    """Eq. 18 with the sign of Eq. 17; as printed, with a minus, it misses by far more than rounding."""
    case = make_case(3, steps=3)
    start, *_, end = adapted_heads(case.task, case.inner())
    one_hot = torch.eye(5, dtype=torch.float64)[case.support_y]
    move = torch.zeros_like(start.weight)
    for head in adapted_heads(case.task, case.inner())[:-1]:
        s = (case.support @ head.weight.T).softmax(-1)
        move += case.lr * (one_hot - s).T @ case.support / len(case.support)
    assert relative_error([end.weight], [start.weight + move]) < EXACT
    assert relative_error([end.weight], [start.weight - move]) > 0.1


@pytest.mark.parametrize("order", ["first", "second"])
def test_outer_gradient_equals_automatic_differentiation(order):
    """Eq. 5 and 20 (first order), Eq. 9 and 19 (second order, the backward recursion), any number of
    steps."""

    @many
    @given(cases)
    def check(case):
        params, episode = as_params(case)
        expected = reference.task_meta_gradient(table, params, episode, case.steps, case.lr, "head", order)
        assert relative_error(head_gradient(case.task, case.inner(order)), expected.head) < EXACT

    check()


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_outer_gradient_holds_on_the_released_encoder(order, bias):
    """The same on 64 features of the released Omniglot encoder, batch norm by the statistics of each pass."""
    g = torch.Generator().manual_seed(1)
    params = encoders.random_params(g, encoders.init_omniglot(g), 5, 64, bias)
    episode = encoders.random_episode(g)
    support, query = (encoders.omniglot(params.encoder, x) for x in (episode.support_x, episode.query_x))
    task = FeatureTask(support, episode.support_y, query, episode.query_y, params.head)
    got = head_gradient(task, Inner(2, 0.1, order=order))
    expected = reference.task_meta_gradient(encoders.omniglot, params, episode, 2, 0.1, "head", order)
    assert relative_error(got, expected.head) < EXACT


def test_one_second_order_step_is_equation_9_as_printed():
    """Eq. 9, its three terms written out class by class; tolerance: rounding."""
    case, rho = make_case(5), 0.7
    adapted = adapted_heads(case.task, case.inner())[-1].weight
    s, q = (case.support @ case.head.weight.T).softmax(-1), (case.query @ adapted.T).softmax(-1)
    ways, size = case.head.weight.shape
    pull = [
        sum((float(u == k) - q[i, k]) * case.query[i] for i, u in enumerate(case.query_y)) / len(q) for k in range(ways)
    ]

    def moment(weights):
        return sum(a * torch.outer(x, x) for a, x in zip(weights, case.support, strict=True)) / len(s)

    rows = []
    for k in range(ways):
        own = (torch.eye(size) - case.lr * moment(s[:, k])) @ pull[k]
        cross = case.lr * sum(moment(s[:, m] * s[:, k]) @ pull[m] for m in range(ways))
        rows.append(case.head.weight[k] + rho * (own + cross))
    got = head_update(case.task, case.inner("second"), outer_lr=rho)
    assert relative_error([got.weight], [torch.stack(rows)]) < EXACT


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
def test_a_zeroed_head_steps_through_the_preconditioner_alone(bias):
    """Eq. 10 and 11: from zero the cross-class term cancels; from a random head it does not."""

    def steps(scale):
        case = make_case(2, bias=bias, scale=scale)
        first, second = (head_gradient(case.task, case.inner(order)) for order in ("first", "second"))
        joined = [h.weight if h.bias is None else torch.cat([h.weight, h.bias[:, None]], 1) for h in (first, second)]
        matrix = head_preconditioner(case.task, case.inner()).matrix
        return torch.einsum("kfg,kg->kf", matrix, joined[0]), joined[1]

    preconditioned, second = steps(scale=0.0)
    assert relative_error([preconditioned], [second]) < EXACT
    preconditioned, second = steps(scale=0.5)
    assert relative_error([preconditioned], [second]) > 0.005


def test_the_preconditioner_turns_the_step_to_where_features_vary_least():
    """Fig. 7: features along [1, 1] shrink that direction and leave [1, -1] alone; a closed form, so
    rounding only."""
    along = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    y, zero = torch.tensor([0, 1]), encoders.random_head(torch.Generator(), 2, 2, bias=False, scale=0.0)
    pre = head_preconditioner(FeatureTask(along, y, along, y, zero), Inner(lr=0.6))
    torch.testing.assert_close(pre.eigenvalues, torch.tensor([[0.4, 1.0]], dtype=torch.float64).expand(2, 2))
    torch.testing.assert_close(pre.condition_number, torch.full((2,), 2.5, dtype=torch.float64))
    step = pre.matrix[0] @ torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(step, torch.tensor([0.7, -0.3], dtype=torch.float64))


def test_at_the_released_rate_the_preconditioner_overshoots():
    """Beyond the paper: at η = 0.4 on the released encoder I - ηH has negative eigenvalues under a zeroed head and
    under one of the released scale; at η = 0.1 a zeroed head has none."""
    g = torch.Generator().manual_seed(0)
    episode, encoder = encoders.random_episode(g), encoders.init_omniglot(g)
    support = encoders.omniglot(encoder, episode.support_x)

    def smallest(scale, lr):
        head = encoders.random_head(torch.Generator().manual_seed(0), 5, 64, bias=False, scale=scale)
        task = FeatureTask(support, episode.support_y, support, episode.support_y, head)
        return float(head_preconditioner(task, Inner(lr=lr)).eigenvalues.min())

    assert max(smallest(scale, 0.4) for scale in (0.0, 0.177)) < -0.1
    assert smallest(0.0, 0.1) > 0.1


@pytest.mark.parametrize("zeroed", [False, True])
def test_head_update_is_one_outer_step_of_gradient_descent(zeroed):
    """Eq. 5 against the reference's outer update, whose zeroing trick starts from and returns to a head of
    zeros."""
    case = make_case(4, bias=True, scale=0.0 if zeroed else 0.5)
    params, episode = as_params(case)
    expected = reference.outer_update(table, params, [episode], 0.3, 1, case.lr, "head", zeroed=zeroed).head
    got = head_update(case.task, case.inner(), outer_lr=0.3)
    if zeroed:
        assert float(got.weight.norm()) > 0
        got = reference.zero_head(params).head
    assert relative_error(got, expected) < EXACT
