"""Prototypes, cosine and ridge heads in the paper's terms: exact, without interference, beside zeroed-head MAML."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from feature_tasks import concatenate, draw_labels, many, relative_error
from metacontrast.errors import InputError
from metacontrast.theory import FeatureTask, build_task, split_built_gradient, split_feature_gradient, wrong_sign_share
from metacontrast.types import Head, Inner

# Sums and one solve of a few float64 numbers: 1e-14; 1e-12 leaves room.
EXACT = 1e-12
WAYS = 4
HEADS = ("prototype", "cosine", "ridge")
each_head = pytest.mark.parametrize("head", HEADS)


def make_task(seed, head, shots=None, size=6):
    """Features and labels; every class has a sample, as many as another only with `shots`."""
    g = torch.Generator().manual_seed(seed)
    t = torch.cat([torch.arange(WAYS), draw_labels(g, WAYS, 5)]) if shots is None else torch.arange(WAYS).repeat(shots)
    u = draw_labels(g, WAYS, 5)
    support, query = (torch.randn(len(y), size, generator=g, dtype=torch.float64) for y in (t, u))
    if head == "cosine":
        support, query = F.normalize(support, dim=1), F.normalize(query, dim=1)
    return support, t, query, u


def loss(support, t, query, u, head, scale, penalty):
    """The mean cross entropy as the three papers write it, one class at a time."""
    means = [support[t == k].mean(0) for k in range(WAYS)]
    if head == "prototype":
        outputs = torch.stack([-((query - mean) ** 2).sum(1) for mean in means], 1)
    elif head == "cosine":
        outputs = torch.stack([scale * query @ (mean / mean.norm()) for mean in means], 1)
    else:
        square = support.T @ support + penalty * torch.eye(support.shape[1], dtype=support.dtype)
        outputs = scale * query @ (torch.linalg.inv(square) @ support.T @ F.one_hot(t, WAYS).to(support))
    return F.cross_entropy(outputs, u)


@each_head
def test_the_parts_add_up_to_the_error_signal_at_every_feature(head):
    @many
    @given(st.integers(0, 2**31), st.floats(0.3, 5), st.floats(0.1, 10))
    def check(seed, scale, penalty):
        support, t, query, u = make_task(seed, head)
        support.requires_grad_()
        query.requires_grad_()
        expected = torch.autograd.grad(loss(support, t, query, u, head, scale, penalty), [support, query])
        parts = split_built_gradient(
            support.detach(), t, query.detach(), u, head, ways=WAYS, scale=scale, penalty=penalty
        )
        assert relative_error([parts.support, parts.query], expected) < EXACT
        assert not parts.interference.any()

    check()


@each_head
def test_every_row_is_a_sum_of_the_tasks_own_support_features(head):
    """So a query is pulled and pushed along these alone, with the weights c(q, s)."""
    support, t, query, u = make_task(0, head)
    task = build_task(support, t, query, u, head, ways=WAYS)
    parts = split_built_gradient(support, t, query, u, head, ways=WAYS)
    assert relative_error([task.weights @ support], [task.rows]) < EXACT
    for i in range(len(u)):
        signal = sum(task.coefficients[i, j] * support[j] for j in range(len(t))) / len(u)
        assert relative_error([parts.query[i]], [signal]) < EXACT
    for j in range(len(t)):
        signal = sum(task.coefficients[i, j] * query[i] for i in range(len(u))) / len(u)
        assert relative_error([parts.contrastive_support[j]], [signal]) < EXACT


def beside_maml(support, t, query, u, shots):
    """Second-order MAML with a head of zeros, without a bias, and one step of size 2K."""
    zero = Head(torch.zeros(WAYS, support.shape[1], dtype=torch.float64), None)
    return split_feature_gradient(FeatureTask(support, t, query, u, zero), Inner(lr=2.0 * WAYS, order="second"))


def of_equal_means(seed, shots):
    """A task whose class means have one length."""
    support, t, query, u = make_task(seed, "prototype", shots)
    means = torch.stack([support[t == k].mean(0) for k in range(WAYS)])
    return support / means.norm(dim=1)[t, None], t, query, u


@pytest.mark.parametrize("shots", [1, 3])
def test_a_protonet_is_zeroed_maml_with_one_step_but_for_the_bias(shots):
    """With class means of one length both have the same outputs and the same pull and push at both ends; a ProtoNet has
    beside them −2/n E_q[q_t − 1{t=u}] c_t, which draws a mean in or out along itself."""
    support, t, query, u = of_equal_means(0, shots)
    proto = split_built_gradient(support, t, query, u, "prototype", ways=WAYS)
    maml = beside_maml(support, t, query, u, shots)
    assert relative_error(proto[:3], maml[:3]) < EXACT
    assert not maml.head_curvature.any()
    task = build_task(support, t, query, u, "prototype", ways=WAYS)
    means = torch.stack([support[t == k].mean(0) for k in range(WAYS)])
    expected = -2 / shots * task.errors.mean(0)[t, None] * means[t]
    assert relative_error([proto.head_curvature], [expected]) < EXACT


def test_where_means_differ_in_length_the_two_differ():
    """The bias −|c_k|² counts in q: a theory that could not miss would say nothing."""
    task = make_task(0, "prototype", 1)
    proto, maml = split_built_gradient(*task, "prototype", ways=WAYS), beside_maml(*task, 1)
    assert relative_error(proto[:3], maml[:3]) > 0.05


def test_prototypes_attract_within_a_class_and_repel_between_classes():
    """Corollary 1 holds for ProtoNets and cosine heads; ridge regression mixes the coefficients and can break it."""
    shares = {}
    for head in HEADS:
        found = [make_task(seed, head, 3) for seed in range(20)]
        signs = [build_task(*each, head, ways=WAYS).coefficients for each in found]
        shares[head] = max(
            wrong_sign_share(each, task[3], task[1]).item() for each, task in zip(signs, found, strict=True)
        )
    assert shares["prototype"] == shares["cosine"] == 0
    assert shares["ridge"] > 0


@pytest.mark.parametrize(("penalty", "is_near"), [(1e8, True), (1.0, False)])
def test_a_ridge_head_with_a_large_penalty_is_one_step_of_squared_errors_from_zero(penalty, is_near):
    """w_k → α/λ Σ_{s: t=k} φ(s), the paper's Fig. 1 with η/|S| = α/λ, and c(q, s) → α/λ (q_t − 1{t=u})."""
    support, t, query, u = make_task(1, "ridge")
    task = build_task(support, t, query, u, "ridge", ways=WAYS, scale=0.5 * penalty, penalty=penalty)
    step = 0.5 * F.one_hot(t, WAYS).double().T @ support
    assert (relative_error([task.rows], [step]) < 1e-6) == is_near
    assert (relative_error([task.coefficients], [0.5 * task.errors[:, t]]) < 1e-6) == is_near


