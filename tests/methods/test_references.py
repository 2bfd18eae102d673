"""Every method against a slow, plain version in float64, written from its paper."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metacontrast.data.episodes import BalancedBatches
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, mean_task_gradient, meta_gradient
from metacontrast.maml.inner import adapt, learned_step_norms, trajectory
from metacontrast.methods import METHODS, annealed, conml, imaml, proximal, rates_and_norms, reptile
from metacontrast.methods.conml import added
from metacontrast.methods.first_order import conjugate_gradients
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.types import Episode, Inner, from_named, map_params, to_named
from once_squared import OnceSquared
from toy_images import numbered_images

# Hundreds of float64 terms: rounding is 1e-14.
NEAR = 1e-10
WAYS, SIZE, WIDTH = 3, 5, 4


def an_encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, 6), nn.Tanh(), nn.Linear(6, WIDTH))


def a_model(head, **options):
    return Model(an_encoder(), WAYS, WIDTH, head=head, **options)


def start(model, seed=0):
    """Every tensor random, whatever it starts from."""
    params = map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(seed)))
    g = torch.Generator().manual_seed(seed + 1)
    moved = map_params(lambda t: t + 0.3 * torch.randn(t.shape, generator=g, dtype=t.dtype), params)
    return moved._replace(head=params.head) if model.head == "zeroed" else moved


def a_batch(tasks=2, shots=2, queries=3, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(per_class):
        y = torch.arange(WAYS).repeat(per_class).expand(tasks, -1)
        return torch.randn(*y.shape, SIZE, generator=g, dtype=torch.float64) + y[..., None], y.clone()

    return Episode(*draw(shots), *draw(queries))


def features(named, x):
    """The encoder above, by hand; names as in `to_named`, with the prefix that a wrapper gives."""
    find = {name.removeprefix("encoder.").removeprefix("encoder."): t for name, t in named.items()}
    return torch.tanh(x @ find["0.weight"].T + find["0.bias"]) @ find["2.weight"].T + find["2.bias"]


class Distances(nn.Module):
    """Distances from learned points, of which PyTorch has no second derivative; scaled by a number."""

    def __init__(self, lacks_second):
        super().__init__()
        self.points, self.scale = nn.Parameter(torch.rand(WIDTH, SIZE).double()), nn.Parameter(torch.ones(()).double())
        self.lacks_second = lacks_second

    def forward(self, x):
        if self.lacks_second:
            return self.scale * torch.cdist(x, self.points)
        return self.scale * (x[:, None] - self.points).square().sum(2)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: Distances(True), "second derivative that PyTorch lacks"),
        (lambda: Squared(), "or imaml.* once_differentiable"),
    ],
)
def test_imaml_refuses_what_has_no_second_derivative(encoder, message):
    model = Model(encoder(), WAYS, WIDTH)
    params = model.init(torch.Generator())
    with pytest.raises(InputError, match=message):
        imaml(model, params, Episode(*(t[0] for t in a_batch(1))), Inner(2, 0.05))


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(SIZE, WIDTH).double()

    def forward(self, x):
        return OnceSquared.apply(self.layer(x))


def test_conml_takes_a_parameter_that_is_a_number():
    model = Model(Distances(False), WAYS, WIDTH)
    found, _ = conml(model, model.init(torch.Generator()), a_batch(), Inner(1, 0.01, order="second"))
    assert found.encoder["scale"].shape == ()
    assert found.encoder["scale"] != 0


def relative_error(found, expected):
    """Over all tensors at once, by name."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(each.square().sum() for each in expected.values())).sqrt().item()


def mean_gradient(loss, params, batch):
    """Of the mean over tasks of a loss of named parameters."""
    named = {name: t.detach().clone().requires_grad_() for name, t in to_named(params).items()}
    total = sum(loss(named, *task) for task in zip(*batch, strict=True)) / len(batch.support_y)
    found = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def prototype_loss(named, support_x, support_y, query_x, query_y):
    support, query = features(named, support_x), features(named, query_x)
    means = torch.stack([support[support_y == k].mean(0) for k in range(WAYS)])
    return F.cross_entropy(-(query[:, None] - means).square().sum(2), query_y)


