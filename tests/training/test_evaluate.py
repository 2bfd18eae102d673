"""Evaluation: fixed tasks, honest intervals, a baseline beside."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.device import FILLED, peak_bytes
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine
from metacontrast.maml.inner import adapt
from metacontrast.model.encoders import build_encoder
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.model.solvers import solver_scores
from metacontrast.training import evaluate as evaluation_module
from metacontrast.training.evaluate import Evaluation, confidence_interval, evaluate, evaluate_tasks, logits_after
from metacontrast.types import Episode, Inner, map_params
from toy_images import noisy_images

original_batch = EpisodeSampler.batch
IMAGES = noisy_images(seed=2)
TASKS = EpisodeSampler(IMAGES, 3, 1, 4)
MODEL = Model(build_encoder("conv4-released", IMAGES.shape, 8), ways=3)
PARAMS = MODEL.init(torch.Generator().manual_seed(0))
INNER = Inner(1, 0.4)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("head", ["learned", "prototype", "shared"])
@pytest.mark.parametrize("scope", ["all", "head", "encoder"])
def test_tasks_together_have_the_logits_of_tasks_alone(scope, head, norm):
    """As one batch, mapped over tasks and one after the other: in double precision, to 1e-12 of the largest."""
    model = replace(MODEL, head=head, norm=norm)
    params = map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(0)))
    episodes = TASKS.batch(range(3))
    episodes = episodes._replace(support_x=episodes.support_x.double(), query_x=episodes.query_x.double())

    def found(model: Model, episodes: Episode) -> torch.Tensor:
        return torch.stack([*logits_after(model, params, episodes, Inner(3, 0.1, scope), (0, 1, 3))])

    alone = torch.cat([found(model, Episode(*(t[i : i + 1] for t in episodes))) for i in range(3)], 1)
    assert alone.shape == (3, 3, 12, 3)
    for together in (found(model, episodes), found(replace(model, fused=False), episodes)):
        assert torch.allclose(alone, together, rtol=0, atol=1e-12 * alone.abs().max().item())


@pytest.mark.parametrize("scope", ["all", "head"])
@pytest.mark.parametrize(
    "changed", [{}, {"fused": False}, {"norm": "inductive"}, {"head": "prototype"}, {"head": "shared"}], ids=str
)
def test_rows_are_the_accuracies_computed_one_by_one(changed, scope, in_float64):
    """Every head and number of steps against a direct computation with `adapt`, side by side or not.

    In float64, so that no two logits are so close that rounding decides.
    """
    model, inner = replace(MODEL, **changed), replace(INNER, scope=scope)
    params = model.init(torch.Generator().manual_seed(0))
    rows = evaluate(model, params, TASKS, inner, Evaluation((1, 3), episodes=5))
    assert [(r.method, r.head, r.steps) for r in rows] == [
        ("maml", "kept", 1),
        ("maml", "kept", 3),
        ("maml", "zeroed", 1),
        ("maml", "zeroed", 3),
        ("nearest-mean", "none", 0),
    ]
    for row in rows[:-1]:
        start = params if row.head == "kept" else zero_head(params, 3)
        shares = []
        for index in range(5):
            episode = TASKS[index]
            adapted = adapt(model, start, episode.support_x, episode.support_y, replace(inner, steps=row.steps))
            logits = model.query_logits(adapted, episode.support_x, episode.query_x)
            shares.append((logits.argmax(1) == episode.query_y).double().mean())
        shares = torch.stack(shares)
        assert row.accuracy == pytest.approx(shares.mean().item(), abs=1e-12)
        assert row.ci95 == pytest.approx(1.96 * shares.std().item() / math.sqrt(5), abs=1e-12)


def test_a_zero_head_is_the_same_kept_and_zeroed():
    both = evaluate(MODEL, zero_head(PARAMS), TASKS, INNER, Evaluation((1, 2), episodes=4))
    kept, zeroed = ([replace(r, head="") for r in both if r.head == h] for h in ("kept", "zeroed"))
    assert kept == zeroed
    assert len(kept) == 2


def test_zero_steps_from_a_zero_head_answer_class_zero():
    """All logits are equal, the first class wins: exactly chance."""
    row = evaluate(MODEL, zero_head(PARAMS), TASKS, INNER, Evaluation((0,), ("zeroed",), 3))[0]
    assert row.accuracy == pytest.approx(1 / 3)


def test_a_zeroed_head_is_evaluated_at_any_number_of_ways_and_a_kept_one_is_not():
    wider = EpisodeSampler(IMAGES, 7, 1, 4)
    row = evaluate(MODEL, PARAMS, wider, INNER, Evaluation((1,), ("zeroed",), 4))[0]
    assert row.accuracy > 1 / 7
    with pytest.raises(InputError, match="trained for 3 classes and cannot be kept for 7"):
        evaluate(MODEL, PARAMS, wider, INNER, Evaluation((1,), ("kept",), 4))


def test_tasks_of_several_sizes_have_no_one_accuracy():
    for sizes in ({"least_ways": 2}, {"least_shots": 1, "shots": 2}):
        with pytest.raises(InputError, match="several sizes, and an accuracy is of one"):
            evaluate(MODEL, PARAMS, replace(TASKS, **sizes), INNER, Evaluation((1,), episodes=4))


def test_threads_do_not_change_the_result():
    """Each task is one program of one operator thread, in the pool as outside of it."""
    torch.set_num_threads(1)
    one = evaluate(MODEL, PARAMS, TASKS, INNER, Evaluation(episodes=6))
    with ThreadPoolExecutor(3, initializer=lambda: torch.set_num_threads(1)) as executor:
        three = evaluate(MODEL, PARAMS, TASKS, INNER, Evaluation(episodes=6), executor)
    assert one == three


def test_the_baseline_is_the_nearest_class_mean_of_unadapted_features(in_float64):
    params = MODEL.init(torch.Generator().manual_seed(0))
    row = evaluate(MODEL, params, TASKS, INNER, Evaluation(episodes=3))[-1]
    right = []
    for index in range(3):
        episode = TASKS[index]
        support = MODEL.features(params.encoder, episode.support_x)
        query = MODEL.features(params.encoder, episode.query_x)
        nearest = [min(range(3), key=lambda k, q=q: (q - support[k]).norm()) for q in query]
        right.append((torch.tensor(nearest) == episode.query_y).double().mean().item())
    assert row.accuracy == pytest.approx(sum(right) / 3)


@pytest.mark.parametrize("head", ["shared", "prototype"])
def test_heads_that_know_no_number_of_ways_are_kept_at_any(head):
    model = replace(MODEL, head=head)
    params = model.init(torch.Generator().manual_seed(0))
    rows = evaluate(model, params, EpisodeSampler(IMAGES, 7, 1, 4), INNER, Evaluation(episodes=3))
    assert all(row.accuracy > 1 / 7 for row in rows)


def test_the_interval_shrinks_with_the_root_of_the_number_of_tasks():
    scores = torch.tensor([[0.0], [1.0]] * 50, dtype=torch.float64)
    assert confidence_interval(scores)[0] == pytest.approx(1.96 * scores.std().item() / 10)


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.5, 1, 3), (4, 4, 40), (None, 1, 1)])
def test_an_evaluation_takes_as_many_tasks_at_once_as_fit_into_memory(share, fewest, most, monkeypatch):
    """Free memory of so many times what two tasks take; the accuracies are those of the loop."""
    taken, batches = [], []
    monkeypatch.setattr(evaluation_module, "peak_bytes", lambda work: taken.append(peak_bytes(work)) or taken[-1])
    monkeypatch.setattr(
        evaluation_module, "free_bytes", lambda device: None if share is None else int(share * taken[-1] / FILLED)
    )
    monkeypatch.setattr(
        EpisodeSampler, "batch", lambda self, indices: batches.append(len(indices)) or original_batch(self, indices)
    )
    together = evaluate(MODEL, PARAMS, TASKS, INNER, Evaluation((1,), episodes=40), engine=Engine("vmap"))
    drawn, measured, batches = batches[0], batches[1:3], batches[3:]
    assert (drawn, measured) == (1, [1, 2])
    assert fewest <= max(batches) <= most
    alone = evaluate(MODEL, PARAMS, TASKS, INNER, Evaluation((1,), episodes=40))
    for found, expected in zip(together, alone, strict=True):
        assert found.accuracy == pytest.approx(expected.accuracy, abs=2 / (40 * 12))


def test_the_nearest_by_angle_does_not_depend_on_the_lengths_of_the_class_means():
    """Class 0 points east, class 1's two images north-east and north-west: their mean is north, and short."""
    support = torch.tensor([[[1.0, 0.1], [1.0, -0.1], [1.0, 1.0], [-1.0, 1.0]]])
    query = torch.tensor([[[1.0, 1.2]]])
    scores = solver_scores("nearest-cosine", support, torch.tensor([[0, 0, 1, 1]]), query, 2)
    expected = torch.cosine_similarity(query, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), dim=2).T[None]
    torch.testing.assert_close(scores, expected)
    assert scores.argmax(2).tolist() == [[1]]


