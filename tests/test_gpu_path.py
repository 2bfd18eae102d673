"""What runs on a GPU, run without one: no operator mixes devices, results are the CPU's, and the host seldom waits.

The device is called `meta` here; the last test runs this file again with one that is called `cuda`, which takes a
compiler. What the host waits for costs a GPU that stands idle meanwhile, so the number of waits is fixed.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import metacontrast as mc
from classifier_kit import grey_images, tiny_start
from fake_device import DeviceMismatch, fake_device
from metacontrast import theory
from metacontrast.data.images import ClassImages
from metacontrast.diagnostics.gradient import explain
from metacontrast.maml.engine import Engine
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.records import read_records
from metacontrast.training.run import load_run, open_run
from metacontrast.training.step import Resources
from metacontrast.training.train_run import initial_state, outer_step, train_run
from metacontrast.types import Episode, Params, map_params, to_tensors
from toy_images import noisy_images

NAME = os.environ.get("METACONTRAST_FAKE_DEVICE", "meta")
IMAGES = noisy_images(classes=5, per_class=6, size=16)
BASE = TrainConfig(encoder="conv4", filters=4, ways=3, queries=2, meta_batch=2, inner_lr=0.1)
HEADS = ("learned", "zeroed", "shared", "prototype")
SCOPES = ("all", "head", "encoder")
NORMS = ("transductive", "inductive")
ORDERS = ("first", "second")

LEARNING = [pair for pair in product(HEADS, SCOPES) if pair not in (("zeroed", "encoder"), ("shared", "encoder"))]
"""Heads and scopes, but for equal rows that stand still: nothing can be told apart by them."""
SOME = [(*pair, NORMS[n % 2], ORDERS[n // 2 % 2]) for n, pair in enumerate(LEARNING)]
"""Each with one policy and one order."""
ALL = [(*pair, *rest) for pair in LEARNING for rest in product(NORMS, ORDERS)]
ALL = [each if each in SOME else pytest.param(*each, marks=pytest.mark.slow) for each in ALL]
"""Every policy and order, those of `SOME` in the default run."""

only_cuda = pytest.mark.skipif(NAME != "cuda", reason="on a device called cuda: see the last test of this file")


@pytest.fixture
def device(monkeypatch):
    """The device, on which four gigabytes are free."""
    monkeypatch.setattr("metacontrast.training.evaluate.free_bytes", lambda device: 2**32)
    with fake_device(NAME) as made:
        yield made


def start(config: TrainConfig, dtype: torch.dtype = torch.float64) -> tuple[mc.Model, Params, Episode]:
    """A model, its parameters and an update's tasks on the CPU."""
    model = config.model(IMAGES.shape)
    params = map_params(lambda t: t.to(dtype), model.init(torch.Generator().manual_seed(0)))
    tasks = config.training_tasks(IMAGES).batch(range(config.meta_batch))
    return model, params, tasks._replace(support_x=tasks.support_x.to(dtype), query_x=tasks.query_x.to(dtype))


def there(model: mc.Model, params: Params, tasks: Episode) -> tuple[mc.Model, Params, Episode]:
    """The same on the device."""
    return model.to(NAME), map_params(lambda t: t.to(NAME), params), Episode(*(t.to(NAME) for t in tasks))


def gap(found: Params, expected: Params) -> float:
    """The largest difference, in units of the largest number."""
    ours, theirs = (torch.cat([t.cpu().flatten() for t in to_tensors(each)]) for each in (found, expected))
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-9)).item()


# The device itself


def test_the_device_refuses_operands_of_two_devices(device):
    """A number meets a tensor in elementwise arithmetic, and row numbers index from the CPU; nothing else."""
    a, b, row = torch.ones(2, 2), torch.ones(2, 2, device=NAME), torch.tensor([1])
    assert (b * torch.tensor(2.0)).sum().item() == 8
    assert b[row].shape == (1, 2)
    for mixed in (
        lambda: a + b,
        lambda: a @ b,
        lambda: torch.cat([a, b]),
        lambda: b.index_select(0, row),
    ):
        with pytest.raises(DeviceMismatch):
            mixed()


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t[0, 0].item(),
        lambda t: bool((t > 0).all()),
        lambda t: float(t.sum()),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: t.unique(),
        lambda t: torch.linalg.eigvalsh(t),
        lambda t: torch.tensor([1.0], device=NAME),
        lambda t: t.copy_(torch.ones(2, 2)),
        lambda t: torch.equal(t, t),
    ],
)
def test_the_device_counts_what_the_host_waits_for(device, wait):
    t = torch.ones(2, 2, device=NAME)
    assert not device.waits
    wait(t)
    assert len(device.waits) == 1