def cosine_loss(named, support_x, support_y, query_x, query_y):
    support, query = (F.normalize(features(named, x), dim=1) for x in (support_x, query_x))
    means = torch.stack([support[support_y == k].mean(0) for k in range(WAYS)])
    return F.cross_entropy(named["extra.log_scale"].exp() * F.cosine_similarity(query[:, None], means, dim=2), query_y)


def ridge_loss(named, support_x, support_y, query_x, query_y):
    """The normal equations in the number of features."""
    support, query = features(named, support_x), features(named, query_x)
    square = support.T @ support + named["extra.log_penalty"].exp() * torch.eye(WIDTH).double()
    weight = torch.linalg.inv(square) @ support.T @ F.one_hot(support_y, WAYS).double()
    return F.cross_entropy(named["extra.log_scale"].exp() * query @ weight + named["extra.shift"], query_y)


HEAD_LOSSES = {"prototype": prototype_loss, "cosine": cosine_loss, "ridge": ridge_loss}


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("head", HEAD_LOSSES)
def test_heads_that_are_built_from_the_support_set(head, shots, engine):
    """ProtoNet, cosine and R2D2, with fewer images than features and with more; gradient through mean and solve."""
    model, batch = a_model(head), a_batch(shots=shots)
    params = start(model)
    gradient, metrics = meta_gradient(model, params, batch, Inner(steps=0), engine=Engine(engine))
    assert relative_error(to_named(gradient), mean_gradient(HEAD_LOSSES[head], params, batch)) < NEAR
    named, tasks = to_named(params), list(zip(*batch, strict=True))
    assert torch.allclose(metrics.loss, torch.stack([HEAD_LOSSES[head](named, *task) for task in tasks]), rtol=NEAR)
    if head == "ridge":
        assert gradient.extra["shift"].abs() < 1e-15  # a softmax does not see what all outputs share


@pytest.mark.parametrize("head", HEAD_LOSSES)
def test_such_heads_know_no_number_of_classes(head):
    params = start(a_model(head))
    model = a_model(head).with_ways(2)
    few = a_batch()
    keep = few.support_y[0] < 2
    adapted = model.start(params, few.support_x[0][keep], few.support_y[0][keep])
    assert adapted.head.weight.shape == (2, WIDTH)


def test_a_cosine_head_keeps_its_encoder_under_another_head():
    """Features of length 1 stay so when the head is zeroed at test; a model without them is refused."""
    model = a_model("cosine")
    params = start(model)
    found = model.with_head("zeroed").features(params.encoder, torch.randn(4, SIZE).double())
    assert torch.allclose(found.norm(dim=1), torch.ones(4).double())
    with pytest.raises(InputError, match="needs features of length 1"):
        a_model("zeroed").with_head("cosine")


def meta_sgd_loss(named, support_x, support_y, query_x, query_y):
    """Two steps, one rate for each parameter, through the gradients."""
    rates = {name.removeprefix("rates."): t for name, t in named.items() if name.startswith("rates.")}
    moved = {name: t for name, t in named.items() if name in rates}
    for _ in range(2):
        outputs = features(moved, support_x) @ moved["head.weight"].T + moved["head.bias"]
        slopes = torch.autograd.grad(F.cross_entropy(outputs, support_y), list(moved.values()), create_graph=True)
        moved = {name: t - rates[name][0] * g for (name, t), g in zip(moved.items(), slopes, strict=True)}
    return F.cross_entropy(features(moved, query_x) @ moved["head.weight"].T + moved["head.bias"], query_y)


