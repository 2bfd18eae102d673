"""MAML without an inner loop: the reformulated losses have MAML's gradient, and train to the same
parameters."""

import pytest
import torch
from hypothesis import given

import encoders_plain as encoders
import reference
from feature_tasks import cases, make_case, many, relative_error
from metacontrast.theory import (
    FeatureTask,
    adapted_heads,
    contrastive_loss,
    head_gradient,
    split_encoder_gradient,
    split_feature_gradient,
    zeroed_coefficients,
)
from metacontrast.types import Inner, Params

# Rounding of a few hundred float64 terms is 1e-15; 1e-12 leaves room for cancellation between the terms.
EXACT = 1e-12
SECOND = Inner(lr=0.1, order="second")
with_and_without_bias = pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])


def feature_task(features, params, episode):
    support, query = (features(params.encoder, x) for x in (episode.support_x, episode.query_x))
    return FeatureTask(support, episode.support_y, query, episode.query_y, params.head)


def encoder_gradient(features, params, episode, inner, **dropped):
    encoder = reference.leaves(params).encoder
    loss = contrastive_loss(feature_task(features, params._replace(encoder=encoder), episode), inner, **dropped)
    return reference.gradients(loss, encoder)


def released(seed: int, bias: bool = False, scale: float = 0.3):
    g = torch.Generator().manual_seed(seed)
    encoder = encoders.init_omniglot(g)
    return Params(encoder, encoders.random_head(g, 5, 64, bias, scale)), encoders.random_episode(g)


@with_and_without_bias
@pytest.mark.parametrize("scale", [0.3, 0.0], ids=["random head", "zeroed head"])
@pytest.mark.parametrize(
    ("order", "steps"),
    [("first", 1), ("first", 3), ("second", 1)],
    ids=["Eq. 7/8", "Eq. 22", "Eq. 14/16 completed"],
)
def test_the_loss_has_the_whole_encoder_gradient_of_maml(order, steps, scale, bias):
    """Eq. 7, 8, 14 with δ(s), 16 and 22 with its sign mended, on every tensor of the released encoder."""
    params, episode = released(steps, bias, scale)
    got = encoder_gradient(encoders.omniglot, params, episode, Inner(steps, 0.1, order=order))
    expected = reference.task_meta_gradient(encoders.omniglot, params, episode, steps, 0.1, "head", order).encoder
    assert relative_error(got, expected) < EXACT


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_zeroed_head_leaves_the_contrastive_loss_of_the_zeroing_trick(order):
    """Value of Eq. 8 / 15 and 16, written out: η E_q E_s[(q_t - 1{t=u}) φ(s)ᵀφ(q)]; rounding."""
    case = make_case(11, scale=0.0)
    adapted = adapted_heads(case.task, case.inner())[-1]
    q = (case.query @ adapted.weight.T).softmax(-1)
    c = zeroed_coefficients(q, case.query_y, case.support_y)
    expected = case.lr * sum(
        c[i, j] * (case.support[j] @ case.query[i]) for i in range(len(c)) for j in range(c.shape[1])
    )
    got = contrastive_loss(case.task, case.inner(order))
    assert relative_error([got], [expected / c.numel()]) < EXACT


@many
@given(cases)
def test_the_loss_and_the_split_say_the_same(case):
    """Gradient of the loss at the features = the split's error signals, for random tasks and heads;
    rounding."""
    for order, steps in (("first", case.steps), ("second", 1)):
        live = case.support.clone().requires_grad_(), case.query.clone().requires_grad_()
        inner = case.inner(order, steps)
        loss = contrastive_loss(case.task._replace(support=live[0], query=live[1]), inner)
        got = torch.autograd.grad(loss, live, allow_unused=True, materialize_grads=True)
        parts = split_feature_gradient(case.task, inner)
        assert relative_error(got, [parts.support, parts.query]) < EXACT


@pytest.mark.parametrize(
    ("dropped", "missing"),
    [("drop_interference", ["interference"]), ("drop_head_curvature", ["head_curvature"])],
)
def test_a_switch_drops_its_part_and_no_other(dropped, missing):
    """Fig. 9's "ITF" and the step from the completed to the printed Eq. 14, against the split; rounding."""
    params, episode = released(5)
    parts = split_encoder_gradient(encoders.omniglot, params, episode, SECOND)
    kept = [part for name, part in parts._asdict().items() if name not in missing]
    expected = {name: sum(part[name] for part in kept) for name in parts.total}
    got = encoder_gradient(encoders.omniglot, params, episode, SECOND, **{dropped: True})
    assert relative_error(got, expected) < EXACT