def test_work_and_copies_that_do_not_block_are_no_waits(device):
    t = torch.ones(2, 2).to(NAME, non_blocking=True)
    (t @ t + t.new_zeros(2).fill_(2)).relu_().sum()
    torch.nn.functional.one_hot(t.long()[0], 3)
    assert not device.waits


# Outer gradients and updates


@pytest.mark.parametrize(("head", "scope", "norm", "order"), ALL)
def test_outer_gradients_are_the_cpus(device, head, scope, norm, order):
    """In float64, up to rounding; the host waits for nothing."""
    own = start(replace(BASE, head=head, inner_scope=scope, norm=norm, order=order))
    inner = mc.Inner(2, 0.1, scope, order)
    expected, expected_metrics = mc.meta_gradient(*own, inner)
    placed = there(*own)
    device.waits.clear()
    found, metrics = mc.meta_gradient(*placed, inner)
    assert device.waits == []
    assert gap(found, expected) < 1e-10
    assert torch.allclose(metrics.loss.cpu(), expected_metrics.loss, rtol=1e-10)


@only_cuda
@pytest.mark.parametrize(("precision", "scope"), list(product(("float32", "tf32", "bfloat16"), SCOPES)))
def test_outer_gradients_of_every_precision(device, precision, scope):
    """Tensors stay float32; only bfloat16 rounds where nothing but names is a GPU's."""
    own = start(replace(BASE, head="learned"), torch.float32)
    inner = mc.Inner(1, 0.1, scope)
    expected, _ = mc.meta_gradient(*own, inner)
    found, _ = mc.meta_gradient(*there(*own), inner, engine=Engine(precision=precision))
    assert {t.dtype for t in to_tensors(found)} == {torch.float32}
    ours, theirs = (torch.cat([t.cpu().flatten() for t in to_tensors(each)]) for each in (found, expected))
    assert torch.cosine_similarity(ours, theirs, dim=0) > (0.9 if precision == "bfloat16" else 0.999)
    assert precision != "bfloat16" or not torch.allclose(ours, theirs, rtol=1e-4)


OBJECTIVES = [
    *({"inner_scope": scope, "head": head} for head, scope in LEARNING),
    {"method": "contrastive", "inner_scope": "head", "head": "learned"},
    {"method": "contrastive", "inner_scope": "head", "head": "zeroed", "inner_steps": 1, "order": "second"},
    {"optimizer": "sgd", "norm": "inductive"},
    {"optimizer": "rmsprop"},
]


@pytest.mark.parametrize("fields", OBJECTIVES, ids=str)
def test_an_update_waits_once(device, fields):
    """Loss, accuracy and whether all is finite are read together; the metrics are then on the CPU."""
    config = replace(BASE, **fields)
    model, tasks = config.model(IMAGES.shape).to(NAME), config.training_tasks(IMAGES.to(NAME))
    state = initial_state(config, model, NAME)
    batch = tasks.batch(range(2))
    for _ in range(2):
        device.waits.clear()
        metrics = outer_step(config, model, Resources(NAME))(state, batch)
        assert len(device.waits) == 1, device.waits
    assert metrics.loss.is_cpu
    assert metrics.accuracy.is_cpu


@pytest.mark.parametrize("channels", [1, 3])
def test_drawing_a_batch_of_tasks_waits_for_nothing(device, channels):
    """From the second one on: mean and deviation are then on the device."""
    images = ClassImages("noise", IMAGES.images.repeat(1, channels, 1, 1), IMAGES.starts, IMAGES.classes)
    images = replace(images, mean=(0.1, 0.2, 0.3)[:channels], std=(0.4, 0.5, 0.6)[:channels])
    tasks = BASE.training_tasks(images.to(NAME))
    tasks.batch(range(2))
    device.waits.clear()
    batch = tasks.batch(range(2, 4))
    assert device.waits == []
    expected = BASE.training_tasks(images).batch(range(2, 4))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(batch, expected, strict=True))


