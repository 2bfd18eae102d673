"""What one page teaches: its classes, their examples, its settings, and the classifier that follows.

A task is a value; every change makes a new one, so that undoing is going back to the one before. Whatever the change,
the classifier is the one that `FewShotClassifier(**settings).fit(images, names)` makes of the task.
"""

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metacontrast.classifier.estimator import FewShotClassifier
from metacontrast.classifier.explanation import Explanation
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point
from metacontrast.data.decode import decode, to_png
from metacontrast.errors import InputError
from metacontrast.training.sources import pretrained_names
from metacontrast.types import Inner, Scope

MOST_CLASSES, MOST_EXAMPLES = 20, 20
FIRST_CLASSES = ("A", "B")
LONGEST_NAME = 40
PAGE_PIXELS = 16_000_000
THUMBNAIL = 96
SESSION_BYTES = 24_000_000
MOST_UNDO = 50
FOLDS = 3
"""Of the cross-validation that calibrates: fewer than the library's own 5, for a quick answer to an added example."""
PAGE_STEPS, LARGEST_STEP = {"head": 100, "all": 10, "encoder": 10}, 10
MOST_SESSIONS, IDLE = 32, 15 * 60.0


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a class.

    Args:
        id: what the page and the classifier call it.
        data: the file.
        thumbnail: a small PNG, square as the model sees it.
    """

    id: str
    data: bytes
    thumbnail: bytes


@dataclass(frozen=True, eq=False)
class Board:
    """A class."""

    id: str
    name: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How the page's classifier learns; None is the model's own.

    Args:
        model: a name among the session's models.
        random_head: the seed of a random head to start from; None starts from zeros.
    """

    model: str
    steps: int | None = None
    lr: float | None = None
    scope: Scope | None = None
    random_head: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """All that is taught."""

    settings: Settings
    boards: tuple[Board, ...] = ()

    @property
    def labelled(self) -> dict[str, tuple[bytes, str]]:
        """Every example by id, with its class's name."""
        return {e.id: (e.data, board.name) for board in self.boards for e in board.examples}

    def board(self, id: str) -> Board:
        """The class of that id."""
        found = next((board for board in self.boards if board.id == id), None)
        if found is None:
            raise InputError("this class is no longer there: reload the page")
        return found

    def with_board(self, changed: Board) -> "Task":
        """The task with a class in place of the one with its id."""
        return replace(self, boards=tuple(changed if board.id == changed.id else board for board in self.boards))


