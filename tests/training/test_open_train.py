"""`train` with any model, tasks, optimizer, schedule and transform: the algorithm as written, and exact resuming."""

import itertools
import json
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import small_run
from classifier_kit import grey_images, write_folder
from metacontrast.cli.main import run as command
from metacontrast.data.augment import Augmentation
from metacontrast.data.catalog import load_evaluation_split
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.errors import InputError
from metacontrast.maml.engine import meta_gradient
from metacontrast.maml.inner import learned_rates
from metacontrast.maml.outer import loss_gradient
from metacontrast.methods import conml, contrastive, imaml, reptile
from metacontrast.model.model import Model
from metacontrast.training import train_run as train_run_module
from metacontrast.training.checkpoint import TrainState, load, save
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.records import read_records
from metacontrast.training.run import RunDirectory, load_params, load_run, open_run
from metacontrast.training.train import train
from metacontrast.training.train_run import initial_state
from metacontrast.types import Episode, Inner, map_params, to_tensors
from small_run import SMALL
from toy_images import noisy_images

IMAGES = noisy_images(seed=0)
TASKS = EpisodeSampler(IMAGES, 3, 1, 3)
INNER = Inner(2, 0.1)


def a_model(head="learned", ways=3):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 6), nn.Softplus())
    return Model(encoder, ways, 6, head=head)


def start(model):
    return map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(1)))


class DoubleTasks:
    """A task source that is no `EpisodeSampler`, in float64."""

    def __init__(self, tasks=TASKS):
        self.tasks, self.asked = tasks, []

    def batch(self, indices):
        self.asked.append(list(indices))
        found = self.tasks.batch(indices)
        return Episode(found.support_x.double(), found.support_y, found.query_x.double(), found.query_y)


def by_hand(model, params, updates, optimizer, schedule=None, clip=None, inner=lambda update: INNER, batch=2):
    """Algorithm 1 and 3 from `meta_gradient` and PyTorch's own pieces."""
    params = map_params(torch.clone, params)
    tensors = to_tensors(params)
    optimizer = optimizer(tensors)
    schedule = schedule and schedule(optimizer)
    for update in range(updates):
        tasks = DoubleTasks().batch(range(update * batch, (update + 1) * batch))
        gradient, _ = meta_gradient(model, params, tasks, inner(update))
        for tensor, part in zip(tensors, to_tensors(gradient), strict=True):
            tensor.grad = part
        if clip:
            nn.utils.clip_grad_norm_(tensors, clip)
        optimizer.step()
        if schedule:
            schedule.step()
        if model.head == "zeroed":
            params.head.weight.zero_()
            params.head.bias.zero_()
    return params


def assert_same(one, two):
    for a, b in zip(to_tensors(one), to_tensors(two), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


OPTIMIZERS = {
    "sgd": lambda tensors: torch.optim.SGD(tensors, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda tensors: torch.optim.AdamW(tensors, lr=0.01, weight_decay=0.1),
}
SCHEDULES = {
    "none": None,
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 5),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda update: 1 / (1 + update)),
}


