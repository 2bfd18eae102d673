"""A device that exists in name only: tensors say that they lie there, their numbers lie in a CPU tensor inside.

Every operator runs on the numbers, so that results can be compared with the CPU's, and is checked as a GPU would:

- tensors of different devices in one operator raise `DeviceMismatch`, but for a scalar in elementwise arithmetic and
  for row numbers on the CPU;
- an operator that makes the host wait for the device is noted with the line that asked for it: a number or a truth
  value that is read, a copy from the device, a blocking copy to it, a result whose shape depends on values.

The device may be called `meta`, which every PyTorch knows, or `cuda` where `fake_cuda.cpp` was loaded before PyTorch.
"""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_SOURCES = Path(__file__).resolve().parents[1] / "src"

_aten = torch.ops.aten
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.bincount.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.unique_dim.default,
    _aten.repeat_interleave.Tensor,
    _aten._linalg_eigh.default,
    _aten._linalg_svd.default,
    _aten._linalg_check_errors.default,
}
"""Operators whose result the host needs before it can go on."""

_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}

_CUDA = {
    "is_available": lambda: True,
    "_lazy_init": lambda: None,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda device=None: "no GPU",
    "is_bf16_supported": lambda including_emulation=True: True,
}
"""What `torch.cuda` says on a machine with one GPU."""


class DeviceMismatch(Exception):
    """Tensors of two devices met in one operator."""


class FakeTensor(Tensor):
    """A tensor that says that it lies on the device `home`, and its `numbers` on the CPU."""

    numbers: Tensor
    home: "FakeDevice"

    @staticmethod
    def __new__(cls, numbers: Tensor, home: "FakeDevice") -> "FakeTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=home.device,
        )
        made.numbers, made.home = numbers, home
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        home = next(t.home for t in tree_leaves((args, kwargs)) if isinstance(t, FakeTensor))
        return home.run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"FakeTensor({self.numbers!r}, device={self.device})"


class FakeDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on the device, moved there and back.

    Args:
        device: what it is called.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.waits: list[str] = []
        """For every time that the host waited: the operator, and the line of the library that asked."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without this PyTorch loads its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator on the numbers; its results lie where the device would have put them."""
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [t for t in given if isinstance(t, FakeTensor)]
        asked = kwargs.get("device")
        stays = bool(there) if asked is None else torch.device(asked).type == self.device.type
        if not stays and not there:
            return func(*args, **kwargs)
        _check_devices(func, given)
        if _waits(func, args, kwargs, given, stays):
            self.waits.append(f"{func} at {_where()}")
        inner_args, inner_kwargs = tree_map_only(FakeTensor, lambda t: t.numbers, (args, kwargs))
        found = _compute(func, inner_args, inner_kwargs if asked is None else {**inner_kwargs, "device": "cpu"})
        if changed := _changed(func, args, kwargs):
            return changed[0] if len(changed) == 1 else changed
        return tree_map_only(Tensor, lambda t: FakeTensor(t, self), found) if stays else found


@contextlib.contextmanager
def fake_device(name: str) -> Iterator[FakeDevice]:
    """A device of that name, `meta` or `cuda`, for which nothing has waited yet."""
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        """As a GPU's: made on the CPU, then copied; PyTorch's own leaves operators out."""
        made = make(data, **options)
        return made if device is None else made.to(device)

    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `Module.to` makes new parameters of our type
    known = patch.multiple(torch.cuda, **_CUDA) if name == "cuda" else contextlib.nullcontext()
    try:
        with patch("torch.tensor", tensor), known, FakeDevice(torch.device(f"{name}:0")) as device:
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator on the CPU, whose batch norm of bfloat16 has no derivative by float32 parameters; a GPU's has."""
    if func is not _aten.native_batch_norm_backward.default or args[1].dtype != torch.bfloat16:
        return func(*args, **kwargs)
    by_input, *others = func(*tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, args))
    return by_input.bfloat16(), *others


def _changed(func: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """What an operator changes and returns, where it makes nothing new."""
    if not any(made.alias_info is not None and made.alias_info.is_write for made in func._schema.returns):
        return ()
    arguments = enumerate(func._schema.arguments)
    written = [(n, each.name) for n, each in arguments if each.alias_info is not None and each.alias_info.is_write]
    return tuple(kwargs[name] if name in kwargs else args[n] for n, name in written)


def _check_devices(func: Any, given: list[Tensor]) -> None:
    if len({t.device.type for t in given}) < 2 or _is_copy(func):
        return
    strangers = [t for t in given if not isinstance(t, FakeTensor)]
    if torch.Tag.pointwise in func.tags and all(t.ndim == 0 for t in strangers):
        return
    if func in _INDEXING and isinstance(given[0], FakeTensor) and not any(t.is_floating_point() for t in strangers):
        return
    raise DeviceMismatch(f"{func} of tensors on {', '.join(str(t.device) for t in given)}")


def _waits(func: Any, args: Any, kwargs: Any, given: list[Tensor], stays: bool) -> bool:
    """Whether the host waits for the device in this operator."""
    if _is_copy(func):
        crosses = given[0].is_cpu == stays if len(given) == 1 else given[0].is_cpu != given[1].is_cpu
        return crosses and not (kwargs.get("non_blocking") or args[2:3] == (True,))
    if func in _INDEXING:
        rows = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor)]
        return any(t.dtype == torch.bool or t.is_cpu for t in rows)
    return func in _WAITING


def _is_copy(func: Any) -> bool:
    return func in (_aten._to_copy.default, _aten.copy_.default)


def _where() -> str:
    """The innermost line of the library."""
    lines = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(_SOURCES))]
    return f"{Path(lines[-1].filename).relative_to(_SOURCES)}:{lines[-1].lineno}" if lines else "a line of the test"