def test_a_ridge_head_is_where_squared_errors_with_weight_decay_end():
    """From a head of zeros, after many steps of ½ Σ |Wφ(s) − e_t|² + λ/2 |W|²: MAML's inner loop at its end."""
    support, t, query, u = make_task(2, "ridge")
    task = build_task(support, t, query, u, "ridge", ways=WAYS, penalty=0.7)
    head = torch.zeros_like(task.rows)
    rate = 1 / (torch.linalg.matrix_norm(support, 2) ** 2 + 0.7)
    for _ in range(3000):
        head = head - rate * ((head @ support.T - F.one_hot(t, WAYS).double().T) @ support + 0.7 * head)
    assert relative_error([task.rows], [head]) < EXACT


def test_what_no_head_is_built_from_is_refused():
    support, t, query, u = make_task(0, "prototype")
    with pytest.raises(InputError, match="some of the 9 classes have no sample"):
        build_task(support, t, query, u, "prototype", ways=9)
    with pytest.raises(InputError, match="labels run from 0 to 3, but 2 classes"):
        build_task(support, t, query, u, "ridge", ways=2)
    assert torch.isfinite(concatenate(split_built_gradient(support, t, query, u, "ridge", ways=9)))[0]
    with pytest.raises(InputError, match=r"penalty=0\.0, but it must be above 0"):
        build_task(support, t, query, u, "ridge", ways=WAYS, penalty=0.0)
    with pytest.raises(InputError, match="the features of a class sum to zero, which has no angle"):
        build_task(support * (t > 0)[:, None], t, query, u, "cosine", ways=WAYS)


def test_a_ridge_head_is_solved_in_half_precision_too():
    """To the rounding of the features, 2⁻⁸ in bfloat16, times the condition of XXᵀ + λI."""
    support, t, query, u = make_task(0, "ridge", 2)
    expected = build_task(support, t, query, u, "ridge", ways=WAYS, penalty=5.0).rows
    found = build_task(support.bfloat16(), t, query.bfloat16(), u, "ridge", ways=WAYS, penalty=5.0).rows
    assert found.dtype == torch.bfloat16
    assert relative_error(found.double(), expected) < 0.1


def test_what_cannot_be_a_task_of_a_built_head_is_one_line(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    support, t, query, u = make_task(0, "ridge")
    with pytest.raises(InputError, match="support images have 6 features and query images 5: take those of one"):
        build_task(support, t, query[:, :5], u, "ridge", ways=WAYS)
    with pytest.raises(InputError, match="must be above 0"):
        build_task(support, t, query, u, "ridge", ways=WAYS, penalty=torch.tensor(-1.0))