def test_meta_sgd():
    model, batch = a_model("learned"), a_batch()
    config = with_fields(TrainConfig(inner_steps=2, inner_lr=0.1, order="second"), method="meta-sgd")
    params = start(model)
    params = map_params(
        torch.Tensor.double, METHODS["meta-sgd"].start(model, params, config.inner(), torch.Generator(), 0)
    )
    gradient, _ = meta_gradient(model, params, batch, config.inner())
    assert relative_error(to_named(gradient), mean_gradient(meta_sgd_loss, params, batch)) < NEAR


def conml_losses(named, batch, steps, weight, scope="all"):
    """Of every task, one after the other; e is what `steps` steps of 0.1 add, in one row."""

    def adapted(x, y):
        moved = {name: t for name, t in named.items() if not name.startswith("extra")}
        moves = [name for name in moved if scope == "all" or name.startswith(scope)]
        for _ in range(steps):
            outputs = features(moved, x) @ moved["head.weight"].T + moved["head.bias"]
            loss = F.cross_entropy(outputs, y)
            slopes = torch.autograd.grad(
                loss, [moved[name] for name in moves], None, True, True, materialize_grads=True
            )
            moved = moved | {name: moved[name] - 0.1 * g for name, g in zip(moves, slopes, strict=True)}
        return moved, torch.cat([(moved[name] - named[name]).flatten() for name in moves])

    losses, support, whole = [], [], []
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
        moved, added = adapted(support_x, support_y)
        losses.append(F.cross_entropy(features(moved, query_x) @ moved["head.weight"].T + moved["head.bias"], query_y))
        support.append(added)
        whole.append(adapted(torch.cat([support_x, query_x]), torch.cat([support_y, query_y]))[1])

    def distance(one, other):
        return 1 - one @ other / (one.norm() * other.norm())

    tasks = range(len(losses))
    between = [sum(distance(whole[t], whole[u]) for u in tasks if u != t) / (len(losses) - 1) for t in tasks]
    return [losses[t] + weight * (distance(support[t], whole[t]) - between[t]) for t in tasks]


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("scope", ["all", "head", "encoder"])
@pytest.mark.parametrize("head", ["learned", "zeroed"])
def test_conml(head, scope, steps, tasks):
    """The gradient of the sum over tasks; of a head of zeros, which is not learned, there is none."""
    if (head, scope) == ("zeroed", "encoder"):
        pytest.skip("nothing moves")
    model, batch = a_model(head), a_batch(tasks)
    params, inner = start(model), Inner(steps, 0.1, scope, "second")
    found, metrics = conml(model, params, batch, inner, contrast_weight=0.7)
    named = {name: t.detach().clone().requires_grad_() for name, t in to_named(params).items()}
    total = sum(conml_losses(named, batch, steps, 0.7, scope))
    slopes = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    learned = {name: g for name, g in zip(named, slopes, strict=True) if head == "learned" or "head" not in name}
    found = {name: g for name, g in to_named(found).items() if name in learned}
    assert relative_error(found, learned) < NEAR
    plain = sum(conml_losses(named, batch, steps, 0.0, scope)).item()
    assert metrics.loss.sum().item() == pytest.approx(plain, rel=NEAR)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_conml_with_batch_norm_adapts_every_task_alone(norm):
    """Tasks together against tasks one by one, each adapted to its support images and to all of them."""
    encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, WIDTH))
    model, g = Model(encoder, WAYS, WIDTH, norm=norm), torch.Generator().manual_seed(3)
    params, inner = start(model), Inner(2, 0.1, order="second")
    y = torch.arange(WAYS).repeat(2).expand(3, -1)
    batch = Episode(*(t for _ in range(2) for t in (torch.randn(3, 6, 1, 4, 4, generator=g).double(), y.clone())))
    found, _ = conml(model, params, batch, inner, contrast_weight=0.7)
    named = {name: t.detach().clone().requires_grad_() for name, t in to_named(params).items()}
    leaves, losses, support, whole = from_named(params, named), [], [], []
    for x, labels, asked, wanted in zip(*batch, strict=True):
        moved = adapt(model, leaves, x, labels, inner)
        both = adapt(model, leaves, torch.cat([x, asked]), torch.cat([labels, wanted]), inner)
        losses.append(F.cross_entropy(model.query_logits(moved, x, asked), wanted))
        for each, rows in ((moved, support), (both, whole)):
            rows.append(torch.cat([(t - named[name]).flatten() for name, t in to_named(each).items()]))
    alike = [[F.cosine_similarity(a, b, dim=0) for b in whole] for a in whole]
    within = [1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(support, whole, strict=True)]
    between = [sum(1 - alike[t][u] for u in range(3) if u != t) / 2 for t in range(3)]
    total = sum(losses) + 0.7 * (sum(within) - sum(between))
    slopes = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    assert relative_error(to_named(found), dict(zip(named, slopes, strict=True))) < NEAR