class Session:
    """One page.

    Args:
        models: what the page may choose from, by name; the first is chosen.
    """

    def __init__(self, models: dict[str, StartingPoint]):
        self.models = dict(models)
        self._offered = frozenset(models)
        self.lock = threading.RLock()
        self._ids = itertools.count(1)
        self.task = Task(Settings(next(iter(models))), tuple(Board(self.new_id(), name) for name in FIRST_CLASSES))
        self.classifier: FewShotClassifier | None = None
        self.explain: Callable[[Any], Explanation] | None = None
        self.query = b""
        self.variants: Any = None
        self.watch: Any = None
        self.seconds = self.last_seen = 0.0
        self._learned = Task(self.task.settings)
        self._history: list[Task] = []

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._history)

    def new_id(self) -> str:
        """An id that this session has not given yet."""
        return f"e{next(self._ids)}"

    def add_class(self, name: str) -> None:
        """Add a class without examples."""
        if len(self.task.boards) >= MOST_CLASSES:
            raise InputError(f"there are {MOST_CLASSES} classes already: remove one first")
        board = Board(self.new_id(), _free_name(name, self.task))
        self._change(replace(self.task, boards=(*self.task.boards, board)))

    def rename_class(self, id: str, name: str) -> None:
        """Give a class another name."""
        board = self.task.board(id)
        if board.name != name.strip():
            self._change(self.task.with_board(replace(board, name=_free_name(name, self.task))))

    def remove_class(self, id: str) -> None:
        """Remove a class and its examples."""
        gone = self.task.board(id)
        self._change(replace(self.task, boards=tuple(board for board in self.task.boards if board is not gone)))

    def add_example(self, id: str, data: bytes) -> None:
        """Add an image to a class, after a strict look at it."""
        board = self.task.board(id)
        if len(board.examples) >= MOST_EXAMPLES:
            raise InputError(f"“{board.name}” has {MOST_EXAMPLES} examples already: remove one first")
        example = self.make_example(data)
        self._change(self.task.with_board(replace(board, examples=(*board.examples, example))))

    def remove_example(self, id: str) -> None:
        """Remove an image from its class."""
        for board in self.task.boards:
            kept = tuple(example for example in board.examples if example.id != id)
            if len(kept) < len(board.examples):
                self._change(self.task.with_board(replace(board, examples=kept)))

    def set_settings(self, **changes: Any) -> None:
        """Learn from the same examples with other settings; those that are not given stay.

        Another model starts with its own steps, step size and scope, unless these are given too.
        """
        now = self.task.settings
        own = {} if changes.get("model", now.model) == now.model else dict.fromkeys(("steps", "lr", "scope"))
        self._change(replace(self.task, settings=self._checked({**vars(now), **own, **changes})))

    def restore(self, names: Any = (), **settings: Any) -> None:
        """Replace everything by classes of these names without examples, for a page that was taught elsewhere."""
        if type(names) is not list or not all(type(name) is str for name in names) or len(names) > MOST_CLASSES:
            raise InputError("the page asked for something unknown: reload it")
        own = vars(Settings(next(iter(self.models))))
        after = Task(self._checked({**own, **settings}))
        for name in names:
            after = replace(after, boards=(*after.boards, Board(self.new_id(), _free_name(name, after))))
        self._change(after)

    def start_over(self, boards: tuple[tuple[str, tuple[bytes, ...]], ...], settings: Settings) -> None:
        """Replace everything that is taught."""
        settings = self._checked(vars(settings))
        made = tuple(Board(self.new_id(), name, tuple(map(self.make_example, images))) for name, images in boards)
        self._change(Task(settings, made))

    def add_model(self, start: StartingPoint) -> str:
        """Offer a further model under a free name; those that nothing refers to any more are let go."""
        used = {task.settings.model for task in (*self._history, self.task)}
        self.models = {name: each for name, each in self.models.items() if name in used or name in self._offered}
        stem = Path(start.name).name.partition(" (loaded")[0]
        name = next(name for n in itertools.count(1) if (name := f"{stem} (loaded {n})") not in self.models)
        self.models[name] = start
        return name

    def undo(self) -> None:
        """Take back the last change."""
        if self._history:
            before = self._history.pop()
            self._learn(before)
            self.task = before

    def close(self) -> None:
        """End what trains."""
        if self.watch is not None:
            self.watch.close()

    def make_example(self, data: bytes) -> Example:
        """An image, decoded as `fit` does, so that what `fit` would refuse is refused here."""
        pixels = decode(data, THUMBNAIL, "RGB", "bicubic", name="this file", max_pixels=PAGE_PIXELS)
        return Example(self.new_id(), data, to_png(pixels.transpose(1, 2, 0)))

    def inner(self, settings: Settings) -> Inner:
        """How the classifier of these settings adapts, with the model's own values filled in."""
        own = self.models[settings.model].inner
        steps = settings.steps or max(1, own.steps)
        return Inner(steps, settings.lr or own.lr, settings.scope or own.scope, "first", own.loss)

    def new_classifier(self, settings: Settings) -> FewShotClassifier:
        """An unfitted classifier that adapts by inner steps, which is what the page explains, whatever the model does.

        Where the whole network adapts, cross-validation would take too long to wait for.
        """
        inner = self.inner(settings)
        chosen = {"steps": inner.steps, "lr": inner.lr, "scope": inner.scope, "random_head": settings.random_head}
        folds = FOLDS if inner.scope == "head" else 0
        return FewShotClassifier(
            self.models[settings.model], head="adapted", **chosen, folds=folds, max_pixels=PAGE_PIXELS, device="cpu"
        )

    def head_start(self, settings: Settings) -> str:
        """What the head starts at: `zero`, `random`, or the model's `own` way, such as the class means."""
        if settings.random_head is not None:
            return "random"
        return "own" if self.models[settings.model].model.head == "prototype" else "zero"

    def _checked(self, wanted: dict[str, Any]) -> Settings:
        """The settings of these values, wherever they come from, as the page allows them."""
        model, steps, lr, scope, seed = (wanted[each.name] for each in fields(Settings))
        if type(model) is not str or model not in self.models:
            raise InputError("there is no such model: choose one from the list")
        if not (scope is None or scope in ("head", "all")):
            raise InputError("what adapts is either the head or the whole network")
        most = PAGE_STEPS[scope or self.models[model].inner.scope]
        if not (steps is None or (type(steps) is int and 1 <= steps <= most)):
            raise InputError(f"inner steps: choose a whole number from 1 to {most}")
        if not (lr is None or (type(lr) in (int, float) and 0 < lr <= LARGEST_STEP)):
            raise InputError(f"step size: choose a number above 0, and {LARGEST_STEP} at most")
        if not (seed is None or (type(seed) is int and 0 <= seed < 1_000_000)):
            raise InputError("seed: choose a whole number from 0 to 999999")
        return Settings(model, steps, None if lr is None else float(lr), scope, seed)

    def _change(self, after: Task) -> None:
        """Learn the task after a change; where that fails nothing has changed."""
        kept = [*self._history, self.task][-MOST_UNDO:]
        while len(kept) > 1 and _size([*kept, after]) > SESSION_BYTES:  # the last change can always be taken back
            kept.pop(0)
        if _size([after]) > SESSION_BYTES:
            raise InputError(f"this page holds {SESSION_BYTES // 10**6} MB of images at most: remove or shrink some")
        self._learn(after)
        self.task, self._history = after, kept

    def _learn(self, after: Task) -> None:
        new, old = after.labelled, self._learned.labelled
        started = time.perf_counter()
        if len({label for _, label in new.values()}) < 2:
            classifier = None
        elif self.classifier is not None and after.settings == self._learned.settings and _extends(new, old):
            classifier, new = self.classifier, {id: image for id, image in new.items() if id not in old}
        else:
            classifier = self.new_classifier(after.settings)
        if classifier is not None and new:
            classifier.partial_fit({id: data for id, (data, _) in new.items()}, [label for _, label in new.values()])
        explain = classifier.explainer() if classifier is not None else None
        self.classifier, self.explain, self._learned, self.variants = classifier, explain, after, None
        self.seconds = time.perf_counter() - started


