"""One training over many processes: each has its share of every update's tasks, and all take the same step.

    g = Σ over ranks of (B_r / B) g_r,     B_r of the B tasks are the rank's, g_r the mean of their gradients

`torchrun` starts the processes; rank 0 is the main one. Every update is one sum over the ranks of the gradient and the
metrics, so that parameters, moments and the zeroed head are the same everywhere. Which tasks an update has does not
depend on the number of ranks.

A process that dies closes its connections, and the others notice. A machine that loses power or its network closes
nothing, and the others would wait for hours. So every process counts up in the store that `torchrun` keeps on the first
machine; when the count of one has not changed for `SILENCE` seconds, the others end. A shorter loss of the network
changes nothing: messages arrive afterwards.
"""

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from metacontrast.errors import InputError, first_line
from metacontrast.maml.outer import Metrics
from metacontrast.training.checkpoint import Stored, TrainState, restore_state, store_state
from metacontrast.types import Params, from_tensors, to_tensors

_PATIENCE = timedelta(days=1)
"""The main process may evaluate for long while the others wait; one that died is noticed, see `watched`."""

_JOINING = timedelta(minutes=3)
"""A process that does not come is waited for this long; then `torchrun` may start all again."""


@dataclass(frozen=True)
class Distributed:
    """The processes of a training.

    Args:
        rank: number of this process; 0 is the main one, which alone writes and reports.
        count: of all processes.
        here: how many of them share this machine.
        device: where they exchange tensors, `cpu` or `cuda`.
        group: through which they exchange them; None is PyTorch's own.
    """

    rank: int = 0
    count: int = 1
    here: int = 1
    device: str = "cpu"
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def shard(self, tasks: range, at_once: int = 1) -> range:
        """This rank's share of an update's tasks, in a row, of which `at_once` stay together."""
        groups = len(tasks) // at_once
        if groups < self.count:
            together = f" of which {at_once} stay together" if at_once > 1 else ""
            raise InputError(
                f"an update of {len(tasks)} tasks{together} cannot be shared by {self.count} processes: start at most "
                f"{groups}, or raise --meta-batch"
            )
        return tasks[at_once * (groups * self.rank // self.count) : at_once * (groups * (self.rank + 1) // self.count)]

    def all_reduce_mean(
        self, gradient: Params, metrics: Metrics, tasks: int, at_once: int = 1
    ) -> tuple[Params, Metrics]:
        """Mean gradient and metrics of all `tasks` of an update, from those of every rank's own; as for `shard`."""
        if self.count == 1:
            return gradient, metrics
        own, tensors, seen = self.shard(range(tasks), at_once), to_tensors(gradient), torch.stack(metrics)
        values = seen.new_zeros(len(metrics), tasks)
        values[:, own] = seen
        share = len(own) / tasks
        summed = self._sum(torch.cat([*(share * t.flatten() for t in tensors), values.flatten()]))
        parts = summed.split([*(t.numel() for t in tensors), values.numel()])
        found = [part.view_as(t) for part, t in zip(parts, tensors, strict=False)]
        return from_tensors(gradient, found), Metrics(*parts[-1].view_as(values))

    def any(self, asked: bool) -> bool:
        """Whether any rank was asked."""
        return asked if self.count == 1 else bool(self._sum(torch.tensor(float(asked), device=self.device)) > 0)

    def check_same(self, digests: Mapping[str, str]) -> None:
        """Raise `InputError` in every process unless all have these digests, by what they are of."""
        found: list[Mapping[str, str]] = [digests] * self.count
        if self.count > 1:
            with _one_line():
                dist.all_gather_object(found, dict(digests), group=self.group)
        for rank, other in enumerate(found):
            for name in sorted(found[0].keys() | other.keys()):
                if found[0].get(name) != other.get(name):
                    raise InputError(
                        f"process {rank} of this training has another {name} than process 0: start all with the same "
                        "flags and data"
                    )

    def broadcast(self, state: TrainState) -> TrainState:
        """`state` as the main process has it."""
        if self.count == 1:
            return state
        box = [store_state(state) if self.is_main else None]
        with _one_line():
            dist.broadcast_object_list(box, src=0, group=self.group, device=torch.device(self.device))
        assert isinstance(box[0], Stored)
        return restore_state(state, box[0], "what the main process sent")

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block on the main process first, so that the others reuse its caches."""
        if not self.is_main:
            self.any(False)
        yield
        if self.is_main:
            self.any(False)

    def _sum(self, tensor: Tensor) -> Tensor:
        with _one_line():
            dist.all_reduce(tensor, group=self.group)
        return tensor


ALONE = Distributed()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Distributed]:
    """The processes that `torchrun` started, this one among them; this one alone where it was started without.

    Args:
        device: `cpu` or `cuda`; each process of a machine takes a GPU of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    with contextlib.ExitStack() as stack:
        with _one_line():
            store, rank, count = next(rendezvous("env://", timeout=_JOINING))
            start = _start(store, rank, count)
            backend, apart = "nccl" if gpu else "gloo", PrefixStore(start, store)
            dist.init_process_group(backend, store=apart, rank=rank, world_size=count, timeout=_JOINING, device_id=gpu)
            stack.callback(dist.destroy_process_group)
            stack.enter_context(watched(start, rank, count))
            group = dist.new_group(timeout=_PATIENCE)
            assert isinstance(group, dist.ProcessGroup)
        yield Distributed(rank, count, processes_here(), device, group)


def _start(store: Store, rank: int, count: int) -> str:
    """Name of this start of the processes, the same in all of them.

    The store of `torchrun` outlives processes that died, and has their addresses; restarted processes that read them
    do not find each other. So the main process numbers the starts and tells the others, each of which has a name that
    no dead process had. `torchrun` has no such number: it counts the restarts of each machine on its own.
    """
    if rank > 0:
        name = uuid.uuid4().hex
        store.set(f"metacontrast/name/{rank}", name)
        start = f"metacontrast/start/{store.get(f'metacontrast/start of/{name}').decode()}"
        store.set(f"{start}/{rank}", "")
        return start
    number = store.add("metacontrast/starts", 1)
    start, deadline = f"metacontrast/start/{number}", time.monotonic() + _JOINING.total_seconds()
    missing = set(range(1, count))
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from process {min(missing)}")
        for other in [each for each in missing if store.check([f"metacontrast/name/{each}"])]:
            store.set(f"metacontrast/start of/{store.get(f'metacontrast/name/{other}').decode()}", str(number))
            if store.check([f"{start}/{other}"]):
                missing.remove(other)
        time.sleep(0.01)
    return start


def processes_here() -> int:
    """How many processes `torchrun` started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_restarted() -> bool:
    """Whether `torchrun` started the processes again after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """A failed exchange as one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = first_line(error).partition(". ")[0]
        raise InputError(
            f"another process of this training cannot be reached ({reason}): start all again with --resume"
        ) from error


SILENCE = 180.0
_BEAT = 2.0
_PARTING = 10.0
"""Seconds that a process which ends waits for a store that may not answer."""
_LEFT = 2**40
"""Added to the count of a process that has ended, which is none that is missed."""


@contextlib.contextmanager
def watched(start: str, rank: int, count: int) -> Iterator[None]:
    """Inside this block give signs of life, and end this process when another gives none.

    Args:
        start: prefix of the keys in the store of `torchrun`.
        rank: of this process.
        count: of all processes.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=SILENCE))
    store = PrefixStore(start, client)
    store.set(_key(rank), "0")
    heard, is_over = {other: (0, time.monotonic()) for other in range(count) if other != rank}, threading.Event()
    arguments = (store, rank, heard, is_over)
    threads = [threading.Thread(target=task, args=arguments, daemon=True) for task in (_beat, _judge)]
    for thread in threads:  # two, because a store on a lost machine may never answer
        thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # still judged meanwhile: the store may be lost
            store.add(_key(rank), _LEFT)
        is_over.set()
        for thread in threads:  # a thread that is in the store when the interpreter ends aborts the process
            thread.join(timeout=_PARTING)


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
            names = ("process " if len(lost) == 1 else "processes ") + ", ".join(map(str, lost))
            complaint = (
                f"{names} of this training gave no sign of life for {SILENCE:g} s, its machine or the network to it is "
                "lost: torchrun starts all again if it may, else do so with --resume"
            )
            print(f"metacontrast: error: {complaint}", file=sys.__stderr__, flush=True)
            os._exit(1)


def _key(rank: int) -> str:
    return f"life/{rank}"
