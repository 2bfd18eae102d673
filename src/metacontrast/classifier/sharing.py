"""Repositories of the Hugging Face Hub, which hold the same folders as a disk, and the model card in such a folder.

The package `huggingface_hub` is imported when a repository is asked for.
"""

import importlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metacontrast.classifier.storage import State
from metacontrast.errors import InputError, class_and_line
from metacontrast.files import as_path, write_text
from metacontrast.training.run import CONFIG

REPOSITORY = re.compile(r"(?:https?://)?(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)")
FILES = (CONFIG, "model*.safetensors")
CARD = "README.md"
_HEADER = """---
library_name: metacontrast
pipeline_tag: image-classification
tags:
- few-shot-learning
---
"""


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
            f"{found[1]} cannot be fetched from the Hub ({class_and_line(error)}): check name and network"
        ) from error


def push(repository: str, write: Callable[[Path], None], state: State | None, private: bool) -> str:
    """Write a folder, with a card of its own, into a repository, which is made if it is not there."""
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
                f"{found[1]} cannot be written to ({class_and_line(error)}): "
                "log in (`hf auth login`), check name and network"
            ) from error


def write_card(folder: Path, name: str, state: State | None) -> None:
    """Write a model card, the Hub's header and a text for readers, unless the folder has one."""
    use = ["from metacontrast import FewShotClassifier", "", f"FewShotClassifier.from_pretrained({name!r})"]
    if not (folder / CARD).exists():
        lines = [_HEADER, f"# {name}", "", *_contents(state), "", "```python", *use, "```", ""]
        write_text(folder / CARD, "\n".join(lines))


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


def _library(what: str) -> Any:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(
            f"{what} needs the package huggingface_hub: pip install 'metacontrast[hub]', or check the name"
        )
    return importlib.import_module("huggingface_hub")