def test_training_waits_once_an_update(device, tmp_path):
    """Counted as the difference between five updates and two; evaluated and saved at the end of each."""

    def waits(updates: int) -> int:
        config = replace(BASE, updates=updates, eval_episodes=2)
        device.waits.clear()
        with open_run(tmp_path / str(updates), config, (IMAGES, IMAGES), NAME, resume=False) as run:
            train_run(config, run, IMAGES, IMAGES, Resources(NAME))
        return len(device.waits)

    assert waits(5) - waits(2) == 3


def test_a_training_is_the_cpus(device, tmp_path):
    """With evaluations, explanations, kept copies and a resume; single precision, whose rounding a few updates keep
    small."""
    config = replace(BASE, updates=2, eval_every=1, eval_episodes=2, explain_every=2, keep_every=1)
    for name, updates in product((NAME, "cpu"), (2, 3)):
        with open_run(tmp_path / name, replace(config, updates=updates), (IMAGES, IMAGES), name, resume=True) as run:
            train_run(replace(config, updates=updates), run, IMAGES, IMAGES, Resources(name))
    found, expected = (load_run(tmp_path / name) for name in (NAME, "cpu"))
    assert (found.updates, expected.updates) == (3, 3)
    assert gap(found.params, expected.params) < 1e-2
    kinds = [[record["kind"] for record in read_records(tmp_path / name / "records.jsonl")] for name in (NAME, "cpu")]
    assert kinds[0] == kinds[1]


# Evaluation, explanation, theory


@pytest.mark.parametrize(("head", "scope", "norm", "order"), SOME)
def test_evaluation_is_the_cpus(device, head, scope, norm, order):
    """Accuracies in single precision, in which one image of all may be a tie."""
    config = replace(BASE, head=head, inner_scope=scope, norm=norm, order=order)
    model, params, _ = start(config, torch.float32)
    wanted = Evaluation((0, 1), episodes=4)
    expected = evaluate(model, params, config.test_tasks(IMAGES), config.inner(), wanted)
    placed, placed_params, _ = there(model, params, Episode(*(torch.zeros(0),) * 4))
    engine = Engine("vmap", chunk=3)  # free memory of a device that is not there is unknown
    found = evaluate(placed, placed_params, config.test_tasks(IMAGES.to(NAME)), config.inner(), wanted, engine=engine)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.method, ours.steps, ours.head) == (theirs.method, theirs.steps, theirs.head)
        assert ours.accuracy == pytest.approx(theirs.accuracy, abs=1.01 / (4 * 6))


def test_an_evaluation_waits_once_a_block(device):
    """Two blocks of two tasks, whatever the number of heads and steps; and once to see whether the head is zero."""
    model, params, _ = start(BASE, torch.float32)
    placed, placed_params, _ = there(model, params, Episode(*(torch.zeros(0),) * 4))
    wanted = Evaluation((0, 1, 2), ("kept", "zeroed"), episodes=4)
    tasks = BASE.test_tasks(IMAGES.to(NAME))
    tasks.batch(range(2))
    device.waits.clear()
    evaluate(placed, placed_params, tasks, BASE.inner(), wanted, engine=Engine("vmap", chunk=2))
    assert len(device.waits) == 3, device.waits


@pytest.mark.parametrize(("head", "scope", "norm", "order"), SOME)
def test_explanations_are_the_cpus(device, head, scope, norm, order):
    """In float64, but for the direction of a part that is zero save for rounding."""
    own = start(replace(BASE, head=head, norm=norm))
    inner = mc.Inner(2, 0.1, scope, order)
    expected, found = (explain(*each, inner, label_orders=2).scalars() for each in (own, there(*own)))
    assert list(found) == list(expected)
    for name, value in expected.items():
        if name.endswith("_cosine") and expected[name.replace("_cosine", "_norm")] < 1e-9:
            continue
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), name