def test_conml_in_pairs_is_the_mean_over_pairs():
    """As `train` follows it: four tasks, of which two are compared with each other."""
    model, batch, inner = a_model("learned"), a_batch(4), Inner(1, 0.1, order="second")
    params = start(model)
    found, metrics = mean_task_gradient(conml, model, params, batch, inner, tasks_at_once=2)
    pairs = [conml(model, params, Episode(*(t[part] for t in batch)), inner)[0] for part in ([0, 1], [2, 3])]
    expected = {name: (g + to_named(pairs[1])[name]) / 4 for name, g in to_named(pairs[0]).items()}
    assert relative_error(to_named(found), expected) < NEAR
    assert metrics.loss.shape == (4,)


def test_from_a_head_of_zeros_conml_contrasts_class_means():
    """One step adds η/|D| Σ_s (1{t=k} − 1/K) φ(s) to row k: the models of its objective are those sums."""
    model, batch = a_model("zeroed"), a_batch(3)
    params, inner = start(model), Inner(1, 0.1, order="second")

    def sums(x, y):
        signs = F.one_hot(y, WAYS).double() - 1 / WAYS
        found = model.features(params.encoder, x)
        return torch.cat([(0.1 / len(y) * signs.T @ found).flatten(), 0.1 * signs.mean(0)])

    support = torch.stack([sums(x, y) for x, y, *_ in zip(*batch, strict=True)])
    both = [(torch.cat([x, q]), torch.cat([y, u])) for x, y, q, u in zip(*batch, strict=True)]
    whole = torch.stack([sums(x, y) for x, y in both])
    for expected, images in ((support, batch[:2]), (whole, [torch.stack(each) for each in zip(*both, strict=True)])):
        first, last = trajectory(model, params, *images, inner)
        assert torch.allclose(added(model, first, last), expected, rtol=1e-12, atol=1e-14)


# Controls


def a_labelled_batch(images=10, classes=4, seed=0):
    """A batch as the query set of a task without a support set; two images of every class, of one of them four."""
    g = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3, 3])
    x = torch.randn(images, SIZE, generator=g, dtype=torch.float64) + y[:, None]
    return Episode(x[:0][None], y[:0][None], x[None], y[None])


def supervised_loss(named, support_x, support_y, query_x, query_y):
    outputs = features(named, query_x) @ named["extra.classifier.weight"].T + named["extra.classifier.bias"]
    return F.cross_entropy(outputs, query_y)


def supervised_cosine_loss(named, support_x, support_y, query_x, query_y):
    found = features(named, query_x)
    rows = named["extra.classifier.weight"]
    outputs = named["extra.log_scale"].exp() * F.cosine_similarity(found[:, None], rows[None], dim=2)
    return F.cross_entropy(outputs, query_y)


