"""`FewShotClassifier`: scikit-learn's conventions around a meta-trained model or a pretrained encoder."""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from metacontrast.classifier import storage
from metacontrast.classifier.candidates import Baseline, FitMethod, HeadChoice, Plan, check_max_pixels, make_plan
from metacontrast.classifier.choice import Chosen, choose, fit_notes
from metacontrast.classifier.confidence import prediction_set, set_threshold
from metacontrast.classifier.explanation import Explanation, draw_explanation, explainer
from metacontrast.classifier.fitted import Answers, Prediction, fit_support, predict_each
from metacontrast.classifier.inputs import as_array, as_items, check_reject_label, from_json, to_json, weighted_mean
from metacontrast.classifier.sharing import downloaded, push, write_card
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point, save_starting_point
from metacontrast.classifier.storage import State
from metacontrast.classifier.support import ADVICE, Read, emptied, join, labelled, make_support, read
from metacontrast.data.decode import MAX_PIXELS, Item
from metacontrast.data.folder import Nested
from metacontrast.device import find_device
from metacontrast.errors import InputError, check_choice
from metacontrast.fields import as_declared, no_type_check
from metacontrast.files import as_path, read_facts
from metacontrast.types import Inner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("metacontrast")

_NOT_SAVED = ("model", "weights", "device", "verbose")


class FewShotClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):
    """A classifier of a user's images from a few examples of each class; any number of classes.

    Images are a folder, a data set, or a list or stack of paths, files, PIL images, arrays or tensors: whole numbers
    from 0 to 255 or floats from 0 to 1, arrays `(height, width[, channel])`, tensors `(channel, height, width)`, and
    any of these with a leading axis. Labels are anything hashable. Every class has the same share, however many
    examples it has. As scikit-learn has it, `fit` checks the parameters.

    Args:
        model: `auto` cross-validates the installed models and takes the best; or a model that comes with the package
            (`omniglot-conv4`, `cifar-fs-conv4`, `photos`, `photos-small`), a folder that `metacontrast train` or
            `save_pretrained` wrote, `timm:NAME`, `hf:NAME`, `torchvision:NAME`, `python:package.module:factory`, or a
            `StartingPoint`.
        weights: a file of safetensors for such a named encoder, in place of its own weights.
        head: `adapted` by inner steps, `prototype` (nearest-centroid), `ridge`, `logistic`, or `auto`, the one
            with the least cross entropy in cross-validation. None is `adapted` if `steps`, `lr`, `scope` or
            `random_head` is given; else `auto` with `model="auto"` and for frozen encoders, and what its method trained
            for a meta-trained model.
        steps: inner steps; None is what the model was trained with, `auto` chooses steps and step size by
            cross-validation on the support images.
        lr: inner step size; None is what the model was trained with.
        scope: `head` adapts the head alone, `all` the whole net; None is what the model was trained with.
        baseline: an alias of `head`: `prototype` and `auto` are the same there, `none` is `adapted`.
        folds: the most parts of the cross-validation that sets temperature, rejection and `compare_`; 0 leaves it out.
        reject: the share of images of known classes that may be refused so that unknown ones are; None refuses nothing.
        random_head: start from a random head of this seed, not from zeros, to see what the zeros are good for.
        reject_label: what `predict` calls a refused image, no class's label. With None the labels are objects; with a
            label of the classes' kind, such as `"unknown"` among texts or -1 among numbers, they stay of that kind,
            which scikit-learn's reports need.
        nested: what folders in a class's folder are: `classes` of their own, or `flatten`, more of its images.
        max_pixels: larger images are refused before they are unpacked.
        skip_unreadable: leave out images of the support set that cannot be read.
        device: where to compute: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        verbose: show progress bars of `fit` on standard error.

    Attributes:
        classes_: the labels, sorted where they can be.
        temperature_: of the probabilities; the model's own where no class has a second image.
        threshold_: the similarity below which an image is refused, or None.
        compare_: how each way of adapting did in cross-validation, most accurate first.
        models_: how each model did, where `auto` chose among several.
        ignored_: name and reason of what was left out of a folder.
        notes_: what one should know about this fit, such as an accuracy that cannot be told from chance.
        support_: the images learned from.
    """

    @no_type_check
    def __init__(
        self,
        model: str | Path | StartingPoint = "auto",
        *,
        weights: str | Path | None = None,
        head: HeadChoice | None = None,
        steps: int | Literal["auto"] | None = None,
        lr: float | None = None,
        scope: Literal["head", "all"] | None = None,
        baseline: Baseline | None = None,
        folds: int = 5,
        reject: float | None = None,
        random_head: int | None = None,
        reject_label: Hashable = None,
        nested: Nested = "classes",
        max_pixels: int = MAX_PIXELS,
        skip_unreadable: bool = False,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        verbose: bool = False,
    ):
        self.model = model
        self.weights = weights
        self.head = head
        self.steps = steps
        self.lr = lr
        self.scope: Literal["head", "all"] | None = scope
        self.baseline = baseline
        self.folds = folds
        self.reject = reject
        self.random_head = random_head
        self.reject_label = reject_label
        self.nested: Nested = nested
        self.max_pixels = max_pixels
        self.skip_unreadable = skip_unreadable
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "FewShotClassifier":
        """Learn the classes of labelled images, or with `y` left out of a folder or a data set that has labels."""
        for name in ("state_", "support_"):
            self.__dict__.pop(name, None)
        return self._learn(X, y, least=2)

    def partial_fit(self, X: Any, y: Any = None) -> "FewShotClassifier":
        """Add examples and classes: the same as `fit` on the union of all that was given so far.

        The model stays the one that was fitted. With one class so far nothing can be answered yet.
        """
        return self._learn(X, y, least=1)

    def _learn(self, X: Any, y: Any, least: int) -> "FewShotClassifier":
        begun = self._check()
        items, found = labelled(X, y, self.nested)
        self.ignored_ = tuple(found.ignored) if found else ()
        start, models, seen = begun or choose(items, self._read, int(self.folds), check_max_pixels(self.max_pixels))
        plan = self._plan(start)
        if seen is not None and start.keeps_features(plan.inner) != (seen.features is not None):
            seen = None
        kept, images, features = seen or self._read(start, items, plan.inner)
        own = [item.label for item in kept]
        readable = set(map(id, kept))
        self.ignored_ += tuple((item.name, "cannot be read") for item in items if id(item) not in readable)
        self.ignored_ += tuple(emptied([item.label for item in items], own))
        support = make_support(images, own, [item.name for item in kept], features, least=least)
        if hasattr(self, "support_"):
            support = join(self.support_, support)
        if len(support.classes) < 2:
            self._begun, self.support_, self.models_ = start, support, models
            return self
        check_reject_label(self.reject_label, support.classes)
        fitted = fit_support(start, support, plan, find_device(self.device), self.verbose)
        self.models_ = models
        self._remember(State(start, support, plan, fitted))
        for note in self.notes_:
            logger.warning("%s", note)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """The features of every image under the fitted encoder, `(image, feature)`."""
        state = self._fitted_state()
        return state.fitted.on(find_device(self.device)).features(self._pixels(as_items(X))).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of every image; with `reject` set, `reject_label` for an image that is refused."""
        return self._labels(self.answer(X))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities `(image, class)` in the order of `classes_`."""
        return self.answer(X).probabilities.numpy()

    @no_type_check
    def predict_set(self, X: Any, coverage: float = 0.9) -> list[list[Hashable]]:
        """Predict a set of labels per image that contains the correct one with a probability of at least `coverage`.

        The most probable label comes first. The coverage holds for images like those that were held out.
        """
        threshold, labels = self.set_threshold(coverage), self.classes_.tolist()
        return [[labels[k] for k in prediction_set(row, threshold)] for row in self.answer(X).probabilities.tolist()]

    @no_type_check
    def set_threshold(self, coverage: float) -> float:
        """The probability from which on a class belongs to a prediction set of that coverage."""
        held_out = torch.tensor(self._fitted_state().fitted.true_probabilities, dtype=torch.float64)
        return set_threshold(held_out, coverage)

    def is_rejected(self, X: Any) -> NDArray[np.bool_]:
        """A mask of the images that are refused as unlike every class; none unless `reject` is set."""
        return self.answer(X).rejected.numpy()

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The share of images that are classified correctly; a refusal counts as wrong.

        Of a folder that is divided, `test/` is taken.
        """
        self._fitted_state()
        items, _ = labelled(X, y, self.nested, "test")
        if not {item.label for item in items} & set(self.classes_.tolist()):
            logger.warning(
                "none of the labels (such as %r) is a class of this classifier (such as %r)",
                items[0].label,
                self.classes_.tolist()[0],
            )
        guesses = self._labels(self._answer(items)).tolist()
        right = [guess == item.label for guess, item in zip(guesses, items, strict=True)]
        return weighted_mean(right, sample_weight)

    def explain(self, image: Any) -> Explanation:
        """What each support image did for and against the answer to one image."""
        return self.explainer()(image)

    def explainer(self) -> Callable[[Any], Explanation]:
        """`explain` for many images: what does not depend on the image is computed once."""
        explain_pixels = explainer(self._fitted_state())
        return lambda image: explain_pixels(self._pixels(as_items([image]))[0])

    def draw_explanation(self, image: Any, count: int = 8) -> "Figure":
        """`explain` as a matplotlib figure: the image, and the `count` support images that mattered most."""
        state, pixels = self._fitted_state(), self._pixels(as_items([image]))[0]
        return draw_explanation(state, explainer(state)(pixels), pixels, count)

    def answer(self, X: Any) -> Answers:
        """Probabilities, similarity and refusals of images, all of which must be readable."""
        self._fitted_state()
        return self._answer(as_items(X))

    def predict_each(self, X: Any, *, explain: bool = False) -> Iterator[Prediction]:
        """One prediction after the other for any number of images; what cannot be read is named and the rest answered.

        Args:
            explain: give every prediction its explanation.
        """
        state, fitted = self._fitted_state(), self._fitted_state().fitted.on(find_device(self.device))
        why = explainer(state) if explain else None
        stream = state.start.images.read_each(as_items(X), check_max_pixels(self.max_pixels))
        return predict_each(fitted, state.support.classes, stream, why)

    @classmethod
    def from_pretrained(cls, model: str | Path, **parameters: Any) -> "FewShotClassifier":
        """A classifier that will start from a model of that name or in that folder, or what a Hub repository holds.

        Args:
            model: as of the class, or `user/repository` on the Hugging Face Hub, which may hold a fitted classifier.
        """
        if (folder := downloaded(model)) is not None:
            if read_facts(folder / storage.CONFIG).get("format") == storage.FORMAT:
                return cls.load(folder).set_params(**parameters)
            model = folder
        if model != "auto":
            load_starting_point(model, parameters.get("weights"))
        return cls(model, **parameters)

    def save_pretrained(self, folder: str | Path, *, weights_inside: bool = False) -> None:
        """Write the starting point, without what was fitted: `config.json`, `model.safetensors` and a model card.

        The card is `README.md`, and an existing one is kept. Where `steps`, `lr` or `scope` are given they become what
        the saved model adapts with by default.

        Args:
            weights_inside: write the weights of an encoder from elsewhere too, not its name and digest alone.
        """
        self._check_found_again(weights_inside)
        start = self.state_.start if self.model == "auto" and hasattr(self, "state_") else self._start()
        if (inner := self._plan(start).inner) != start.inner:  # the temperature was measured with the other steps
            start = replace(start, inner=inner, temperatures={**start.temperatures, "adapted": 1.0})
        save_starting_point(start, as_path(folder), weights_inside=weights_inside)
        write_card(as_path(folder), as_path(folder).resolve().name, None)

    def save(self, folder: str | Path, *, weights_inside: bool = False) -> None:
        """Write the fitted classifier: `config.json` and `model.safetensors`.

        It holds the support images, of frozen encoders small pictures of them, and their file names. Labels must be
        text, numbers or tuples of these.

        Args:
            weights_inside: write the weights of an encoder from elsewhere too, not its name and digest alone.
        """
        state = self._fitted_state()
        plan = self._checked_plan(state)
        self._check_found_again(weights_inside)
        parameters = {name: value for name, value in self.get_params().items() if name not in _NOT_SAVED}
        is_default = self._chooses_model and self.baseline is None
        if is_default and plan.head == "auto":
            parameters["head"] = "auto"  # the default of the model that was chosen may be another
        if (label := parameters["reject_label"]) is not None:
            parameters["reject_label"] = to_json(label)
        storage.save(as_path(folder), state, parameters, weights_inside=weights_inside)

    @classmethod
    def load(cls, folder: str | Path, model: str | Path | StartingPoint | None = None) -> "FewShotClassifier":
        """The fitted classifier that `save` or `metacontrast fit` wrote, or that a Hub repository holds.

        Args:
            model: what it starts from, where that is a user's own code, which no file may name for running.
        """
        folder = downloaded(folder) or as_path(folder)
        state, parameters = storage.load(folder, None if model is None else load_starting_point(model))
        try:
            loaded = cls().set_params(**parameters | {"reject_label": from_json(parameters.get("reject_label"))})
            loaded._checked_plan(state)
        except ValueError as error:
            raise InputError(f"{folder / storage.CONFIG}: parameters: {error}") from error
        loaded.ignored_, loaded.models_ = (), ()
        return loaded.set_params(model=state.start)._remember(state)

    def push_to_hub(self, repository: str, *, private: bool = False, weights_inside: bool = False) -> str:
        """Put the fitted classifier, or before a fit the starting point, into a repository of the Hugging Face Hub.

        Args:
            repository: `user/name`.
            private: whether only its owner may see it, if it is made now.
            weights_inside: as of `save`.

        Returns:
            The address of what was written.
        """
        write = self.save if hasattr(self, "state_") else self.save_pretrained
        return push(repository, partial(write, weights_inside=weights_inside), getattr(self, "state_", None), private)

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn may expect: images, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags

    def _start(self) -> StartingPoint:
        if self._chooses_model:
            raise InputError("model='auto' is chosen by the images that are fitted: call fit first, or name a model")
        return load_starting_point(self.model, self.weights)

    @property
    def _wishes(self) -> dict[str, Any]:
        names = ("steps", "lr", "scope", "baseline", "head", "folds", "reject", "random_head")
        return {name: getattr(self, name) for name in names}

    def _check(self) -> Chosen | None:
        """Check the parameters before any image is read; return the starting point unless the images choose it."""
        for name in ("skip_unreadable", "verbose"):
            as_declared(name, getattr(self, name), bool)
        check_choice("nested", self.nested, get_args(Nested))
        check_max_pixels(self.max_pixels)
        find_device(self.device)
        make_plan(Inner(), **self._wishes)
        if hasattr(self, "support_"):
            return self._begun, getattr(self, "models_", ()), None
        if self._chooses_model:
            if self.weights is not None:
                raise InputError("model='auto' takes no weights: name the encoder that they are of")
            return None
        start = self._start()
        self._plan(start)
        return start, (), None

    @property
    def _chooses_model(self) -> bool:
        return isinstance(self.model, str) and self.model == "auto"

    def _plan(self, start: StartingPoint) -> Plan:
        default: HeadChoice = "auto" if self._chooses_model else start.head
        fallback: FitMethod = "adapted" if start.head == "adapted" else "ridge"
        return make_plan(start.inner, **self._wishes, default_head=default, fallback=fallback)

    def _check_found_again(self, weights_inside: bool) -> None:
        """Raise where a file would name a model whose weights are those of another file."""
        if self.weights is not None and not weights_inside:
            raise InputError(f"the weights {self.weights} are not found again by the model's name: give weights_inside")

    def _checked_plan(self, state: State) -> Plan:
        """The plan of a classifier that is saved or loaded, after a check of all parameters that a file holds."""
        check_max_pixels(self.max_pixels)
        check_reject_label(self.reject_label, state.support.classes)
        return self._plan(state.start)

    def _read(self, start: StartingPoint, items: Sequence[Item], inner: Inner | None = None) -> Read:
        return read(
            start,
            items,
            check_max_pixels(self.max_pixels),
            frozen=start.keeps_features(inner or start.inner),
            skip_unreadable=as_declared("skip_unreadable", self.skip_unreadable, bool),
            device=find_device(self.device),
            verbose=self.verbose,
        )

    def _answer(self, items: list[Item]) -> Answers:
        return self._fitted_state().fitted.on(find_device(self.device)).answer(self._pixels(items))

    def _pixels(self, items: list[Item]) -> torch.Tensor:
        limit = check_max_pixels(self.max_pixels)
        return self._fitted_state().start.images.read(items, limit, advice=ADVICE)[1]

    def _labels(self, answers: Answers) -> NDArray[Any]:
        guesses = answers.probabilities.argmax(1).numpy()
        if self.threshold_ is None:
            return self.classes_[guesses]
        refused = check_reject_label(self.reject_label, self._fitted_state().support.classes)
        known = as_array([*self.classes_.tolist(), refused])
        return known[np.where(answers.rejected.numpy(), len(self.classes_), guesses)]

    def _remember(self, state: State) -> "FewShotClassifier":
        self.state_ = state
        self._begun = state.start
        self.support_ = state.support
        self.classes_ = as_array(state.support.classes)
        self.temperature_ = state.fitted.temperature
        self.threshold_ = state.fitted.threshold
        self.compare_ = state.fitted.scores
        self.notes_ = fit_notes(state)
        return self

    def _fitted_state(self) -> State:
        if not hasattr(self, "state_"):
            begun = "one class so far: give it a second" if hasattr(self, "support_") else "no classes yet"
            raise NotFittedError(f"this FewShotClassifier has learned {begun}: call fit first")
        return self.state_