def test_solvers_of_unadapted_features_answer_as_their_textbooks_say(in_float64):
    """The nearest class mean by distance and by angle, scikit-learn's ridge and logistic regression, task by task."""
    tasks, solvers = EpisodeSampler(IMAGES, 3, 2, 4), ("nearest-mean", "nearest-cosine", "ridge", "logistic")
    params = MODEL.init(torch.Generator().manual_seed(0))
    found = evaluate_tasks(MODEL, params, tasks, INNER, Evaluation((1,), ("kept",), 6, solvers))
    assert found.shape == (6, 1 + len(solvers))
    for number, row in enumerate(found):
        x, y, asked, wanted = tasks[number]
        support, query = MODEL.features(params.encoder, x), MODEL.query_features(params.encoder, x, asked)
        unit = support / support.norm(dim=1, keepdim=True)
        means = torch.stack([support[y == k].mean(0) for k in range(3)])
        angles = torch.stack([unit[y == k].mean(0) for k in range(3)])
        strength = support.square().sum(1).mean()
        ridge = Ridge(0.03 * len(y) * strength.item()).fit(support, torch.nn.functional.one_hot(y, 3))
        logistic = LogisticRegression(C=1 / (0.01 * len(y) * strength.item()), max_iter=300).fit(support, y)
        guesses = (
            (query[:, None] - means).norm(dim=2).argmin(1),
            torch.cosine_similarity(query[:, None], angles, dim=2).argmax(1),
            torch.from_numpy(ridge.predict(query)).argmax(1),
            torch.from_numpy(logistic.predict(query)),
        )
        assert row[1:].tolist() == [(guess == wanted).double().mean().item() for guess in guesses]
