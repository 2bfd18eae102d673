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
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from metacontrast.classifier.fitted import Fitted, Network
from metacontrast.classifier.inputs import to_json
from metacontrast.classifier.storage import State
from metacontrast.errors import InputError, check_choice, first_line, require_extra
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
    exported = Exported(state.fitted).eval()
    with _quiet(), atomic_path(path) as temporary:
        try:
            program = _traced(exported, images.shape)
            onnx = _as_onnx(program) if form == "onnx" else None
        except Exception as error:  # both exporters raise nearly anything for code that they cannot translate
            raise InputError(
                f"the encoder {state.start.name} cannot be exported as {form} ({first_line(error)}): write it with "
                "PyTorch's operators alone, for any number of images at a time"
            ) from error
        if onnx is not None:
            onnx.model.metadata_props[METADATA] = facts
            onnx.save(temporary, external_data=False)
            return path
        file = BytesIO()  # a file on a full disk aborts PyTorch's writer
        torch.export.save(program, file, extra_files={f"{METADATA}.json": facts})
        temporary.write_bytes(file.getvalue())
    return path


def _traced(exported: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The program for any number of images, after a comparison of its answers with those of the module."""
    any_batch = {"images": {0: torch.export.Dim("batch", min=1)}}
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    program = torch.export.export(exported, (example,), dynamic_shapes=any_batch, strict=False)
    images = torch.randint(256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = zip(program.module()(images), exported(images), strict=True)
    if not all(torch.allclose(found, expected, rtol=0, atol=1e-3) for found, expected in answers):
        raise ValueError("the program gives other answers than the classifier")
    return program


def _as_onnx(program: torch.export.ExportedProgram) -> Any:
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities", "similarity"]}
    return torch.onnx.export(program, dynamo=True, verbose=False, **names)


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
