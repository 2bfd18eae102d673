"""Types of arguments and results, enforced while the tests run."""

from typing import TypeVar

from beartype import beartype

Made = TypeVar("Made")


def enforced(made: Made) -> Made:
    """Enforce the types of a function or class, unless it is made again at every call: that takes longer than the call.

    A function inside another one has the shapes of its arguments from that one, whose types are enforced.
    """
    return made if "<locals>" in made.__qualname__ else beartype(made)