def supcon_loss(named, support_x, support_y, query_x, query_y):
    """Eq. 2 of the paper, one anchor and one positive at a time."""
    z = F.normalize(features(named, query_x), dim=1)
    scale, total = named["extra.log_scale"].exp(), 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        whole = torch.stack([(scale * z[i] @ z[a]).exp() for a in others]).sum()
        positives = [p for p in others if query_y[p] == query_y[i]]
        total -= sum(((scale * z[i] @ z[p]).exp() / whole).log() for p in positives) / len(positives)
    return total / len(z)


CONTROLS = {
    "supervised": ("prototype", supervised_loss),
    "supervised-cosine": ("cosine", supervised_cosine_loss),
    "supcon": ("cosine", supcon_loss),
}


@pytest.mark.parametrize("method", CONTROLS)
def test_controls_on_batches_of_all_classes(method):
    head, loss = CONTROLS[method]
    model, batch = a_model(head), a_labelled_batch()
    params = start(model)
    if METHODS[method].start:
        params = METHODS[method].start(model, params, Inner(), torch.Generator().manual_seed(3), 4)
    gradient, metrics = mean_task_gradient(METHODS[method].gradient, model, params, batch, Inner())
    assert relative_error(to_named(gradient), mean_gradient(loss, params, batch)) < NEAR
    assert torch.allclose(metrics.loss, loss(to_named(params), *(t[0] for t in batch)), rtol=NEAR)


def test_a_batch_has_classes_in_equal_shares():
    """As many classes as give two images each, or all; equal numbers give equal batches, whoever asks."""
    images = numbered_images([8] * 6, size=4)
    for size, classes in ((8, 4), (11, 5), (20, 6)):
        batches = BalancedBatches(images, size, seed=1)
        found = batches.batch([3, 4, 5])
        assert found.support_y.shape == (3, 0)
        for x, y in zip(found.query_x, found.query_y, strict=True):
            counts = torch.bincount(y, minlength=6)
            assert (counts > 0).sum() == classes
            assert counts[counts > 0].max() - counts[counts > 0].min() <= 1
            assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), y)  # the left half of an image is its class
            assert len({tuple(image.flatten().tolist()) for image in x}) == size
        assert torch.equal(batches.batch([4]).query_x[0], found.query_x[1])
    with pytest.raises(
        InputError, match="class 'class0' has 8 images, but a batch of 60 takes 10: make batches smaller"
    ):
        BalancedBatches(images, 60)
    with pytest.raises(InputError, match="make no batch of two classes with two images each"):
        BalancedBatches(images, 3)


# Without a gradient through the inner steps


def outputs_of(named, x):
    return features(named, x) @ named["head.weight"].T + named["head.bias"]


def test_reptile():
    """Two steps, the first on the images 0, 2, 4 … of the task sorted by class, the second on 1, 3, 5 …"""
    model, batch = a_model("learned"), a_batch(tasks=1)
    params = start(model)
    gradient, _ = mean_task_gradient(reptile, model, params, batch, Inner(2, 0.3))
    named, (support_x, support_y, query_x, query_y) = to_named(params), (t[0] for t in batch)
    images = [
        (x, k) for k in range(WAYS) for xs, ys in ((support_x, support_y), (query_x, query_y)) for x in xs[ys == k]
    ]
    moved = {name: t.clone() for name, t in named.items()}
    for part in (images[::2], images[1::2]):
        x, y = torch.stack([x for x, _ in part]), torch.tensor([k for _, k in part])
        leaves = {name: t.requires_grad_() for name, t in moved.items()}
        slopes = torch.autograd.grad(F.cross_entropy(outputs_of(leaves, x), y), list(leaves.values()))
        moved = {name: (t - 0.3 * g).detach() for (name, t), g in zip(leaves.items(), slopes, strict=True)}
    expected = {name: named[name] - moved[name] for name in named}
    assert relative_error(to_named(gradient), expected) < NEAR


def flat(named):
    return torch.cat([t.flatten() for t in named.values()])


