"""Signs of life: a process of a shared training ends when another's machine is lost, in place of waiting for it.

A process that dies closes its connections, and the others notice. A machine that loses power or its network closes
nothing: whoever waits for it would wait for hours. So every process counts up in the store that `torchrun` keeps on the
first machine, and one whose count stands still for `SILENCE` seconds is given up. A shorter loss of the network changes
nothing: what was sent meanwhile arrives afterwards.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

SILENCE = 180.0
_BEAT = 2.0
_LEFT = 2**40
"""Added to the count of a process that has ended, which is none that is missed."""


@contextlib.contextmanager
def watched(rank: int, count: int) -> Iterator[None]:
    """Inside this block give signs of life, and end this process when another gives none."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=SILENCE))
    store.set(_key(rank), "0")
    heard, is_over = {other: (0, time.monotonic()) for other in range(count) if other != rank}, threading.Event()
    for task in (_beat, _judge):  # two, because a store on a lost machine may never answer
        threading.Thread(target=task, args=(store, rank, heard, is_over), daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # still judged meanwhile: the store may be lost
            store.add(_key(rank), _LEFT)
        is_over.set()


Heard = dict[int, tuple[int, float]]
"""Of every other process the last count, and when it was first read."""


def _beat(store: Store, rank: int, heard: Heard, is_over: threading.Event) -> None:
    """Count up, and read the others' counts."""
    while not is_over.wait(_BEAT):
        with contextlib.suppress(RuntimeError):
            store.add(_key(rank), 1)
            for other, (before, _) in heard.items():
                if (now := store.add(_key(other), 0)) != before:
                    heard[other] = now, time.monotonic()


def _judge(store: Store, rank: int, heard: Heard, is_over: threading.Event) -> None:
    """End this process when another is silent for too long."""
    while not is_over.wait(_BEAT):
        since = time.monotonic() - SILENCE
        if lost := [other for other, (last, when) in heard.items() if when < since and last < _LEFT]:
            print(f"metacontrast: error: {_complaint(lost)}", file=sys.__stderr__, flush=True)
            os._exit(1)


def _complaint(lost: list[int]) -> str:
    names = ("process " if len(lost) == 1 else "processes ") + ", ".join(map(str, lost))
    return (
        f"{names} of this training gave no sign of life for {SILENCE:g} s, its machine or the network to it is lost: "
        "torchrun starts all again if it may, else do so with --resume"
    )


def _key(rank: int) -> str:
    return f"metacontrast/life/{rank}"