def test_an_explanation_waits_as_often_for_many_tasks_as_for_few(device):
    def waits(tasks: int) -> int:
        placed = there(*start(replace(BASE, meta_batch=tasks)))
        device.waits.clear()
        explain(*placed, mc.Inner(2, 0.1), ordered_tasks=2)
        return len(device.waits)

    assert waits(2) == waits(5)


def test_labels_that_do_not_fit_are_told_once_for_all_tasks(device):
    """Their values are not looked at task by task, but a GPU's explanation is refused like a CPU's."""
    model, params, tasks = there(*start(BASE))
    with pytest.raises(mc.InputError, match=r"query: labels must be 0 to 2, each at least once; missing \[2\]"):
        explain(model, params, tasks._replace(query_y=tasks.query_y.clamp_max(1)), mc.Inner(2, 0.1))


@pytest.mark.parametrize("bias", [False, True])
def test_the_theory_waits_for_nothing(device, bias):
    """Every function on one task."""
    g = torch.Generator().manual_seed(0)
    support, query, weight = (torch.randn(n, 4, generator=g).to(NAME) for n in (6, 9, 3))
    support_y, query_y = (torch.arange(3).repeat_interleave(n).to(NAME) for n in (2, 3))
    head = mc.Head(weight, weight[:, 0] if bias else None)
    task = theory.FeatureTask(support, support_y, query, query_y, head)
    device.waits.clear()
    heads = theory.adapted_heads(task, mc.Inner(2, 0.1))
    for order in ORDERS:
        theory.split_feature_gradient(task, mc.Inner(2, 0.1, order=order))
        theory.head_gradient(task, mc.Inner(2, 0.1, order=order))
        theory.contrastive_loss(task, mc.Inner(1, 0.1, order=order))
    theory.head_update(task, mc.Inner(2, 0.1), outer_lr=0.1)
    probs = [mc.model.model.apply_head(each, support).softmax(1) for each in heads[:-1]]
    answers = mc.model.model.apply_head(heads[-1], query).softmax(1)
    coefficients = theory.contrastive_coefficients(answers, query_y, torch.stack(probs), support_y)
    theory.wrong_sign_share(coefficients, query_y, support_y)
    theory.contrast(theory.similarity_heatmap(query, query_y, support, support_y, ways=3))
    assert device.waits == []


# Classifier


@only_cuda
@pytest.mark.parametrize("baseline", ["none", "auto", "prototype"])
def test_the_classifier_is_the_cpus(device, baseline):
    """Fitted, calibrated, asked and explained on the device; probabilities in single precision."""
    x, y = grey_images()
    answers = []
    for place in ("cpu", "cuda"):
        clf = mc.FewShotClassifier(model=tiny_start(), device=place, baseline=baseline, reject=0.1, folds=2)
        clf.fit(x, y).explain(x[0])
        answers.append(clf.predict_proba(x))
    assert np.abs(answers[0] - answers[1]).max() < 1e-3


# The same on a device called cuda


def fake_cuda(folder: Path) -> Path:
    """The compiled `fake_cuda.cpp`; skips where that cannot be."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if sys.platform != "linux" or compiler is None or shutil.which(compiler) is None:
        pytest.skip("a device called cuda takes Linux and a C++ compiler: none was found")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this PyTorch has a CUDA of its own: the fake one stands in for it on CPU builds alone")
    torch_folder, library = Path(torch.__file__).parent, folder / "fake_cuda.so"
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include"]
    command += [str(Path(__file__).with_name("fake_cuda.cpp")), "-o", str(library)]
    command += [f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib", "-lc10", "-ltorch_cpu"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return library


@pytest.mark.slow
@pytest.mark.skipif(NAME == "cuda", reason="this is the run on a device called cuda")
def test_the_same_on_a_device_called_cuda(tmp_path):
    """In a process of its own, because the fake CUDA comes before PyTorch and stays."""
    program = f"""
        import ctypes, os, sys
        ctypes.CDLL({str(fake_cuda(tmp_path))!r}, ctypes.RTLD_GLOBAL)
        import pytest
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", {__file__!r}])
        sys.stdout.flush()
        os._exit(code)  # PyTorch would wait for the threads of a device that it cannot end
    """
    environment = {**os.environ, "METACONTRAST_FAKE_DEVICE": "cuda"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