def dense_implicit_gradient(named, task, steps, lr, penalty):
    """The proximal inner loop by hand, the whole Hessian at its end, and the linear system as a matrix."""
    support_x, support_y, query_x, query_y = task
    shapes = {name: t.shape for name, t in named.items()}

    def unflatten(vector):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def support_loss(vector):
        return F.cross_entropy(outputs_of(unflatten(vector), support_x), support_y)

    first = end = flat(named)
    for _ in range(steps):
        slope = torch.autograd.functional.jacobian(support_loss, end)
        end = end - lr * (slope + penalty * (end - first))
    hessian = torch.autograd.functional.hessian(support_loss, end)
    slope = torch.autograd.functional.jacobian(
        lambda vector: F.cross_entropy(outputs_of(unflatten(vector), query_x), query_y), end
    )
    return unflatten(torch.linalg.solve(torch.eye(len(end)).double() + hessian / penalty, slope))


@pytest.mark.parametrize(("cg_steps", "error"), [(60, NEAR), (2, None)])
def test_imaml_is_the_dense_solve(cg_steps, error):
    """With enough conjugate gradients; two of them miss."""
    model, batch = a_model("learned"), a_batch(tasks=1)
    params = start(model)
    task = [t[0] for t in batch]
    expected = dense_implicit_gradient(to_named(params), task, 5, 0.1, 3.0)
    gradient, _ = mean_task_gradient(
        partial(imaml, penalty=3.0, cg_steps=cg_steps), model, params, batch, Inner(5, 0.1)
    )
    found = relative_error(to_named(gradient), expected)
    assert found > 1e-3 if error is None else found < error


def test_conjugate_gradients_stop_where_the_matrix_is_not_positive():
    """At the last point on the way that is certain, in place of a step to a maximum."""
    matrix, wanted = torch.diag(torch.tensor([2.0, -1.0]).double()), {"x": torch.tensor([1.0, 0.5]).double()}
    found = conjugate_gradients(lambda named: {"x": matrix @ named["x"]}, wanted, 5)
    first = 1.25 / 1.75 * wanted["x"]  # (gᵀg / gᵀAg) g
    assert torch.allclose(found["x"], first)
    solved = conjugate_gradients(lambda named: {"x": matrix.abs() @ named["x"]}, wanted, 5)
    assert torch.allclose(solved["x"], torch.tensor([0.5, 0.5]).double())
    never = conjugate_gradients(lambda named: {"x": -named["x"]}, wanted, 5)  # steepest descent in place of no step
    assert torch.equal(never["x"], wanted["x"])


def test_a_pull_that_overshoots_its_start_is_refused():
    """Each step would multiply the distance to the start by |1 − ηλ| ≥ 1."""
    proximal(Inner(5, 0.5), 3.9)
    with pytest.raises(InputError, match=r"inner steps of size 0\.5 under penalty=4 overshoot"):
        proximal(Inner(5, 0.5), 4.0)


def test_the_pull_back_to_the_start_is_that_of_a_penalty():
    """Adapting by `proximal` is gradient descent on loss + λ/2 |φ − θ|², in evaluation as in training."""
    model, batch = a_model("learned"), a_batch(tasks=1)
    params = start(model)
    adapted = adapt(model, params, batch.support_x[0], batch.support_y[0], proximal(Inner(3, 0.2), 0.7))
    named = first = to_named(params)
    for _ in range(3):
        leaves = {name: t.detach().requires_grad_() for name, t in named.items()}
        pulled = sum((leaves[name] - first[name]).square().sum() for name in first) * 0.7 / 2
        loss = F.cross_entropy(outputs_of(leaves, batch.support_x[0]), batch.support_y[0]) + pulled
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        named = {name: t - 0.2 * g for (name, t), g in zip(leaves.items(), slopes, strict=True)}
    assert relative_error(to_named(adapted), named) < NEAR


# MAML++


def normed_encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())


def normed_features(named, x):
    z = x @ named["encoder.0.weight"].T + named["encoder.0.bias"]
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    return torch.tanh(z * named["encoder.1.weight"] + named["encoder.1.bias"])


