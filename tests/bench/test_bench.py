"""The speed table: what is counted, what is compared and what is said, on cases small enough for a test."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradients import engines, ours
from gradients.cases import CASES, Case, layers, write_job
from gradients.engines import Engine, Environment, Peer, own_engine
from gradients.floor import floor_clock, passes, ways
from gradients.measure import TOLERANCE, measure
from gradients.peers import plain
from metacontrast.errors import InputError
from metacontrast.training.records import read_records
from speed import main

GREY = Case("grey", (1, 28, 28), filters=4, tasks=2, steps=2, lr=0.1, queries=3)
COLOUR = Case("colour", (3, 32, 32), filters=4, tasks=2, steps=2, lr=0.1, queries=3)
EVERY = pytest.mark.parametrize("order", ["first", "second"]), pytest.mark.parametrize("scope", ["all", "head"])


def every_order_and_scope(function):
    for mark in EVERY:
        function = mark(function)
    return function


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that PyTorch runs, by kind and by whether they are the first layer's."""

    def __init__(self, case: Case):
        super().__init__()
        self.weights = {(layer.filters, layer.channels, layer.kernel, layer.kernel) for layer in layers(case)}
        self.channels = case.image_shape[0]
        self.counted: Counter[tuple[str, bool]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            self.count_forward(args, result)
        elif function is torch.ops.aten.convolution_backward.default:
            for kind, wanted in zip(("input", "weight"), args[-1], strict=False):
                self.counted[kind, args[1].shape[1] == self.channels] += wanted
        return result

    def count_forward(self, args, result):
        """Double backward writes input gradients as transposed convolutions, weight gradients as ordinary ones."""
        x, weight, transposed = args[0], args[1], args[6]
        if transposed:
            self.counted["input", result.shape[1] == self.channels] += 1
        elif tuple(weight.shape) in self.weights:
            self.counted["forward", x.shape[1] == self.channels] += 1
        else:
            self.counted["weight", result.shape[0] == self.channels] += 1


@every_order_and_scope
def test_the_floor_counts_the_convolutions_that_the_plain_loop_runs(order, scope, tmp_path):
    """Kind by kind; PyTorch's double backward also computes the first layer's input gradient, which nothing uses."""
    case = replace(GREY, scope=scope)
    gradient = plain.prepare(write_job(case, order, "cpu", tmp_path, seed=0))
    with Convolutions(case) as seen:
        gradient()
    expected = Counter()
    for step in passes(case, order):
        for number in range(len(layers(case))):
            for convolution in step.convolutions:
                if number > 0 or convolution.first_layer:
                    expected[convolution.kind, number == 0] += case.tasks
    if order == "second" and scope == "all":
        expected["input", True] += case.tasks * case.steps
    assert +seen.counted == expected


@every_order_and_scope
@pytest.mark.parametrize("case", [GREY, COLOUR], ids=lambda case: case.name)
def test_the_plain_loop_and_this_library_compute_the_same(case, order, scope, tmp_path):
    """The peers' network is the package's, strided and pooled; float64 rounding is far below what is called wrong."""
    job = replace(write_job(replace(case, scope=scope), order, "cpu", tmp_path, seed=1), dtype="float64")
    expected = torch.cat([g.ravel() for g in ours.prepare(job)()])
    found = torch.cat([g.ravel() for g in plain.prepare(job)()])
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= TOLERANCE / 1000 * expected.norm()


@every_order_and_scope
def test_the_floor_runs_in_every_way(order, scope):
    for way in ways("cpu"):
        assert floor_clock(replace(COLOUR, scope=scope), order, "cpu", way, threads=2)() > 0


def test_a_floor_batch_of_all_tasks_is_only_for_weights_that_all_tasks_share():
    """In the second inner step every task has its own weights; a learned head alone leaves the encoder shared."""
    first, second, query = passes(GREY, "first")
    assert [c.shared for c in first.convolutions] == [True, False, True]
    assert not any(c.shared for step in (second, query) for c in step.convolutions)
    assert all(c.shared for step in passes(replace(GREY, scope="head"), "second") for c in step.convolutions)


def script(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(lines))


WRONG = script(
    "import json, sys, numpy",
    "job = json.loads(sys.stdin.readline())",
    "if job['gradient']:",
    "    with numpy.load(job['tensors']) as file:",
    "        start = [file[f'p{i}'] for i in range(sum(name.startswith('p') for name in file.files))]",
    "    numpy.savez(job['gradient'], **{f'g{i}': p for i, p in enumerate(start)})",
    "print('{}', flush=True)",
    "for _ in sys.stdin:",
    "    print(json.dumps({'seconds': 1e-6}), flush=True)",
    "print(json.dumps({'peak_mb': 1.0}), flush=True)",
)
"""A very fast engine that returns the parameters where the gradient is asked for."""


@pytest.mark.slow
def test_engines_are_compared_and_the_wrong_the_dead_and_the_missing_are_named():
    chosen = [
        own_engine("ours"),
        Environment(sys.executable, {}, {}).engine("plain"),
        Engine("wrong", WRONG),
        Engine("dead", script("raise SystemExit('it needs another PyTorch')")),
        Engine("absent", missing="not installed"),
        own_engine("floor"),
    ]
    said = []
    rows = {row.engine: row for row in measure(GREY, "second", chosen, repeats=2, say=said.append)}
    assert list(rows) == [engine.name for engine in chosen]
    assert (rows["dead"].note, rows["absent"].note) == ("it needs another PyTorch", "not installed")
    assert rows["dead"].seconds is None
    assert rows["wrong"].note.startswith("wrong gradient (off by ")
    assert rows["wrong"].seconds < rows["plain"].seconds
    assert rows["plain"].note == ""
    assert rows["plain"].gradient_error <= TOLERANCE / 1000
    assert rows["plain"].ratio_to_best_peer == 1, "the wrong one is no peer to beat"
    assert rows["ours"].ratio_to_best_peer == pytest.approx(rows["plain"].seconds / rows["ours"].seconds)
    assert rows["ours"].ratio_to_floor == pytest.approx(rows["ours"].seconds / rows["floor"].seconds)
    assert all(row.peak_mb > 50 for row in (rows["ours"], rows["plain"]))
    assert sum("round" in word for word in said) == 2


@pytest.mark.slow  # the test above runs what it calls
def test_the_command_prints_rows_says_what_is_missing_and_keeps_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CASES, "grey", GREY)
    monkeypatch.setitem(engines.PEERS, "higher", Peer("with_higher", "no_such_module_here", "higher"))
    records = tmp_path / "bench.jsonl"
    words = [
        "--cases",
        "grey",
        "--orders",
        "first",
        "--repeats",
        "1",
        "--engines",
        "ours,ours-one-worker,higher",
        "--json",
    ]
    main([*words, "--peers", sys.executable, "--records", str(records)])
    out, err = capsys.readouterr()
    rows = json.loads(out.strip().splitlines()[-1])
    assert [row["engine"] for row in rows] == ["ours", "ours-one-worker", "higher", "floor"]
    assert rows[1]["gradient_error"] < 1e-12
    needed = {"case", "engine", "order", "seconds", "ratio_to_best_peer", "ratio_to_floor", "peak_mb"}
    assert all(needed <= set(row) for row in rows)
    assert "higher (higher): not installed in" in err
    header, *timings = read_records(records)
    assert header["kind"] == "header"
    assert header["versions"]["torch"] == torch.__version__
    assert [{k: v for k, v in timing.items() if k != "kind"} for timing in timings] == rows


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--cases", "z"], "'z' is not one of 'a', 'a0', 'b', 'b0', 'c'"),
        (["--orders", "third"], "'third' is not one of 'first', 'second'"),
        (["--engines", "jax"], "'jax' is not one of 'ours', 'ours-one-worker', 'plain'"),
        (["--repeats", "0"], "--repeats 0"),
        (["--peers", "/nowhere/python"], "/nowhere/python is no Python interpreter"),
    ],
)
def test_impossible_flags_are_refused_in_one_line(words, part, capsys):
    with pytest.raises((InputError, SystemExit)) as refusal:
        main(words)
    out, err = capsys.readouterr()
    assert out == ""
    said = err if refusal.type is SystemExit else f"{refusal.value}\n"
    assert part in said
    assert len(said.strip().splitlines()) == 1


def test_adapters_of_peers_do_not_need_this_package():
    """They run in an environment that has the peer and not this package."""
    for file in Path(plain.__file__).parent.glob("*.py"):
        imports = [line for line in file.read_text(encoding="utf-8").splitlines() if "import" in line]
        assert not [line for line in imports if line.startswith(("import metacontrast", "from metacontrast"))], file