@pytest.mark.parametrize("head", ["learned", "zeroed"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_algorithm_with_any_optimizer_and_schedule(optimizer, schedule, head):
    """To 1e-12 in float64, tasks u·B … u·B + B − 1 in update u, with clipping."""
    model, tasks = a_model(head), DoubleTasks()
    kinds = OPTIMIZERS[optimizer], SCHEDULES[schedule]
    options = {"optimizer": kinds[0], "schedule": kinds[1], "clip_norm": 0.05}
    params = train(model, tasks, INNER, updates=4, meta_batch=2, params=start(model), **options)
    assert_same(params, by_hand(model, start(model), 4, *kinds, clip=0.05))
    assert tasks.asked == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert bool(params.head.weight.any()) == (head == "learned")


def test_an_inner_loop_may_change_on_the_way():
    """First order at first and second order later on, as MAML++ does."""
    model = a_model()

    def inner(update):
        return Inner(2, 0.1, order="first" if update < 2 else "second")

    params = train(
        model, DoubleTasks(), inner, updates=4, meta_batch=2, params=start(model), optimizer=OPTIMIZERS["sgd"]
    )
    assert_same(params, by_hand(model, start(model), 4, OPTIMIZERS["sgd"], inner=inner))


MORE_SCHEDULES = {
    "steps": lambda optimizer: MultiStepLR(optimizer, [1, 4], gamma=0.1),
    "one cycle, which moves betas too": lambda optimizer: OneCycleLR(optimizer, 0.1, 8),
    "one after the other": lambda optimizer: SequentialLR(
        optimizer, [ExponentialLR(optimizer, 0.9), MultiStepLR(optimizer, [1], gamma=0.1)], [3]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES | MORE_SCHEDULES)
def test_a_stopped_training_goes_on_bit_for_bit(schedule, tmp_path):
    """Learned rates, moments and schedule included, whether stopped by `on_update` or by a lower number of updates."""
    model = a_model("zeroed")
    first = learned_rates(model, start(model), INNER)
    options = {
        "meta_batch": 2,
        "optimizer": OPTIMIZERS["adamw"],
        "schedule": (SCHEDULES | MORE_SCHEDULES)[schedule],
        "params": first,
        "checkpoint_every": 2,
    }
    whole = train(model, DoubleTasks(), INNER, updates=5, **options)
    train(model, DoubleTasks(), INNER, updates=5, out=tmp_path / "run", **options, on_update=lambda done, *_: done == 3)
    resumed = train(model, DoubleTasks(), INNER, updates=5, out=tmp_path / "run", resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(whole), to_tensors(resumed), strict=True))
    loaded = load_params(tmp_path / "run", first)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(whole), to_tensors(loaded), strict=True))


class Slowing(torch.optim.Optimizer):
    """Steps that become shorter by a number beside the tensors, and by one of the group."""

    def __init__(self, tensors, lr=0.1):
        super().__init__(tensors, {"lr": lr, "done": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["done"] += 1
            for tensor in group["params"]:
                state = self.state[tensor]
                state["count"] = state.get("count", 0) + 1
                tensor.sub_(tensor.grad * group["lr"] / (state["count"] + group["done"]))


def test_what_an_optimizer_holds_beside_tensors_goes_on(tmp_path):
    model = a_model()
    options = {"meta_batch": 2, "optimizer": Slowing, "params": start(model), "out": tmp_path / "run"}
    train(model, DoubleTasks(), INNER, updates=2, **options)
    resumed = train(model, DoubleTasks(), INNER, updates=4, resume=True, **options)
    whole = train(model, DoubleTasks(), INNER, updates=4, **options | {"out": None})
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(whole), to_tensors(resumed), strict=True))
    with pytest.raises(InputError, match="of a training with another optimizer or schedule"):
        train(model, DoubleTasks(), INNER, updates=5, resume=True, **options | {"optimizer": OPTIMIZERS["sgd"]})
    with pytest.raises(InputError, match="holds a training of 4 updates, more than updates=3"):
        train(model, DoubleTasks(), INNER, updates=3, resume=True, **options)


def test_a_state_of_an_earlier_version_goes_on_or_is_refused(tmp_path):
    """It has the optimizer's tensors, which is all where there is no schedule."""
    model, file = a_model(), tmp_path / "run" / "state.safetensors"
    options = {"meta_batch": 2, "params": start(model)}
    train(model, DoubleTasks(), INNER, updates=2, out=tmp_path / "run", **options)
    stored = load(file)
    del stored.facts["progress"]
    save(file, stored)
    schedule = SCHEDULES["cosine"]
    with pytest.raises(InputError, match="does not fit its configuration"):
        train(model, DoubleTasks(), INNER, updates=4, out=tmp_path / "run", resume=True, schedule=schedule, **options)
    resumed = train(model, DoubleTasks(), INNER, updates=4, out=tmp_path / "run", resume=True, **options)
    whole = train(model, DoubleTasks(), INNER, updates=4, **options)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(whole), to_tensors(resumed), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": -1.0}, "clip_norm=-1.0, but it must be above 0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0, but it must be 1 or more"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS needs a loss to compute again at every step"),
        ({"schedule": ReduceLROnPlateau}, "ReduceLROnPlateau needs an accuracy at every step"),
    ],
)
def test_options_that_no_update_can_follow_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        train(a_model(), TASKS, INNER, updates=1, **options)
    assert "\n" not in str(error.value)


