"""Data sets that come as pickles, read without running anything that the file asks for.

A pickle names functions and the reader calls them; that is how a planted file takes over. Here every name
becomes a `_Note` of what was asked for, calls and states are only written down, and the notes on the short
list below are turned into values afterwards. Every other name is refused. Neither numpy's nor Python's own
constructors see the file's words.
"""

import math
import pickle
import re
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from metacontrast.errors import InputError

Data: TypeAlias = object

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
MEANINGS = {
    ("numpy", "ndarray"): "array type",
    ("numpy", "dtype"): "dtype",
    **{(module, "_reconstruct"): "array" for module in ARRAY_MODULES},
    **{(module, "scalar"): "scalar" for module in ARRAY_MODULES},
    **{(module, "_frombuffer"): "buffer" for module in NUMERIC_MODULES},
    ("_codecs", "encode"): "bytes",
    **{(module, name): name for module in ("builtins", "__builtin__") for name in ("set", "list", "bytes")},
    ("collections", "OrderedDict"): "dict",
    ("collections", "defaultdict"): "dict",
}
PLAIN_DTYPE = re.compile(r"[biufc](1|2|4|8|16)|[SU]\d{1,6}")


def load(path: Path) -> Data:
    """Load a pickle of plain data: numbers, text, bytes, containers, read-only numpy arrays of numbers or text.

    Text written by Python 2 is decoded as Latin-1, and all kinds of dictionary become plain ones.

    Raises:
        InputError: the file is missing or damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            return _value(_Reader(file).load())
    except pickle.UnpicklingError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # damaged pickles raise nearly anything
        reason = f"{type(error).__name__}: {error}"
    raise InputError(f"{path} is not a pickle of plain data ({' '.join(reason.split())}); fetch it again")


class _Note:
    """A request of the file: a meaning from the list above, the arguments of a call, a state."""

    __slots__ = ("arguments", "meaning", "state")

    def __init__(self, meaning: str, arguments: tuple[Data, ...] | None = None) -> None:
        self.meaning = meaning
        self.arguments = arguments
        self.state: Data = None

    def __call__(self, *arguments: Data) -> Data:
        if self.arguments is not None:
            raise pickle.UnpicklingError("it calls a value")
        # Dictionaries and bytes are filled or used as keys while the file is read; the rest can wait.
        made = _Note(self.meaning, arguments)
        return _FROM_NOTE[self.meaning](made) if self.meaning in ("dict", "bytes") else made

    def __setstate__(self, state: Data) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str, /) -> Data:
        if (module, name) not in MEANINGS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is never run")
        return _Note(MEANINGS[module, name])


def _value(data: Data) -> Data:
    """Replace the notes in `data` by values, in containers of any depth."""
    if isinstance(data, _Note):
        if data.arguments is None or data.meaning not in _FROM_NOTE:
            raise pickle.UnpicklingError(f"it holds a bare {data.meaning}")
        return _FROM_NOTE[data.meaning](data)
    if isinstance(data, dict):
        return {_value(key): _value(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return type(data)(_value(value) for value in data)
    return data


def _dict(note: _Note) -> dict[Data, Data]:
    pairs = [argument for argument in note.arguments or () if isinstance(argument, list | dict)]
    return dict(pairs[0]) if pairs else {}


def _bytes(note: _Note) -> bytes:
    """Decode bytes as protocols 0 to 2 write them: nothing for none, else text and the name of an encoding."""
    text, encoding = (*(note.arguments or ()), "", "latin1")[:2]
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it holds bytes in an unknown encoding")
    return text.encode("latin1")


def _collection(note: _Note) -> Data:
    (items,) = note.arguments or ([],)
    if not isinstance(items, list | tuple):
        raise pickle.UnpicklingError(f"it holds a {note.meaning} of something else than a list")
    return {"set": set, "list": list}[note.meaning](_value(items))


def _dtype(note: Data) -> np.dtype:
    """Build a dtype of numbers or text, never of objects or records, with the byte order that its state names."""
    if not isinstance(note, _Note) or note.meaning != "dtype" or not note.arguments:
        raise pickle.UnpicklingError("it holds an array without a dtype")
    code = str(note.arguments[0])
    if not PLAIN_DTYPE.fullmatch(code):
        raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}, not of plain numbers or text")
    order = note.state[1] if isinstance(note.state, tuple) and len(note.state) > 1 else "="
    return np.dtype(code).newbyteorder(">" if order == ">" else "<" if order == "<" else "=")


def _array(note: _Note) -> np.ndarray:
    if not isinstance(note.state, tuple) or len(note.state) != 5:
        raise pickle.UnpicklingError("it holds an array without its values")
    _, shape, dtype, is_fortran, values = note.state
    return _view(values, _dtype(dtype), shape, "F" if is_fortran else "C")


def _buffer(note: _Note) -> np.ndarray:
    values, dtype, shape, order = _arguments(note, 4)
    return _view(values, _dtype(dtype), shape, "F" if order == "F" else "C")


def _scalar(note: _Note) -> np.generic:
    dtype, value = _arguments(note, 2)
    return _view(value, _dtype(dtype), (1,), "C")[0]


def _arguments(note: _Note, number: int) -> tuple[Data, ...]:
    if note.arguments is None or len(note.arguments) != number:
        raise pickle.UnpicklingError(f"it holds a malformed {note.meaning}")
    return note.arguments


def _view(values: Data, dtype: np.dtype, shape: Data, order: str) -> np.ndarray:
    """View the bytes of an array as an array; Python 2 wrote them as text."""
    raw = values.encode("latin1") if isinstance(values, str) else values
    if not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("it holds an array of objects")
    if math.prod(shape) * dtype.itemsize != len(raw) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError(f"it holds {len(raw)} bytes for an array of shape {shape}")
    return np.ndarray(shape, dtype, buffer=bytes(raw), order="F" if order == "F" else "C")


_FROM_NOTE = {
    "array": _array,
    "buffer": _buffer,
    "scalar": _scalar,
    "dict": _dict,
    "bytes": _bytes,
    "set": _collection,
    "list": _collection,
}
