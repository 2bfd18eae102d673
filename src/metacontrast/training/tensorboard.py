"""TensorBoard events of a run, an optional extra."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from metacontrast.errors import require_extra
from metacontrast.training.records import Record, scalars


@contextlib.contextmanager
def tensorboard_writer(folder: Path | None) -> Iterator[Callable[[Record], None]]:
    """A function that logs records into `folder`/tensorboard; with None it does nothing."""
    if folder is None:
        yield lambda record: None
        return
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard") as writer:

        def log(record: Record) -> None:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record["update"])

        yield log


def require_tensorboard() -> None:
    """Raise `InputError` when the extra is not installed."""
    require_extra("--tensorboard", "tensorboard", "tensorboard")