def test_a_zeroed_head_takes_no_part_in_clipping():
    """By its loss without an inner loop the head has a gradient, by the inner loop none; the encoder moves alike."""
    model, inner = a_model("zeroed"), Inner(2, 0.1, scope="head")
    options = {"updates": 2, "meta_batch": 2, "params": start(model), "clip_norm": 0.01}
    options |= {"optimizer": lambda tensors: torch.optim.SGD(tensors, lr=1.0)}
    assert_same(
        train(model, DoubleTasks(), inner, **options),
        train(model, DoubleTasks(), inner, gradient=contrastive, **options),
    )


def test_a_gradient_is_followed_by_name_and_must_be_like_the_parameters():
    model = a_model()
    options = {"updates": 1, "meta_batch": 2, "params": start(model), "optimizer": OPTIMIZERS["sgd"]}

    def plain(model, params, episode, inner):
        def loss(params):
            outputs = model.logits(params, episode.query_x)
            return nn.functional.cross_entropy(outputs, episode.query_y), torch.tensor(0.0).double()

        return loss_gradient(params, loss)

    def backwards(*task):
        gradient, metrics = plain(*task)
        return gradient._replace(encoder=dict(reversed(gradient.encoder.items()))), metrics

    def short(*task):
        gradient, metrics = plain(*task)
        return gradient._replace(encoder={name: t.sum() for name, t in gradient.encoder.items()}), metrics

    found = [train(model, DoubleTasks(), INNER, gradient=each, **options) for each in (plain, backwards)]
    assert_same(*found)
    with pytest.raises(InputError, match=r"the gradient has no encoder\.1\.weight of shape \(6, 784\)"):
        train(model, DoubleTasks(), INNER, gradient=short, **options)


def test_the_parameters_that_were_given_stay_as_they_are():
    model = a_model()
    given = start(model)
    before = [t.clone() for t in to_tensors(given)]
    train(model, DoubleTasks(), INNER, updates=2, meta_batch=2, params=given)
    assert all(torch.equal(a, b) for a, b in zip(before, to_tensors(given), strict=True))


def test_rates_are_trained_and_a_zeroed_heads_too():
    model = a_model("zeroed")
    first = learned_rates(model, start(model), INNER, "parameter")
    params = train(model, DoubleTasks(), INNER, updates=3, meta_batch=2, params=first)
    assert all((params.rates[name] != rate).any() for name, rate in first.rates.items())


def test_a_transform_sees_every_batch_with_its_numbers():
    seen = []

    def transform(episodes, indices):
        seen.append(list(indices))
        return episodes._replace(support_x=-episodes.support_x)

    model = a_model()
    params = train(model, DoubleTasks(), INNER, updates=2, meta_batch=2, params=start(model), transform=transform)
    plain = train(model, DoubleTasks(), INNER, updates=2, meta_batch=2, params=start(model))
    assert seen == [[0, 1], [2, 3]]
    assert not torch.equal(params.head.weight, plain.head.weight)


def test_threads_change_nothing_but_time():
    model = a_model()
    one, two = (
        train(model, DoubleTasks(), INNER, updates=2, meta_batch=4, params=start(model), workers=n) for n in (1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(one), to_tensors(two), strict=True))


