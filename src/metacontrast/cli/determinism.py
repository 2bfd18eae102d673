"""`--deterministic`: only kernels that give the same bits every time, or a refusal."""

import argparse
import contextlib
import os
from collections.abc import Iterator

import torch

from metacontrast.errors import InputError


def add_deterministic_flag(parser: argparse._ActionsContainer) -> None:
    """`--deterministic`: whether to use deterministic kernels only, which may be slower."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="use only deterministic kernels, on GPUs; CPU kernels always are",
    )


@contextlib.contextmanager
def determinism(is_wanted: bool) -> Iterator[None]:
    """Inside the block PyTorch uses deterministic kernels; an operation that has none is an `InputError`.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if not is_wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        raise _explained(error) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _explained(error: RuntimeError) -> RuntimeError | InputError:
    """PyTorch's complaint about an operation as one line; any other error as it is."""
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found:
        return error
    return InputError(f"--deterministic, but {operation} has no deterministic form here: leave it out or use a CPU")