class Sessions:
    """The pages that are open, up to a limit; a page that has been idle for a while is closed to make room."""

    def __init__(self, models: dict[str, StartingPoint], clock: Callable[[], float] = time.monotonic):
        self.models, self._clock = models, clock
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}

    def add(self) -> tuple[str, Session]:
        """A new session and its id; `InputError` where too many pages are in use."""
        with self._lock:
            for id, session in list(self._open.items()):
                if self._clock() - session.last_seen > IDLE:
                    session.close()
                    del self._open[id]
            if len(self._open) >= MOST_SESSIONS:
                raise InputError(f"{MOST_SESSIONS} pages are open already: close one and wait {IDLE / 60:g} minutes")
            id, session = secrets.token_urlsafe(16), Session(self.models)
            self._open[id], session.last_seen = session, self._clock()
            return id, session

    def find(self, id: str) -> Session | None:
        """The session of that id, which is then in use."""
        with self._lock:
            if (session := self._open.get(id)) is not None:
                session.last_seen = self._clock()
            return session

    def close(self) -> None:
        """End what trains."""
        for session in self._open.values():
            session.close()


def _free_name(name: str, task: Task) -> str:
    """The name as the task can have it for a further class."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(f"a class needs a name of 1 to {LONGEST_NAME} characters")
    if any(board.name == name for board in task.boards):
        raise InputError(f"there is a class “{name}” already: choose another name")
    return name


def _extends(new: dict[str, tuple[bytes, str]], old: dict[str, tuple[bytes, str]]) -> bool:
    """Whether everything that was learned is still there, under the same names."""
    return all(id in new and new[id][1] == label for id, (_, label) in old.items())


def _size(tasks: list[Task]) -> int:
    """Bytes of all images, each counted once."""
    examples = {e.id: e for task in tasks for board in task.boards for e in board.examples}
    return sum(len(e.data) + len(e.thumbnail) for e in examples.values())


def available_models(own: str | Path | None = None) -> dict[str, StartingPoint]:
    """The models that the page offers, by name; `own` is a further one, or one of them, that comes first."""
    names = [name for name in ("omniglot-conv4", *pretrained_names()) if name != own]
    return {str(name): load_starting_point(name) for name in ([own] if own else []) + list(dict.fromkeys(names))}