def test_a_gradient_may_compare_tasks():
    """Two at a time: the sum of the parts that are compared, divided by all tasks; never one of another scale."""
    model, inner, options = a_model(), Inner(1, 0.1, order="second"), {"updates": 1, "meta_batch": 4}
    options |= {"params": start(model), "optimizer": lambda tensors: torch.optim.SGD(tensors, lr=1.0)}
    moved = train(model, DoubleTasks(), inner, gradient=conml, tasks_at_once=2, **options)
    tasks = DoubleTasks().batch(range(4))
    pairs = [conml(model, start(model), Episode(*(t[part] for t in tasks)), inner)[0] for part in ([0, 1], [2, 3])]
    by_hand = [t - (a + b) / 4 for t, a, b in zip(to_tensors(start(model)), *map(to_tensors, pairs), strict=True)]
    for a, b in zip(to_tensors(moved), by_hand, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    with pytest.raises(InputError, match=r"tasks_at_once=2 is for a gradient of your own"):
        train(model, DoubleTasks(), inner, tasks_at_once=2, **options)
    with pytest.raises(InputError, match=r"meta_batch=4 is not a multiple of tasks_at_once=3"):
        train(model, DoubleTasks(), inner, gradient=conml, tasks_at_once=3, **options)

    def of_all(model, params, episodes, inner):
        return loss_gradient(params, lambda params: (params.head.weight.square().sum(), torch.tensor(0.0).double()))

    with pytest.raises(
        InputError, match=r"gradient of 2 tasks came with metrics of shape \(1,\) and \(1,\): return the sum"
    ):
        train(model, DoubleTasks(), inner, gradient=of_all, tasks_at_once=2, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_weights": (0.5, 0.5)}, "after the last inner step alone: leave out loss_weights"),
        ({"order": "first"}, "no gradient beyond MAML's in first order"),
    ],
)
def test_conml_refuses_what_it_would_ignore(changes, message):
    inner = Inner(**({"steps": 2, "order": "second"} | changes))
    with pytest.raises(InputError, match=message):
        train(a_model(), DoubleTasks(), inner, updates=1, meta_batch=2, gradient=conml, tasks_at_once=2)


def test_conml_checks_tasks_as_maml_does():
    """Labels that are no classes, and a start of which nothing is learned."""
    tasks, inner = DoubleTasks().batch(range(2)), Inner(1, 0.1, order="second")
    with pytest.raises(InputError, match="query labels"):
        conml(a_model(), start(a_model()), tasks._replace(query_y=tasks.query_y + 9), inner)
    frozen = Model(a_model().encoder.requires_grad_(False), ways=3, feature_size=a_model().feature_size, head="zeroed")
    with pytest.raises(InputError, match="nothing is learned"):
        conml(frozen, start(frozen), tasks, inner)


def test_what_a_folder_refuses(tmp_path):
    """Another run, a run without its model's code, a schedule that cannot be written down."""
    model, options = a_model(), {"updates": 2, "meta_batch": 2}
    train(model, TASKS, INNER, out=tmp_path / "run", **options)
    with pytest.raises(InputError, match="holds a run already: continue it with resume=True"):
        train(model, TASKS, INNER, out=tmp_path / "run", **options)
    with pytest.raises(InputError, match="does not fit its configuration"):
        train(a_model(ways=4), TASKS, INNER, out=tmp_path / "run", resume=True, updates=3)
    with pytest.raises(InputError, match="of your own model: use load_params"):
        load_run(tmp_path / "run")

    class WithSecret(ExponentialLR):
        def state_dict(self):
            return {"secret": object()}

    schedule = lambda optimizer: WithSecret(optimizer, 0.9)  # noqa: E731
    with pytest.raises(InputError, match="Adam or WithSecret holds what cannot be saved"):
        train(model, TASKS, INNER, out=tmp_path / "other", schedule=schedule, **options)


def test_a_loss_that_is_not_finite_names_update_and_tasks():
    def poisoned(episodes, indices):
        return episodes._replace(query_x=episodes.query_x * float("nan")) if 2 in indices else episodes

    with pytest.raises(InputError, match="not finite in update 2, tasks 2 to 3"):
        train(a_model(), TASKS, INNER, updates=3, meta_batch=2, transform=poisoned)


