"""Dataclasses whose fields hold what they are declared to hold.

Python itself checks no types, and an option of the wrong kind runs another experiment than the one that was meant:
`head_bias="no"` is true, `eval_steps=[1]` equals no `(1,)`.
"""

import dataclasses
import typing
from collections.abc import Callable
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

import numpy as np

from metacontrast.errors import InputError, check_choice

Function = TypeVar("Function", bound=Callable[..., Any])


def no_type_check(function: Function) -> Function:
    """Leave arguments to the function's own checks: checkers of types at run time look for this name and mark."""
    function.__no_type_check__ = True  # type: ignore[attr-defined]
    return function


_LARGEST_WHOLE_FLOAT = 2**53
_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool) and _is_exact(value)),
    str: ("text", lambda value: isinstance(value, str)),
}


def check_fields(instance: Any) -> None:
    """Raise `InputError` for a field of a dataclass that does not hold what it is declared to hold.

    To be called in, or to be, its `__post_init__`. Fields are compared and stored by `as_declared`; those with an
    underscore are the class's own affair.
    """
    for name, hint in field_types(type(instance)).items():
        object.__setattr__(instance, name, as_declared(name, getattr(instance, name), hint))


def as_declared(name: str, value: Any, hint: Any, among: bool = False) -> Any:
    """`value` as the type `hint` has it, or an `InputError`.

    A literal is one of its words, a whole number may stand for a float, NumPy's numbers for Python's, and a list for a
    tuple. Other classes are looked at only `among` the types of a union.

    >>> as_declared("steps", [1, np.int64(3)], tuple[int, ...])
    (1, 3)
    >>> as_declared("inner_lr", 1, float | None)
    1.0
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        check_choice(name, value, parts)
    elif origin in (typing.Union, UnionType):
        return _as_one_of(name, value, parts)
    elif origin is tuple and parts[-1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name}={value!r} is not a tuple")
        return tuple(as_declared(name, each, parts[0]) for each in value)
    elif hint in _KINDS:
        kind, fits = _KINDS[hint]
        if not fits(value):
            raise InputError(f"{name}={value!r} is not {kind}")
        return hint(value)
    elif among and not isinstance(value, origin or hint):
        raise InputError(f"{name}={value!r} is not a {(origin or hint).__name__}")
    return value


def _as_one_of(name: str, value: Any, parts: tuple[Any, ...]) -> Any:
    """`value` as the first of the types that takes it; what none takes is refused in the first one's words."""
    if value is None and NoneType in parts:
        return None
    problems = []
    for part in (part for part in parts if part is not NoneType):
        try:
            return as_declared(name, value, part, among=True)
        except InputError as problem:
            problems.append(problem)
    raise problems[0]


def _is_exact(value: Real) -> bool:
    """Whether a float can be the same number."""
    return not isinstance(value, Integral) or abs(int(value)) <= _LARGEST_WHOLE_FLOAT


@lru_cache(maxsize=256)
def field_types(kind: type) -> dict[str, Any]:
    """The fields of a dataclass with their types."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if not field.name.startswith("_")}
