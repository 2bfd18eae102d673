"""Two small models that meta-train while one watches: a random head against a zeroed head, on the same tasks.

Each update is that of `metacontrast train`: the mean outer gradient of a few tasks, a step of Adam, and for the zeroed
head the zeroing trick. What is shown of it:

- accuracy on fixed test tasks of characters that are never trained on,
- the shares of the encoder's outer gradient on one of them, ⟨part, g⟩ / |g|², which sum to 1,
- the class-by-class cosine similarity of that task's query and support features,
- the weight with which each support image acts on the first query image of that task, which is negative for a pull.
"""

import secrets
import threading
import time
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from metacontrast.data.decode import to_png
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.glyphs import draw_characters, fonts_with, split_of
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.diagnostics.task_view import REMAINDER, TaskView, describe_parts, view_task
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import adapt
from metacontrast.model.encoders import conv4
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model, apply_head
from metacontrast.training.checkpoint import TrainState
from metacontrast.training.step import OuterStep
from metacontrast.types import Episode, Inner, Params, to_tensors

WAYS, SHOTS, QUERIES, SIDE, FILTERS = 5, 1, 3, 28, 16
META_BATCH, INNER, OUTER_LR = 4, Inner(steps=1, lr=0.4, order="first"), 3e-3
TEST_TASKS, PROBE, PROBED_QUERIES = 10, 100, 5
SLOWEST, FASTEST, MOST_SEED = 1.0, 60.0, 999_999
MOST_UPDATES = 2000
UNSEEN_FOR = 15.0
COMPARED_HEADS = ("random", "zeroed")
TRAIN = (*range(0x0391, 0x03AA), *range(0x03B1, 0x03CA), *range(0x0410, 0x0450), *range(0x0531, 0x0557))
TEST = (*range(0x10D0, 0x10F6), *range(0x0E81, 0x0EAF))
"""Code points: Greek, Cyrillic and Armenian letters are trained on; Georgian and Lao letters are tested on."""


@dataclass
class Learner:
    """One of the two models as it stands."""

    model: Model
    params: Params
    optimizer: torch.optim.Optimizer

    @staticmethod
    def start(head: str, seed: int) -> "Learner":
        """The model before its first update; both have the same encoder for the same seed."""
        encoder = conv4(1, SIDE, filters=FILTERS, downsampling="stride")
        model = Model(encoder, WAYS, head="zeroed" if head == "zeroed" else "learned")
        params = Model(encoder, WAYS).init(torch.Generator().manual_seed(seed))
        params = zero_head(params) if head == "zeroed" else params
        return Learner(model, params, torch.optim.Adam(to_tensors(params), lr=OUTER_LR))

    def update(self, episodes: Episode) -> None:
        """One outer update."""
        step = OuterStep(self.model, lambda updates: INNER, partial(meta_gradient, engine=Engine("vmap")), META_BATCH)
        step(TrainState(self.params, self.optimizer), episodes)

    def accuracy(self, episodes: Episode) -> float:
        """Share of query images that are right after adapting, mean over tasks."""
        adapted = adapt(self.model, self.params, episodes.support_x, episodes.support_y, INNER)
        with torch.no_grad():
            query = self.model.query_task_features(adapted.encoder, episodes.support_x, episodes.query_x)
            return (apply_head(adapted.head, query).argmax(-1) == episodes.query_y).double().mean().item()