# Sizes that vary


@pytest.mark.parametrize("head", ["zeroed", "shared", "prototype"])
def test_heads_without_a_number_of_classes_train_on_tasks_of_any_size(head):
    tasks = EpisodeSampler(IMAGES, 4, 3, 2, least_ways=2, least_shots=1, block=2)
    params = train(a_model(head, ways=4), tasks, INNER, updates=6, meta_batch=2)
    assert all(torch.isfinite(t).all() for t in to_tensors(params))
    sizes = {tuple(tasks.batch([2 * n]).support_y.shape) for n in range(6)}
    assert len(sizes) > 2


@pytest.mark.parametrize(
    ("method", "scope", "steps"), [(reptile, "all", 2), (imaml, "all", 1), (contrastive, "head", 1)]
)
def test_methods_with_a_zeroed_head_train_on_tasks_of_any_size(method, scope, steps):
    """The head is not learned, so that it matters to no gradient how many rows it has."""
    tasks = EpisodeSampler(IMAGES, 4, 3, 2, least_ways=2, block=2)
    params = train(a_model("zeroed", ways=4), tasks, Inner(steps, 0.1, scope), updates=4, meta_batch=2, gradient=method)
    assert not params.head.weight.any()
    assert params.head.weight.shape[0] == 4


class Fixed:
    """A source that returns one thing, whatever it is asked for."""

    def __init__(self, made):
        self.batch = lambda indices: made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": object()}, r"tasks are a object without batch\(indices\)"),
        ({"tasks": Fixed(tuple(TASKS.batch(range(2))))}, "returned a tuple: give an Episode of tensors"),
        ({"tasks": Fixed(TASKS.batch(range(1)))}, "returned 1 tasks, not 2: give all"),
        ({"transform": lambda episodes, indices: None}, "returned a NoneType: give an Episode"),
        ({"optimizer": torch.optim.Adam([torch.zeros(1)])}, "optimizer is a Adam, but must be a function"),
        ({"updates": 2.5}, r"updates=2\.5 is not a whole number"),
    ],
)
def test_what_train_cannot_take_is_refused_in_one_line(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message) as error:
        train(a_model(), **{"tasks": TASKS, "inner": INNER, "updates": 1, "meta_batch": 2, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": Fixed(None)}, "evaluate takes an EpisodeSampler, not a Fixed"),
        ({"inner": lambda update: INNER}, "inner is a function, but at test it is one Inner"),
    ],
)
def test_what_evaluate_cannot_take_is_refused_in_one_line(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = a_model()
    params = model.init(torch.Generator())
    with pytest.raises(InputError, match=message):
        evaluate(model, params, **{"tasks": TASKS, "inner": INNER, "evaluation": Evaluation(), **options})


def test_parameters_of_bfloat16_are_stored_and_read(tmp_path):
    """A kind of number that NumPy does not have."""
    model = a_model()
    params = map_params(torch.Tensor.bfloat16, model.init(torch.Generator()))
    halves = lambda tasks, _: Episode(*(t.bfloat16() if t.is_floating_point() else t for t in tasks))  # noqa: E731
    options = {"updates": 1, "meta_batch": 2, "params": params, "transform": halves}
    found = train(model, TASKS, INNER, out=tmp_path / "run", **options)
    assert all(map(torch.equal, to_tensors(load_params(tmp_path / "run", params)), to_tensors(found)))


def test_parameters_come_without_gradients():
    """What is added to them by `backward` is the caller's alone."""
    assert all(t.grad is None for t in to_tensors(train(a_model(), TASKS, INNER, updates=1, meta_batch=2)))


def test_sizes_are_the_blocks_own_and_do_not_depend_on_who_asks():
    tasks = EpisodeSampler(IMAGES, 4, 3, 2, least_ways=2, least_shots=1, block=4)
    whole, part = tasks.batch(range(4, 8)), tasks.batch([6])
    assert torch.equal(whole.support_x[2], part.support_x[0])
    assert tasks.ways_at(6) == int(whole.support_y.max()) + 1
    ways, shots = zip(*((tasks.ways_at(4 * n), tasks._of_size(n).shots) for n in range(200)), strict=True)
    assert {*ways} == {2, 3, 4}
    assert {*shots} == {1, 2, 3}
    assert min(map(ways.count, (2, 3, 4))) > 40  # of 200, 67 ± 7 each
    with pytest.raises(InputError, match="sizes of their own every 4: ask for tasks of one block"):
        tasks.batch([3, 4])


def test_a_learned_head_refuses_tasks_of_several_sizes():
    tasks = EpisodeSampler(IMAGES, 4, 1, 2, least_ways=2, block=2)
    with pytest.raises(InputError, match="trained for 4 classes and cannot be kept for"):
        train(a_model(ways=4), tasks, INNER, updates=6, meta_batch=2)


def test_one_shot_cannot_be_unequal():
    with pytest.raises(InputError, match="unequal_shots with shots=1 leaves one image for each class"):
        TrainConfig(shots=1, unequal_shots=True)
    TrainConfig(shots=2, least_shots=1, unequal_shots=True)


def test_unequal_shots_keep_the_total_and_give_every_class_one():
    """In proportion to e^α times the class's images: of classes of one size none has over four times another's."""
    tasks = EpisodeSampler(IMAGES, 3, 4, 2, unequal_shots=True)
    counts = torch.stack([torch.bincount(y, minlength=3) for y in tasks.batch(range(200)).support_y])
    assert (counts.sum(1) == 12).all()
    assert counts.min() >= 1
    assert counts.max() <= 12 * 4 / 6 + 1  # largest share 4 / (4 + 1 + 1), rounded
    assert len(set(counts.flatten().tolist())) >= 4
    batch = tasks.batch(range(50))
    assert (torch.stack([torch.bincount(y) for y in batch.query_y]) == 2).all()
    for support, query in zip(batch.support_x, batch.query_x, strict=True):
        assert not any(torch.equal(a, b) for a, b in itertools.product(support, query))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least_ways": 5}, "least_ways=5, but it must be 2 to 4"),
        ({"least_shots": 0}, "least_shots=0, but it must be 1 to 2"),
        ({"least_ways": 2, "labels": "bound"}, "labels='bound' cannot have tasks of several sizes"),
        ({"least_shots": 1, "pool_size": 3}, "pool_size=3 cannot have tasks of several sizes"),
        ({"block": 0}, "block=0, but it must be 1 or more"),
    ],
)
def test_sizes_that_no_task_can_have_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        EpisodeSampler(IMAGES, 4, 2, 2, **options)


