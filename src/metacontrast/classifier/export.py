"""A fitted classifier as one file that runs without this library: ONNX, or a program of `torch.export`.

It takes `images`, uint8 `(batch, channel, height, width)` of any batch size, in the model's own size and channels,
black and white as in the person's own files, and gives `probabilities`, float32 `(batch, class)`, and `similarity`,
float32 `(batch)`: the largest cosine to a class mean, an image being refused where it is below the threshold.

Resizing is left to the caller: Pillow's filter of the name `resample`. Classes, threshold, size and filter are in the
file's metadata: of an ONNX model the property `metacontrast`, of a torch program the extra file `metacontrast.json`.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from metacontrast.classifier.fitted import Fitted, Network
from metacontrast.classifier.inputs import to_json
from metacontrast.classifier.storage import State
from metacontrast.errors import check_choice, require_extra
from metacontrast.files import as_utf8, atomic_path, check_writable

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "metacontrast"


class Exported(nn.Module):
    """The fitted classifier with inversion, normalization and temperature inside."""

    def __init__(self, fitted: Fitted):
        super().__init__()
        self.network: Network = fitted.network
        self.temperature = fitted.temperature

    def forward(
        self, images: UInt8[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image way"], Float[Tensor, " image"]]:
        """Probabilities and similarity."""
        logits, similarity = self.network(255 - images if self.network.images.invert else images)
        return (logits / self.temperature).softmax(1), similarity


def export(state: State, path: Path, form: Format) -> Path:
    """Write the file, whole or not at all."""
    check_choice("form", form, get_args(Format))
    check_writable(path.parent, path.name)
    images = state.start.images
    about = {
        "classes": [to_json(label) for label in state.support.classes],
        "threshold": state.fitted.threshold,
        "channels": images.channels,
        "size": images.size,
        "resample": images.resample,
        "crop": images.crop,
    }
    facts = as_utf8(json.dumps(about, ensure_ascii=False)).decode()
    if form == "onnx":
        require_extra("--format onnx", "onnx", "onnx", "onnxscript")
    example = torch.zeros(2, *images.shape, dtype=torch.uint8)
    any_batch = {"images": {0: torch.export.Dim("batch", min=1)}}
    with _quiet(), atomic_path(path) as temporary:
        exported = Exported(state.fitted).eval()
        program = torch.export.export(exported, (example,), dynamic_shapes=any_batch, strict=False)
        if form == "torch":
            with temporary.open("wb") as file:  # given a path, PyTorch takes only UTF-8
                torch.export.save(program, file, extra_files={f"{METADATA}.json": facts})
            return path
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities", "similarity"]}
        onnx = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        assert onnx is not None
        onnx.model.metadata_props[METADATA] = facts
        onnx.save(temporary, external_data=False)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