@pytest.mark.parametrize("steps", [1, 3])
def test_dropping_the_noise_leaves_the_zeroed_coefficients_with_the_true_query_outputs(steps):
    """Fig. 9's "nCTT": c becomes q_t - 1{t=u} per step while q still sees the random head; rounding."""
    case = make_case(12, steps=steps)
    adapted = adapted_heads(case.task, case.inner())[-1]
    c = zeroed_coefficients((case.query @ adapted.weight.T).softmax(-1), case.query_y, case.support_y)
    query = case.query.clone().requires_grad_()
    task = case.task._replace(query=query)
    loss = contrastive_loss(task, case.inner(), drop_interference=True, drop_noise=True)
    (got,) = torch.autograd.grad(loss, query)
    assert relative_error([got], [steps * case.lr / c.numel() * c @ case.support]) < EXACT


def test_the_loss_gives_the_head_no_gradient():
    """w^0 stands under stop-gradient, Eq. 7: the head has its own update, Eq. 5."""
    case = make_case(13, bias=True)
    params = reference.leaves(Params({"query": case.query}, case.head))
    task = case.task._replace(query=params.encoder["query"], head=params.head)
    loss = contrastive_loss(task, case.inner("second"))
    grads = torch.autograd.grad(loss, list(params.head), allow_unused=True)
    assert grads == (None, None)


def train(gradient, params: Params, tasks, zeroed: bool) -> Params:
    """Adam on MAML's parameters; with the trick the head is zeroed after each update and keeps its
    moments."""
    params = reference.leaves(reference.zero_head(params) if zeroed else params)
    flat = reference.flatten(params)
    optimizer = torch.optim.Adam(flat.values(), lr=1e-3)
    for task in tasks:
        grads = reference.flatten(gradient(reference.unflatten(flat), task))
        for name, tensor in flat.items():
            tensor.grad = grads[name]
        optimizer.step()
        if zeroed:
            for name in ("head/weight", "head/bias"):
                flat[name].data.zero_()
    return reference.unflatten(flat)


def distance_after_fifty_updates(order: str, steps: int, zeroed: bool, scope: str = "head", **switches: bool) -> float:
    """Relative distance of the parameters that MAML and its reformulation reach from one start on the same tasks."""
    g = torch.Generator().manual_seed(steps)
    start = encoders.random_params(g, encoders.init_omniglot(g, width=4), 3, 4, bias=True)
    tasks = [encoders.random_episode(g, ways=3) for _ in range(50)]
    inner = Inner(steps, 0.1, order=order)

    def maml(params, task):
        return reference.task_meta_gradient(encoders.omniglot, params, task, steps, 0.1, scope, order)

    def reformulated(params, task):
        head = head_gradient(feature_task(encoders.omniglot, params, task), inner)
        return Params(encoder_gradient(encoders.omniglot, params, task, inner, **switches), head)

    ends = [reference.flatten(train(gradient, start, tasks, zeroed)) for gradient in (maml, reformulated)]
    assert relative_error(ends[0], reference.flatten(start)) > 1e-2
    return relative_error(ends[1], ends[0])


@pytest.mark.parametrize("zeroed", [False, True], ids=["learned head", "zeroing trick"])
@pytest.mark.parametrize(("order", "steps"), [("first", 1), ("first", 3), ("second", 1)])
def test_maml_and_its_reformulation_stay_together_for_fifty_updates(order, steps, zeroed):
    """Fig. 8. Adam divides by the gradient's size and can so magnify rounding: 1e-9 after fifty updates, not 1e-12."""
    assert distance_after_fifty_updates(order, steps, zeroed) < 1e-9


@pytest.mark.parametrize("order", ["first", "second"])
def test_with_the_zeroing_trick_and_one_step_ordinary_maml_is_the_contrastive_loss(order):
    """Beyond the paper: the whole network adapts, and training is still Eq. 8 or 16; a kept head leads elsewhere."""
    assert distance_after_fifty_updates(order, 1, zeroed=True, scope="all") < 1e-9
    assert distance_after_fifty_updates(order, 1, zeroed=False, scope="all") > 1e-3


@pytest.mark.parametrize("switch", ["drop_interference", "drop_noise", "drop_head_curvature"])
def test_a_dropped_term_leads_elsewhere(switch):
    """The control of the test above, and Fig. 9: a million times its tolerance. Eq. 14 as printed drifts away too."""
    assert distance_after_fifty_updates("second", 1, zeroed=False, **{switch: True}) > 1e-3