# Augmentation


def test_augmentation_depends_on_seed_and_task_alone():
    """So that several processes, and a resumed run, see the same images."""
    augment, batch = Augmentation(("flip", "crop", "colour"), seed=3), TASKS.batch(range(4))
    whole = augment(batch, range(4))
    part = augment(TASKS.batch([2, 3]), [2, 3])
    assert torch.equal(whole.support_x[2:], part.support_x)
    assert torch.equal(whole.query_x[2:], part.query_x)
    assert not torch.equal(whole.support_x, Augmentation(augment.names, seed=4)(batch, range(4)).support_x)
    assert torch.equal(whole.support_y, batch.support_y)


def test_every_image_is_flipped_moved_and_coloured_as_described():
    image = torch.arange(16.0 * 16).view(1, 1, 1, 16, 16)
    many = Episode(image.expand(1, 200, 1, 16, 16), torch.zeros(1, 200).long(), image, torch.zeros(1, 1).long())
    flipped = Augmentation(("flip",))(many, [0]).support_x[0]
    is_flipped = (flipped == image[0].flip(-1)).flatten(1).all(1)
    assert ((flipped == image[0]).flatten(1).all(1) ^ is_flipped).all()
    assert 60 < is_flipped.sum() < 140
    moved = Augmentation(("crop",))(many, [0]).support_x[0]
    shifts = {int(each[0, 8, 8] - image[0, 0, 0, 8, 8]) for each in moved}
    assert shifts <= {16 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)}
    assert len(shifts) == 25
    coloured = Augmentation(("colour",))(many, [0]).support_x[0]
    spread = coloured.flatten(1).std(1) / image.std()
    assert 0.6 <= spread.min() < 0.7
    assert 1.3 < spread.max() <= 1.4
    assert (coloured.mean((1, 2, 3)) - image.mean()).abs().max() <= 0.4 + 1e-3