NORMS = ("encoder.1.weight", "encoder.1.bias")


def mamlpp_loss(weights, second):
    """Three steps; rates per tensor and step, norms that belong to a step, the query loss after every step."""

    def loss(named, support_x, support_y, query_x, query_y):
        moving = [n for n in named if n.startswith(("encoder.0", "head"))]
        now = {name: t for name, t in named.items() if name.startswith(("encoder.", "head"))}
        total = 0.0
        for step in range(3):
            outputs = normed_features(now, support_x) @ now["head.weight"].T + now["head.bias"]
            inner_loss = F.cross_entropy(outputs, support_y)
            slopes = torch.autograd.grad(inner_loss, [now[n] for n in moving], create_graph=True)
            slopes = slopes if second else [g.detach() for g in slopes]
            moved = {n: now[n] - named[f"rates.{n}"][step] * g for n, g in zip(moving, slopes, strict=True)}
            norms = {n: named[f"extra.steps.{n.removeprefix('encoder.')}"][step] for n in NORMS}
            now = now | moved | norms
            outputs = normed_features(now, query_x) @ now["head.weight"].T + now["head.bias"]
            total = total + weights[step] * F.cross_entropy(outputs, query_y)
        return total

    return loss


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize(
    ("share", "weights", "second"),
    [
        (0.0, (1 / 3, 1 / 3, 1 / 3), False),
        (0.075, (1 / 6, 1 / 6, 2 / 3), False),
        (0.3, (0, 0, 1), False),
        (0.5, (0, 0, 1), True),
    ],
)
def test_mamlpp(share, weights, second, engine):
    model, batch = Model(normed_encoder(), WAYS, WIDTH), a_batch()
    inner = Inner(3, 0.1, order="second")
    params = rates_and_norms(model, start(model), inner)
    g = torch.Generator().manual_seed(5)
    params = map_params(lambda t: t + 0.05 * torch.randn(t.shape, generator=g, dtype=t.dtype), params)
    assert set(params.extra) == {"steps.1.weight", "steps.1.bias"}
    assert not {f"rates.{name}" for name in NORMS} & set(to_named(params))
    gradient, _ = meta_gradient(model, params, batch, annealed(inner, share), engine=Engine(engine))
    expected = mean_gradient(mamlpp_loss(weights, second), params, batch)
    assert relative_error(to_named(gradient), expected) < NEAR


def test_from_a_head_of_zeros_the_first_step_still_changes_the_norms():
    """So the support features of the start cannot be those of the second step, as they are without such norms."""
    model, batch = Model(normed_encoder(), WAYS, WIDTH, head="zeroed"), a_batch(tasks=1)
    inner = Inner(2, 0.1)
    params = learned_step_norms(model, start(model), inner)
    params = params._replace(extra={name: t + 0.5 for name, t in params.extra.items()})
    adapted = adapt(model, params, batch.support_x[0], batch.support_y[0], inner)
    named = {name: t for name, t in to_named(params).items() if name.startswith(("encoder", "head"))}
    for step in range(2):
        leaves = {name: t.detach().requires_grad_() for name, t in named.items()}
        outputs = normed_features(leaves, batch.support_x[0]) @ leaves["head.weight"].T + leaves["head.bias"]
        slopes = torch.autograd.grad(F.cross_entropy(outputs, batch.support_y[0]), list(leaves.values()))
        named = {name: t - 0.1 * g for (name, t), g in zip(leaves.items(), slopes, strict=True)}
        named |= {name: params.extra[f"steps.{name.removeprefix('encoder.')}"][step] for name in NORMS}
    found = {name: t for name, t in to_named(adapted).items() if name in named}
    assert relative_error(found, named) < NEAR
    with pytest.raises(InputError, match="need an encoder that adapts: use scope='all'"):
        adapt(model, params, batch.support_x[0], batch.support_y[0], Inner(2, 0.1, "head"))
