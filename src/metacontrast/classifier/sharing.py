"""Classifiers and models as folders on disk, and as repositories of the Hugging Face Hub, which hold the same folders.

The package `huggingface_hub` is imported when a repository is asked for.
"""

import importlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sklearn.base import BaseEstimator

from metacontrast.classifier import storage
from metacontrast.classifier.candidates import Plan, check_max_pixels
from metacontrast.classifier.inputs import as_plain, check_reject_label, from_json, to_json
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point, save_starting_point
from metacontrast.classifier.storage import FORMAT, State
from metacontrast.errors import InputError
from metacontrast.files import as_path, parse_json, write_text

Own = TypeVar("Own", bound="Sharing")
REPOSITORY = re.compile(r"(?:https?://)?(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)")
FILES = ("config.json", "model*.safetensors")
NOT_SAVED = ("model", "weights", "device", "verbose")
CARD = "README.md"
_HEADER = """---
library_name: metacontrast
pipeline_tag: image-classification
tags:
- few-shot-learning
---
"""


class Sharing(BaseEstimator):
    """The methods of `FewShotClassifier` that write and read folders and repositories."""

    if TYPE_CHECKING:
        model: Any
        max_pixels: Any
        reject_label: Any
        state_: State

        def __init__(self, model: Any = "auto", **parameters: Any): ...
        def _start(self) -> StartingPoint: ...
        def _plan(self, start: StartingPoint) -> Plan: ...
        def _fitted_state(self) -> State: ...
        def _remember(self: Own, state: State) -> Own: ...

    @classmethod
    def from_pretrained(cls: type[Own], model: str | Path, **parameters: Any) -> Own:
        """A classifier that will start from a model of that name or in that folder, or what a Hub repository holds.

        Args:
            model: as of the class, or `user/repository` on the Hugging Face Hub, which may hold a fitted classifier.
        """
        if (folder := downloaded(model)) is not None:
            if holds_classifier(folder):
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
        start = self.state_.start if self.model == "auto" and hasattr(self, "state_") else self._start()
        start = replace(start, inner=self._plan(start).inner)
        save_starting_point(start, as_path(folder), weights_inside=weights_inside)
        write_card(as_path(folder), as_path(folder).resolve().name, None)

    def save(self, folder: str | Path, *, weights_inside: bool = False) -> None:
        """Write the fitted classifier: `config.json` and `model.safetensors`.

        It holds the support images, of frozen encoders small pictures of them, and their file names. Labels must be
        text, numbers or tuples of these.

        Args:
            weights_inside: write the weights of an encoder from elsewhere too, not its name and digest alone.
        """
        parameters = {name: value for name, value in self.get_params().items() if name not in NOT_SAVED}
        if (label := parameters["reject_label"]) is not None:
            parameters["reject_label"] = to_json(as_plain(label))
        storage.save(as_path(folder), self._fitted_state(), parameters, weights_inside=weights_inside)

    @classmethod
    def load(cls: type[Own], folder: str | Path, model: str | Path | StartingPoint | None = None) -> Own:
        """The fitted classifier that `save` or `metacontrast fit` wrote, or that a Hub repository holds.

        Args:
            model: what it starts from, where that is a user's own code, which no file may name for running.
        """
        folder = downloaded(folder) or as_path(folder)
        state, parameters = storage.load(folder, None if model is None else load_starting_point(model))
        try:
            loaded = cls().set_params(**parameters | {"reject_label": from_json(parameters.get("reject_label"))})
            loaded._plan(state.start)
            check_max_pixels(loaded.max_pixels)
            check_reject_label(loaded.reject_label, state.support.classes)
        except ValueError as error:
            raise InputError(f"{folder / storage.CONFIG}: parameters: {error}") from error
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
        write_to = lambda folder: write(folder, weights_inside=weights_inside)  # noqa: E731
        return push(repository, write_to, getattr(self, "state_", None), private)


def downloaded(name: Any) -> Path | None:
    """The folder of a repository's files, from the Hub's cache or the network; None where the name is not a repository.

    A folder of that name on this machine comes first.
    """
    if not isinstance(name, str) or (found := REPOSITORY.fullmatch(name)) is None or as_path(name).exists():
        return None
    hub = _library(f"{name} is not a folder here; as a repository of the Hugging Face Hub it")
    try:
        return Path(hub.snapshot_download(found[1], allow_patterns=list(FILES)))
    except Exception as error:
        raise InputError(
            f"{found[1]} cannot be fetched from the Hub ({_reason(error)}): check name and network"
        ) from error


def holds_classifier(folder: Path) -> bool:
    """Whether the folder holds a fitted classifier, not a model to start from."""
    try:
        return parse_json((folder / "config.json").read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def push(repository: str, write: Callable[[Path], None], state: State | None, private: bool) -> str:
    """Write a folder into a repository, which is made if it is not there.

    Args:
        write: writes the folder.
        state: of a fitted classifier, for the card.
    """
    if (found := REPOSITORY.fullmatch(repository)) is None:
        raise InputError(f"{repository!r} is not a repository: write user/name")
    hub = _library("the Hub")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        (Path(folder) / CARD).unlink(missing_ok=True)
        write_card(Path(folder), found[1], state)
        try:
            hub.create_repo(found[1], private=private, exist_ok=True)
            return str(hub.upload_folder(repo_id=found[1], folder_path=folder, ignore_patterns=[".*"]))
        except Exception as error:
            raise InputError(
                f"{found[1]} cannot be written to ({_reason(error)}): log in (`hf auth login`), check name and network"
            ) from error


def write_card(folder: Path, name: str, state: State | None) -> None:
    """Write a model card, the Hub's header and a text for readers, unless the folder has one.

    Args:
        name: of the repository or folder.
        state: of a fitted classifier.
    """
    if not (folder / CARD).exists():
        write_text(folder / CARD, "\n".join([_HEADER, f"# {name}", "", *_contents(state), "", *_use(name), ""]))


def _contents(state: State | None) -> list[str]:
    """What a model card says of a classifier, or of a model to start from."""
    if state is None:
        return ["A model for few-shot classification, to fit to a few images of each class."]
    chosen = next((score for score in state.fitted.scores if score.chosen), None)
    lines = [f"A classifier of {len(state.support.classes)} classes on `{state.start.name}`.", ""]
    if chosen is not None:
        value = f"{100 * chosen.balanced_accuracy:.1f} %"
        lines += [f"Balanced accuracy in cross-validation: {value} of {chosen.images} images.", ""]
    counts = zip(state.support.classes, state.support.counts.tolist(), strict=True)
    return lines + [f"- {json.dumps(str(name), ensure_ascii=False)}: {count} images" for name, count in counts]


def _use(name: str) -> list[str]:
    lines = ("from metacontrast import FewShotClassifier", "", f"FewShotClassifier.from_pretrained({name!r})")
    return ["```python", *lines, "```"]


def _library(what: str) -> Any:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(
            f"{what} needs the package huggingface_hub: pip install 'metacontrast[hub]', or check the name"
        )
    return importlib.import_module("huggingface_hub")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
