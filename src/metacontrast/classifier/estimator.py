"""`FewShotClassifier`: scikit-learn's conventions around a meta-trained model."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from metacontrast.classifier import storage
from metacontrast.classifier.explanation import Explanation, explainer
from metacontrast.classifier.fitted import Answers, fit_support
from metacontrast.classifier.inputs import as_items, folder_of, labelled_items
from metacontrast.classifier.labels import (
    as_array,
    as_labels,
    as_plain,
    check_reject_label,
    composed,
    from_json,
    to_json,
    weighted_mean,
)
from metacontrast.classifier.plan import Plan, check_max_pixels, make_plan
from metacontrast.classifier.progress import Track, unseen, with_bar
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point, save_starting_point
from metacontrast.classifier.storage import State
from metacontrast.classifier.stream import Prediction, predict_each
from metacontrast.classifier.support import Support, join, make_support
from metacontrast.data.decode import MAX_PIXELS, Item
from metacontrast.device import find_device
from metacontrast.errors import InputError
from metacontrast.fields import as_declared
from metacontrast.files import as_path, why_no_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ADVICE = "replace or remove them, or raise max_pixels for those that are too large"
_NOT_SAVED = ("model", "device", "verbose")


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of one's own images from a few examples of each class; any number of classes.

    Images are a folder, or a list or stack of paths, PIL images, arrays or tensors, see `classifier.inputs`. Labels
    are anything hashable. Every class has the same share in the adaptation, however many examples it has. As
    scikit-learn has it, `fit` checks the parameters.

    Args:
        model: a model that comes with the package, a folder that `metacontrast train` or `save_pretrained` wrote, or a
            `StartingPoint`.
        steps: inner steps; None is what the model was trained with, `auto` chooses steps and step size by
            cross-validation on the support images.
        lr: inner step size; None is what the model was trained with.
        scope: `head` adapts the head alone, `all` the whole net; None is what the model was trained with.
        baseline: `prototype` predicts with the nearest class mean on the un-adapted features, `auto` with whichever
            cross-validation prefers, None with the adapted model.
        folds: the most parts of the cross-validation that sets temperature, rejection and `compare_`; 0 leaves it out.
        reject: the share of images of known classes that may be refused so that unknown ones are; None refuses nothing.
        random_head: start from a random head of this seed, not from zeros, to see what the zeros are good for.
        reject_label: what `predict` calls a refused image, no class's label. With None the labels are objects; with a
            label of the classes' kind, such as `"unknown"` among texts or -1 among numbers, they stay of that kind,
            which scikit-learn's reports need.
        max_pixels: larger images are refused before they are unpacked.
        skip_unreadable: leave out images of the support set that cannot be read.
        device: where to compute: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        verbose: show progress bars of `fit` on standard error.

    Attributes:
        classes_: the labels, sorted where they can be.
        temperature_: of the probabilities; 1 where no class has a second image.
        threshold_: the similarity below which an image is refused, or None.
        compare_: how each way of adapting did in cross-validation, most accurate first.
        support_: the images learned from.
    """

    def __init__(
        self,
        model: Any = "omniglot-conv4",
        *,
        steps: Any = None,
        lr: Any = None,
        scope: Any = None,
        baseline: Any = None,
        folds: Any = 5,
        reject: Any = None,
        random_head: Any = None,
        reject_label: Any = None,
        max_pixels: Any = MAX_PIXELS,
        skip_unreadable: Any = False,
        device: Any = "auto",
        verbose: Any = False,
    ):
        self.model = model
        self.steps = steps
        self.lr = lr
        self.scope = scope
        self.baseline = baseline
        self.folds = folds
        self.reject = reject
        self.random_head = random_head
        self.reject_label = reject_label
        self.max_pixels = max_pixels
        self.skip_unreadable = skip_unreadable
        self.device = device
        self.verbose = verbose

    @classmethod
    def from_pretrained(cls, model: str | Path, **parameters: Any) -> "FewShotClassifier":
        """A classifier that will start from a model that comes with the package, or from one in a folder."""
        load_starting_point(model)
        return cls(model, **parameters)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the meta-trained starting point, without what was fitted: `config.json` and `model.safetensors`.

        Where `steps`, `lr` or `scope` are given they become what the saved model adapts with by default.
        """
        start, plan = self._start_and_plan()
        save_starting_point(replace(start, inner=plan.inner), as_path(folder))

    def save(self, folder: str | Path) -> None:
        """Write the fitted classifier, support images included: `config.json` and `model.safetensors`.

        Labels must be text, numbers or tuples of these.
        """
        parameters = {name: value for name, value in self.get_params().items() if name not in _NOT_SAVED}
        if (label := parameters["reject_label"]) is not None:
            parameters["reject_label"] = to_json(as_plain(label))
        storage.save(as_path(folder), self._fitted_state(), parameters)

    @classmethod
    def load(cls, folder: str | Path) -> "FewShotClassifier":
        """The fitted classifier that `save` or `metacontrast fit` wrote."""
        folder = as_path(folder)
        state, parameters = storage.load(folder)
        try:
            loaded = cls().set_params(**parameters | {"reject_label": from_json(parameters.get("reject_label"))})
            loaded._plan(state.start)
            check_max_pixels(loaded.max_pixels)
            check_reject_label(loaded.reject_label, state.support.classes)
        except ValueError as error:
            raise InputError(f"{folder / storage.CONFIG}: parameters: {error}") from error
        return loaded.set_params(model=state.start)._remember(state)

    def fit(self, X: Any, y: Any = None) -> "FewShotClassifier":
        """Learn the classes of labelled images, or with `y` left out of a folder that has a folder for each class."""
        start, plan = self._start_and_plan()
        items, labels, images = self._read_labelled(start, X, y)
        return self._learn(start, plan, make_support(images, labels, [item.name for item in items]))

    def partial_fit(self, X: Any, y: Any = None) -> "FewShotClassifier":
        """Add examples and classes: the same as `fit` on the union of all that was given so far.

        The model stays the one that was fitted.
        """
        if not hasattr(self, "state_"):
            return self.fit(X, y)
        start, plan = self.state_.start, self._plan(self.state_.start)
        items, labels, images = self._read_labelled(start, X, y)
        return self._learn(start, plan, join(self.support_, images, labels, [item.name for item in items]))

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of every image; with `reject` set, `reject_label` for an image that is refused."""
        return self._labels(self.answer(X))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities `(image, class)` in the order of `classes_`."""
        return self.answer(X).probabilities.numpy()

    def is_rejected(self, X: Any) -> NDArray[np.bool_]:
        """A mask of the images that are refused as unlike every class; none unless `reject` is set."""
        return self.answer(X).rejected.numpy()

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The share of images that are answered rightly; a refusal counts as wrong."""
        self._fitted_state()
        items, labels = _labelled(X, y)
        guesses = self._labels(self._answer(items)).tolist()
        right = [guess == label for guess, label in zip(guesses, labels, strict=True)]
        return weighted_mean(right, sample_weight)

    def explain(self, image: Any) -> Explanation:
        """What each support image did for and against the answer to one image."""
        return self.explainer()(image)

    def explainer(self) -> Callable[[Any], Explanation]:
        """`explain` for many images: what does not depend on the image is computed once."""
        state = self._fitted_state()
        explain_pixels = explainer(state.start, state.support, state.fitted, state.plan)
        return lambda image: explain_pixels(self._pixels(image))

    def draw_explanation(self, image: Any, count: int = 8) -> "Figure":
        """`explain` as a matplotlib figure: the image, and the `count` support images that mattered most."""
        from metacontrast.classifier.picture import draw_explanation

        return draw_explanation(self._fitted_state(), self.explain(image), self._pixels(image), count)

    def answer(self, X: Any) -> Answers:
        """Probabilities, similarity and refusals of images, all of which must be readable."""
        self._fitted_state()
        return self._answer(as_items(X))

    def predict_each(self, X: Any, *, explain: bool = False) -> Iterator[Prediction]:
        """One prediction after the other for any number of images; what cannot be read is named and the rest answered.

        Args:
            explain: give every prediction its explanation.
        """
        state, limit, device = self._fitted_state(), check_max_pixels(self.max_pixels), find_device(self.device)
        return predict_each(state, as_items(X), limit, device, explain=explain)

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn may expect: images, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags

    def _start_and_plan(self) -> tuple[StartingPoint, Plan]:
        start = load_starting_point(self.model)
        return start, self._plan(start)

    def _plan(self, start: StartingPoint) -> Plan:
        names = ("steps", "lr", "scope", "baseline", "folds", "reject", "random_head")
        return make_plan(start.inner, **{name: getattr(self, name) for name in names})

    def _read_labelled(self, start: StartingPoint, X: Any, y: Any) -> tuple[list[Item], list[Hashable], torch.Tensor]:
        items, labels = _labelled(X, y)
        numbered = [item._replace(label=str(i)) for i, item in enumerate(items)]
        limit, skip = check_max_pixels(self.max_pixels), as_declared("skip_unreadable", self.skip_unreadable, bool)
        advice = f"{_ADVICE}, or leave them out with skip_unreadable"
        track = self._track(numbered, "reading", "image")
        kept, images = start.images.read(track, limit, skip_unreadable=skip, advice=advice)
        return kept, [labels[int(item.label)] for item in kept], images

    def _answer(self, items: list[Item]) -> Answers:
        state = self._fitted_state()
        _, pixels = state.start.images.read(items, check_max_pixels(self.max_pixels), advice=_ADVICE)
        return state.fitted.on(find_device(self.device)).answer(pixels)

    def _pixels(self, image: Any) -> torch.Tensor:
        form, limit = self._fitted_state().start.images, check_max_pixels(self.max_pixels)
        return form.read(as_items([image]), limit, advice=_ADVICE)[1][0]

    @property
    def _track(self) -> Track:
        return with_bar if self.verbose else unseen

    def _labels(self, answers: Answers) -> NDArray[Any]:
        guesses = answers.probabilities.argmax(1).numpy()
        if self.threshold_ is None:
            return self.classes_[guesses]
        refused = check_reject_label(self.reject_label, self._fitted_state().support.classes)
        known = as_array([*self.classes_.tolist(), refused])
        return known[np.where(answers.rejected.numpy(), len(self.classes_), guesses)]

    def _learn(self, start: StartingPoint, plan: Plan, support: Support) -> "FewShotClassifier":
        check_reject_label(self.reject_label, support.classes)
        fitted = fit_support(start, support, plan, find_device(self.device), self._track)
        return self._remember(State(start, support, plan, fitted))

    def _remember(self, state: State) -> "FewShotClassifier":
        self.state_ = state
        self.support_ = state.support
        self.classes_ = as_array(state.support.classes)
        self.temperature_ = state.fitted.temperature
        self.threshold_ = state.fitted.threshold
        self.compare_ = state.fitted.scores
        return self

    def _fitted_state(self) -> State:
        if not hasattr(self, "state_"):
            raise NotFittedError("this FewShotClassifier has learned no classes yet: call fit first")
        return self.state_


def _labelled(X: Any, y: Any) -> tuple[list[Item], list[Hashable]]:
    """Items and their labels: those given, or those that a folder's folders are."""
    folder = folder_of(X)
    if y is None:
        if folder is None and isinstance(X, str | Path):
            X = as_path(X)
            raise InputError(f"{X} {why_no_folder(X)}; give a folder that holds a folder of images for each class")
        if folder is None:
            raise InputError("labels are missing: give one for each image, or a folder with a folder for each class")
        items = labelled_items(folder)
        return items, composed([item.label for item in items])
    items = as_items(X)
    return items, as_labels(y, len(items))