class Watch:
    """The pair, with a thread that updates it while it plays.

    One thread for both: so small a model spends most of its time in Python, of which two threads run one at a time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed, self._speed = False, 10.0
        self._seen = time.monotonic()
        self._reset(0)

    def control(self, do: str, *, seed: Any = None, speed: Any = None) -> None:
        """Play, pause, step, reset with a seed, or set the speed in updates a second."""
        with self._changed:
            if do == "reset":
                if not (type(seed) is int and 0 <= seed <= MOST_SEED):
                    raise InputError(f"seed: choose a whole number from 0 to {MOST_SEED}")
                self._reset(seed)
            elif do == "speed":
                if not (type(speed) in (int, float) and SLOWEST <= speed <= FASTEST):
                    raise InputError(f"speed: choose {SLOWEST:g} to {FASTEST:g} updates a second")
                self._speed = float(speed)
            elif do in ("play", "pause"):
                self._playing = do == "play"
            elif do == "step":
                self._playing, self._steps = False, self._steps + 1
            else:
                raise InputError("the page asked for something unknown: reload it")
            self._start()
            self._changed.notify_all()

    def read(self, generation: int, since: int) -> dict[str, Any]:
        """The updates after number `since`, or all where the page knows those of another start."""
        with self._changed:
            self._seen = time.monotonic()
            self._start()
            self._changed.notify_all()
            if generation != self._generation:
                since = -1
            return {
                "generation": self._generation,
                "playing": self._playing,
                "speed": self._speed,
                "seed": self._seed,
                "problem": self._problem,
                "limit": MOST_UPDATES,
                "records": [record for record in self._records if record["update"] > since],
                "latest": self._latest,
            }

    def close(self) -> None:
        """Let the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _reset(self, seed: int) -> None:
        self._seed, self._steps, self._update = seed, 0, 0
        self._generation = secrets.randbits(52)  # which JavaScript's numbers hold, and no other server's is
        self._records: list[dict[str, Any]] = []
        self._latest: dict[str, Any] | None = None
        self._learners: dict[str, Learner] | None = None
        self._playing, self._problem = False, ""

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            characters()
            while True:
                with self._changed:
                    self._changed.wait_for(self._has_work)
                    if self._closed:
                        return
                    generation, seed, update, learners = self._generation, self._seed, self._update, self._learners
                    pause = 0.0 if self._steps or learners is None else 1 / self._speed
                started = time.monotonic()
                self._keep(generation, *self._work(seed, update, learners))
                time.sleep(max(0.0, pause - (time.monotonic() - started)))
        except Exception as error:  # the thread has nobody to raise to; the page shows it
            with self._changed:
                self._problem, self._thread = f"the training stopped ({error}): reset it", None
                self._playing = False
                self._changed.notify_all()

    def _has_work(self) -> bool:
        if time.monotonic() - self._seen > UNSEEN_FOR:
            self._playing = False
        more = self._update < MOST_UPDATES and (self._playing or self._steps > 0)
        return self._closed or self._learners is None or more

    def _work(
        self, seed: int, update: int, learners: dict[str, Learner] | None
    ) -> tuple[dict[str, Learner], dict[str, Any], dict[str, Any]]:
        """Make one update of both, or look at them before the first."""
        train, test = characters()
        tasks = EpisodeSampler(train, WAYS, SHOTS, QUERIES, seed=seed)
        tests = EpisodeSampler(test, WAYS, SHOTS, QUERIES, seed=PROBE)
        probe = EpisodeSampler(test, WAYS, SHOTS, PROBED_QUERIES, seed=PROBE)[0]
        batch = tasks.batch(range(META_BATCH * update, META_BATCH * (update + 1))) if learners else None
        pair = learners or {head: Learner.start(head, seed) for head in COMPARED_HEADS}
        tested = tests.batch(range(TEST_TASKS))

        def one(learner: Learner) -> tuple[dict[str, Any], dict[str, Any]]:
            if batch is not None:
                learner.update(batch)
            view = view_task(learner.model, learner.params, INNER, probe)
            shown = {"map": view.before[0].tolist(), "weights": view.coefficients[0].tolist()}
            return {"accuracy": learner.accuracy(tested)} | _shares(view), shown

        records, latest = zip(*(one(pair[head]) for head in COMPARED_HEADS), strict=True)
        return pair, dict(zip(COMPARED_HEADS, records, strict=True)), dict(zip(COMPARED_HEADS, latest, strict=True))

    def _keep(self, generation: int, pair: dict[str, Learner], record: dict[str, Any], latest: dict[str, Any]) -> None:
        with self._changed:
            if generation == self._generation:
                if self._learners is not None:
                    self._update, self._steps = self._update + 1, max(0, self._steps - 1)
                self._learners, self._latest = pair, latest
                self._records.append({"update": self._update} | record)
                self._changed.notify_all()


@cache
def characters() -> tuple[ClassImages, ClassImages]:
    """The characters to train on and those to test on, drawn once."""

    def drawn(split: str, codes: tuple[int, ...]) -> ClassImages:
        wanted = [c for c in map(chr, codes) if fonts_with(c) and split_of(c) == split]
        return group_by_class(f"glyphs/{split}", draw_characters(wanted, SIDE))

    return drawn("train", TRAIN), drawn("test", TEST)


@cache
def probed_images() -> dict[str, bytes]:
    """The probed task's images as PNGs, by name."""
    _, test = characters()
    rows = EpisodeSampler(test, WAYS, SHOTS, PROBED_QUERIES, seed=PROBE).rows(0)
    named = {"query": rows.query[0]} | {f"support-{k}": row for k, row in enumerate(rows.support)}
    return {name: to_png(test.images[int(row), 0].numpy()) for name, row in named.items()}


def _shares(view: TaskView) -> dict[str, float]:
    """Contrast, interference and the rest of the gradient of the probed task."""
    gradient, *parts = view.gradients
    flat = [part if part.ndim else gradient.new_zeros(len(gradient)) for part in parts]
    found = describe_parts(gradient, torch.stack(flat))
    contrast = found["contrastive_query"].share + found["contrastive_support"].share
    rest = found["head_curvature"].share + found[REMAINDER].share
    return {"contrast": contrast, "interference": found["interference"].share, "rest": rest}
