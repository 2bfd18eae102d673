"""What float32 means: IEEE single precision unless coarser was asked for, whatever the process's flags say.

The flags of a GPU are there without one, so that they can be looked at where a computation would be.
"""

import threading
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from explained_tasks import tasks
from metacontrast.diagnostics.gradient import explain
from metacontrast.errors import InputError
from metacontrast.maml.engine import arithmetic, mean_task_gradient, meta_gradient
from metacontrast.methods import contrastive
from metacontrast.model.model import Model
from metacontrast.types import Inner, map_params

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def flags(device: torch.device = CUDA) -> list[str]:
    """How convolutions, recurrent layers and matrix products round on a device."""
    of = torch.backends.cudnn if device == CUDA else torch.backends.mkldnn
    matmul = torch.backends.cuda.matmul if device == CUDA else of.matmul
    return [each.fp32_precision for each in (of.conv, of.rnn, matmul)]


@pytest.fixture(autouse=True)
def put_back():
    """Every test finds PyTorch's defaults, and leaves them."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for operator in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        operator.fp32_precision = "none"


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_gpu_computes_as_asked_and_is_put_back(precision):
    """By default cuDNN rounds convolutions; also put back where the work fails."""
    before, inside = flags(), []
    assert before == ["tf32", "tf32", "none"]

    def fail():
        with arithmetic(precision, CUDA):
            inside.extend(flags())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == ["ieee" if precision == "float32" else "tf32"] * 3
    assert flags() == before


def test_it_does_not_matter_through_which_api_the_flags_were_set_before():
    """A mix of the two is a `RuntimeError` where the older one is read."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with arithmetic("float32", CUDA):
        assert flags() == ["ieee"] * 3
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.set_float32_matmul_precision("high")
    with arithmetic("float32", CUDA):
        assert flags() == ["ieee"] * 3
    assert torch.get_float32_matmul_precision() == "high"


def test_a_wider_flag_is_followed_afterwards_too():
    """A flag that agrees already is left alone."""
    torch.backends.fp32_precision = "ieee"
    try:
        with arithmetic("float32", CUDA):
            assert flags() == ["ieee"] * 3
        torch.backends.fp32_precision = "tf32"
        assert flags() == ["tf32"] * 3
    finally:
        torch.backends.fp32_precision = "none"


def test_a_cpu_does_not_round_either():
    torch.set_float32_matmul_precision("medium")
    with arithmetic("float32", CPU):
        assert flags(CPU) == ["ieee"] * 3
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_of_one_precision_overlap_and_the_last_one_puts_back():
    """The first one in is the first one out; the other one still computes."""
    before, entered, left = flags(), threading.Event(), threading.Event()
    seen = []

    def other():
        with arithmetic("float32", CUDA):
            entered.set()
            assert left.wait(60)
            seen.append(flags())

    thread = threading.Thread(target=other)
    with arithmetic("float32", CUDA):
        thread.start()
        assert entered.wait(60)
    left.set()
    thread.join()
    assert seen == [["ieee"] * 3]
    assert flags() == before


def test_threads_of_two_precisions_take_turns():
    """Each finds its own flags at every look, and the process its own afterwards."""
    before, wrong = flags(), []

    def compute(precision, expected):
        for _ in range(300):
            with arithmetic(precision, CUDA):
                wrong.extend(each for _ in range(5) for each in flags() if each != expected)

    threads = [threading.Thread(target=compute, args=each) for each in (("float32", "ieee"), ("tf32", "tf32")) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert flags() == before


def test_one_thread_cannot_compute_at_two_precisions():
    """It would wait for itself."""
    with arithmetic("float32", CUDA):
        with arithmetic("float32", CUDA):
            assert flags() == ["ieee"] * 3
        other = arithmetic("tf32", CUDA)
        with pytest.raises(InputError, match="is at 'ieee' here and cannot be at 'tf32' inside"), other:
            pass
        assert flags() == ["ieee"] * 3


class Watching(nn.Module):
    """Features that note how the processor would round them."""

    feature_size = 28 * 28

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(28 * 28, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        seen.append(flags(CPU))
        return images.flatten(1) * self.scale


seen: list[list[str]] = []


@pytest.mark.parametrize("work", [meta_gradient, partial(mean_task_gradient, contrastive), explain])
def test_computations_are_of_single_precision_where_a_script_asked_for_less(work):
    """`set_float32_matmul_precision` is in many a script; the library's own option decides."""
    model = Model(Watching(), 3)
    params = map_params(lambda t: t.double(), model.init(torch.Generator().manual_seed(0)))
    torch.set_float32_matmul_precision("medium")
    seen.clear()
    work(model, params, tasks(), Inner(1, 0.1, "head"))
    assert seen
    assert all(each == ["ieee"] * 3 for each in seen)