def test_training_augments_by_its_own_seed(tmp_path, monkeypatch):
    drawn = []

    def watched(names, seed):
        drawn.append(seed)
        return Augmentation(names, seed)

    monkeypatch.setattr(train_run_module, "Augmentation", watched)
    config = replace(SMALL, augment=("flip",), seed=5)
    with open_run(tmp_path, config, small_run.IMAGES, "cpu", resume=False) as opened:
        train_run_module.train_run(config, opened, *small_run.IMAGES)
    assert drawn == [5]


def test_training_tasks_have_what_is_asked_of_them_and_test_tasks_have_not():
    config = replace(SMALL, labels="bound", pool_size=7)
    train, test = config.training_tasks(IMAGES), config.test_tasks(IMAGES)
    assert (train.labels, train.pool_size, test.labels, test.pool_size) == ("bound", 7, "fresh", None)


def test_augmentations_are_named_once_each():
    with pytest.raises(InputError, match="names one twice"):
        Augmentation(("flip", "flip"))


def test_random_numbers_of_augmentation_are_no_ones_else():
    """The draw of tasks stays the same with and without it."""
    before = TASKS.batch([5]).support_x
    Augmentation(("flip",))(TASKS.batch([5]), [5])
    assert np.array_equal(before.numpy(), TASKS.batch([5]).support_x.numpy())


# The same as plain values of a configuration and on the command line


SHORT = ["--updates", "4", "--meta-batch", "2", "--filters", "4", "--queries", "3", "--eval-every", "1"]
SHORT += ["--eval-episodes", "6", "--keep-every", "1"]


def test_the_plain_values_reach_optimizer_schedule_and_tasks():
    config = TrainConfig(optimizer="adamw", weight_decay=0.3, lr_schedule="cosine", updates=8, outer_lr=0.5)
    state = initial_state(config, config.model(IMAGES.shape), "cpu")
    assert state.optimizer.param_groups[0]["weight_decay"] == 0.3
    assert isinstance(state.schedule, CosineAnnealingLR)
    assert state.schedule.T_max == 8
    config = TrainConfig(ways=4, least_ways=2, shots=3, least_shots=1, queries=2, meta_batch=3, unequal_shots=True)
    tasks = config.training_tasks(IMAGES)
    assert (tasks.block, tasks.least_ways, tasks.least_shots, tasks.unequal_shots) == (3, 2, 1, True)
    assert config.test_tasks(IMAGES) == EpisodeSampler(IMAGES, 4, 3, 2)


def test_a_run_with_all_of_them_resumes_bit_for_bit(tmp_path, capsys):
    flags = [
        "--ways",
        "2-4",
        "--shots",
        "1-2",
        "--augment",
        "flip,crop,colour",
        "--unequal-shots",
        "--clip-norm",
        "0.5",
    ]
    flags += ["--lr-schedule", "cosine", "--weight-decay", "0.01", "--checkpoint-every", "2", *SHORT]
    assert command(["train", *flags, "--out", str(tmp_path / "whole")]) == 0
    assert command(["train", *flags, "--out", str(tmp_path / "half")]) == 0
    half = tmp_path / "half"
    (half / "state-before.safetensors").replace(half / "state.safetensors")
    assert command(["train", *flags, "--resume", "--out", str(half)]) == 0
    one, two = load_run(tmp_path / "whole"), load_run(half)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(one.params), to_tensors(two.params), strict=True))
    assert command(["train", *flags, "--updates", "6", "--resume", "--out", str(half)]) == 2
    assert "--updates 4, not 6" in capsys.readouterr().err


