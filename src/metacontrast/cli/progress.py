"""Progress of a training: a bar, and a first Ctrl-C that asks it to save and stop."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from metacontrast.cli.shared import say
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import Record


class Progress:
    """Progress bar on a terminal with accuracy, tasks per second and time left; a line per evaluation everywhere.

    Args:
        names: what a run's lines begin with.
        label: what the bar begins with.
    """

    def __init__(self, configs: Sequence[TrainConfig], names: Sequence[str], label: str):
        total = sum(config.updates for config in configs)
        self._bar = tqdm(total=total, desc=label, unit="update", disable=None, dynamic_ncols=True)
        self._tasks_per_update = configs[0].meta_batch
        self._names = names
        self._evaluation: list[Record] = []
        self._done_before = 0
        self.seen: set[int] = set()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def show(self, number: int, record: Record) -> None:
        """Display a record of the run with that number, counted from 0."""
        if record["kind"] == "training":
            self._show_training(number, record)
        elif record["kind"] == "evaluation":
            self._show_evaluation(self._names[number], record)

    def _show_training(self, number: int, record: Record) -> None:
        if number not in self.seen:
            self.seen.add(number)
            self._done_before += record["update"] - 1
            self._bar.initial = self._done_before
            self._bar.n += record["update"] - 1
        self._bar.update()
        rate = (self._bar.format_dict["rate"] or 0) * self._tasks_per_update
        self._bar.set_postfix_str(f"training accuracy {record['accuracy']:.3f}, {rate:.0f} tasks/s", refresh=False)

    def _show_evaluation(self, name: str, record: Record) -> None:
        self._evaluation.append(record)
        if record["method"] != "maml":
            shown = (f"{row_in_words(each)} {100 * each['accuracy']:.1f} %" for each in self._evaluation)
            tqdm.write(f"{name}update {record['update']}: {', '.join(shown)}", file=sys.stderr)
            self._evaluation = []


def row_in_words(record: Record) -> str:
    """Describe an evaluation in a few words."""
    if record["method"] != "maml":
        return str(record["method"])
    return f"{record['head']} head after {record['steps']} step{'s' * (record['steps'] != 1)}"


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether to stop: the first Ctrl-C asks, the second interrupts at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("stopping after this update (Ctrl-C again aborts)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
