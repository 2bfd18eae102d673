"""Every engine against the slow reference on the real encoders, and what engines may and may not change."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

import encoders_plain
import reference
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.model.encoders import build_encoder
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params, map_params, to_tensors

TOLERANCE = 1e-12
"""As in `test_meta_gradient`: two orders of summation, of which 1e-12 of the largest gradient leaves room."""

ENCODERS = {
    "conv4": ((3, 16, 16), 4),
    "conv4-released": ((1, 28, 28), 6),
    "resnet12": ((1, 16, 16), 2),
    "mlp": ((1, 6, 6), 8),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(model: Model) -> Params:
    params = map_params(lambda t: t.double(), model.init(generator()))
    return map_params(lambda t: t + 0.05 * torch.randn(t.shape, generator=generator(1), dtype=t.dtype), params)


def batch(shape: tuple[int, int, int], tasks: int = 3, ways: int = 3) -> list[Episode]:
    rng = generator(7)
    return [encoders_plain.random_episode(rng, ways, 4, 4, shape) for _ in range(tasks)]


def stack(episodes: list[Episode]) -> Episode:
    return Episode(*(torch.stack(parts) for parts in zip(*episodes, strict=True)))


def distance(found: Params, expected: Params) -> float:
    """Largest difference in units of the largest number."""
    pairs = [(a, b) for a, b in zip(to_tensors(found), to_tensors(expected), strict=True) if b.numel()]
    scale = max(b.abs().max() for _, b in pairs)
    assert scale > 1e-6, "a gradient that vanishes proves nothing"
    return max(((a - b).abs().max() / scale).item() for a, b in pairs)


DEEP = ((5, "all"), (5, "encoder"))
"""Steps and scope that the smaller encoders have in the default run."""


@pytest.mark.parametrize(
    ("name", "order", "steps", "scope"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case[0] == "resnet12" and case[2:] in DEEP else [])
        for case in itertools.product(ENCODERS, ("first", "second"), (1, 5), ("all", "head", "encoder"))
    ],
)
def test_every_engine_gives_the_references_gradient(name, order, steps, scope):
    """Algorithm 1, on every built-in encoder; the reference differentiates its own loop over plain layers."""
    shape, filters = ENCODERS[name]
    model = Model(build_encoder(name, shape, filters), ways=3)
    plain = replace(model, fused=False)
    params, episodes = start(model), batch(shape)
    expected = reference.meta_gradient(plain.features, params, episodes, steps, 0.01, scope, order)
    for engine in (Engine("loop"), Engine("vmap", chunk=2)):
        found, metrics = meta_gradient(model, params, stack(episodes), Inner(steps, 0.01, scope, order), engine=engine)
        assert distance(found, expected) <= TOLERANCE, engine
        assert metrics.loss.shape == metrics.accuracy.shape == (3,)


@pytest.mark.parametrize("head", ["learned", "shared", "prototype"])
@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mean_square_error"])
def test_heads_together_are_heads_one_by_one(head, norm, order, loss):
    """Head-only inner loops in one pass against vmap, which knows nothing of that path, metrics included."""
    model = Model(build_encoder("conv4-released", (1, 28, 28), 5), ways=3, head=head, norm=norm)
    params, episodes = start(model), stack(batch((1, 28, 28), tasks=6))
    inner = Inner(2, 0.1, "head", order, loss)
    found, expected = (meta_gradient(model, params, episodes, inner, engine=Engine(e)) for e in ("loop", "vmap"))
    assert distance(found[0], expected[0]) <= TOLERANCE
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("scope", ["all", "head"])
def test_threads_do_not_change_a_bit(scope):
    model = Model(build_encoder("conv4-released", (1, 28, 28), 8), ways=3)
    params, episodes = model.init(generator()), stack(batch((1, 28, 28), tasks=9))
    episodes = episodes._replace(support_x=episodes.support_x.float(), query_x=episodes.query_x.float())
    alone, _ = meta_gradient(model, params, episodes, Inner(1, 0.1, scope))
    with ThreadPoolExecutor(3) as executor:
        together, _ = meta_gradient(model, params, episodes, Inner(1, 0.1, scope), executor)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(alone), to_tensors(together), strict=True))


def float32_task() -> tuple[Model, Params, Episode]:
    model = Model(build_encoder("conv4-released", (1, 28, 28), 16), ways=3)
    episodes = stack(batch((1, 28, 28)))
    return model, model.init(generator()), Episode(*(t.float() if t.is_floating_point() else t for t in episodes))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_single_precision_is_within_a_ten_thousandth(engine, order):
    """Single precision carries 6e-8; batch norm over few small maps amplifies it by some hundreds."""
    model, params, episodes = float32_task()
    found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, order=order), engine=Engine(engine))
    exact, _ = meta_gradient(
        model,
        map_params(torch.Tensor.double, params),
        Episode(*(t.double() if t.is_floating_point() else t for t in episodes)),
        Inner(2, 0.1, order=order),
    )
    assert distance(map_params(torch.Tensor.double, found), exact) <= 1e-4


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("scope", ["all", "head"])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_bfloat16_is_coarser_and_only_by_choice(engine, scope, order):
    """Eight bits of precision: the gradient's direction stays, its digits do not; parameters stay single."""
    model, params, episodes = float32_task()
    inner = Inner(1, 0.1, scope, order)
    exact, coarse = (
        torch.cat([t.flatten() for t in to_tensors(meta_gradient(model, params, episodes, inner, engine=e)[0])])
        for e in (Engine(), Engine(engine, precision="bfloat16"))
    )
    assert coarse.dtype == torch.float32
    assert not torch.allclose(exact, coarse, rtol=1e-4)
    assert torch.cosine_similarity(exact, coarse, dim=0) > 0.95