def test_select_keeps_the_model_that_is_best_on_val(tmp_path, capsys):
    """The file is the kept copy of the update whose evaluation is best, the earliest of equals; `evaluate` takes it."""
    run = tmp_path / "run"
    assert command(["train", "--select", *SHORT, "--out", str(run)]) == 0
    rows = [r for r in read_records(run / "records.jsonl") if r["kind"] == "evaluation" and r["head"] == "kept"]
    last = max(r["steps"] for r in rows)
    found = {r["update"]: r["accuracy"] for r in rows if r["steps"] == last}
    best = max(found, key=lambda update: (found[update], -update))
    chosen, kept = load_run(run / "best.safetensors"), load_run(run / "checkpoints" / f"{best:06d}.safetensors")
    assert chosen.updates == best
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(chosen.params), to_tensors(kept.params), strict=True))
    capsys.readouterr()
    sizes = ["--ways", "3,5", "--shots", "1,2", "--episodes", "4", "--head", "zeroed", "--json"]
    assert command(["evaluate", str(run / "best.safetensors"), *sizes]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert {(row["ways"], row["shots"]) for row in results} == {(3, 1), (3, 2), (5, 1), (5, 2)}
    assert command(["explain", str(run / "best.safetensors"), "--episodes", "2"]) == 0
    assert (run / "best-explain" / "explain.html").exists()


def test_accuracies_of_different_evaluations_are_not_compared(tmp_path):
    """A run may be continued with another split or number of tasks to evaluate on."""
    params = start(a_model())
    state, run = TrainState(params, torch.optim.SGD(to_tensors(params))), RunDirectory(tmp_path, {})
    kept = []
    for update, (accuracy, split) in enumerate([(0.9, "val"), (0.5, "val"), (0.5, "test"), (0.4, "test")]):
        state.updates = update
        run.keep_best(state, accuracy, {"split": split})
        kept.append(load(tmp_path / "best.safetensors").facts["updates"])
    assert kept == [0, 0, 2, 2]


def test_evaluation_is_on_val_where_there_is_one(tmp_path, capsys):
    """Test classes are looked at only when asked for."""
    assert load_evaluation_split("glyphs", "auto").name == "glyphs/val"
    assert load_evaluation_split("glyphs", "test").name == "glyphs/test"
    for split in ("train", "test"):
        write_folder(tmp_path / "images" / split, *grey_images(seed=len(split)))
    assert load_evaluation_split(f"folder:{tmp_path / 'images'}", "auto").name.endswith("test")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "5-x"], "invalid value '5-x': give a whole number, or a range such as 5-20"),
        (["--ways", "9-5"], "invalid range '9-5': give the smaller number first"),
        (["--ways", "5", "--least-ways", "9"], "--least-ways 9, but it must be 2 to 5"),
        (["--ways", "2-5", "--head", "learned"], "--head learned is for one number of classes"),
        (["--augment", "flips"], "did you mean 'flip'"),
        (["--clip-norm", "0"], "--clip-norm 0.0, but it must be above 0"),
        (["--weight-decay", "-1"], "--weight-decay -1.0, but it must be 0 or more"),
        (["--lr-schedule", "cosin"], "did you mean 'cosine'"),
    ],
)
def test_what_cannot_be_is_one_line(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    try:
        code = command(["train", *flags, "--out", str(tmp_path / "run")])
    except SystemExit as ended:  # what argparse refuses itself
        code = ended.code
    assert code == 2
    found = capsys.readouterr().err
    assert message in found
    assert found.count("\n") == 1
    assert not (tmp_path / "run").exists()