@pytest.mark.parametrize("workers", [1, 2])
def test_precision_is_the_engines_own_in_every_thread(workers):
    """A surrounding autocast, which other threads do not see, changes nothing."""
    model, params, episodes = float32_task()
    expected, _ = meta_gradient(model, params, episodes, Inner(1, 0.1))
    with ThreadPoolExecutor(workers) as executor, torch.autocast("cpu", torch.bfloat16):
        found, _ = meta_gradient(model, params, episodes, Inner(1, 0.1), executor if workers > 1 else None)
    assert all(map(torch.equal, to_tensors(found), to_tensors(expected)))


def test_tf32_is_refused_on_a_cpu():
    model, params, episodes = float32_task()
    with pytest.raises(InputError, match="tf32"):
        meta_gradient(model, params, episodes, Inner(), engine=Engine(precision="tf32"))


@pytest.mark.parametrize(("cores", "tasks", "size"), [(2, 32, 16), (2, 5, 3), (8, 32, 4), (64, 32, 1), (2, 100, 16)])
def test_a_loops_groups_leave_work_for_every_core(monkeypatch, cores, tasks, size):
    monkeypatch.setattr("metacontrast.maml.engine._CORES", cores)
    model = Model(build_encoder("conv4-released", (1, 28, 28), 8), 5)
    images = torch.empty(75, 1, 28, 28)
    assert Engine().group_size(model, Inner(), images, tasks) == size
    assert Engine().group_size(model, Inner(), images.expand(75, 30, 28, 28), tasks) == 1


def test_a_chunk_of_no_tasks_is_refused():
    with pytest.raises(InputError, match="chunk=0"):
        Engine(chunk=0)


COMPILED = """
import sys, torch
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import Inner
from metacontrast.model.encoders import conv4
from metacontrast.model.model import Model
from metacontrast.types import Episode, to_tensors

engine, order = sys.argv[1:]
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(0)
model, y = Model(conv4(1, 8, filters=4, blocks=2), ways=3), torch.arange(3).repeat(2, 4)
episodes = Episode(*(part for _ in range(2) for part in (torch.rand(2, 12, 1, 8, 8, generator=generator), y)))
params, inner = model.init(generator), Inner(1, 0.05, order=order)
both = (meta_gradient(model, params, episodes, inner, engine=Engine(e))[0] for e in (engine, "loop"))
found, expected = map(to_tensors, both)
scale = max(b.abs().max() for b in expected)
print(max(((a - b).abs().max() / scale).item() for a, b in zip(found, expected)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["compiled-loop", "compiled-vmap"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_compiled_engines_give_the_same_gradient(engine, order):
    """In a process without checks of shape types, which the compiler cannot read; it takes up to two minutes."""
    command = [sys.executable, "-c", COMPILED, engine, order]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= TOLERANCE
