"""Numbers of correct query images per test task, as one character each: compact, and whole in every JSON file.

0 … 43 are the characters from `0` on, 44 and more those after the backslash, which JSON would have to escape.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

_FIRST, _BACKSLASH = ord("0"), ord("\\")


def encode(counts: Iterable[int]) -> str:
    """One character per count.

    >>> encode([0, 43, 44, 75])
    '0[]|'
    """
    return "".join(chr(_FIRST + c + (_FIRST + c >= _BACKSLASH)) for c in counts)


def decode(text: str) -> Int[np.ndarray, " task"]:
    """What `encode` was given.

    >>> decode("0[]|").tolist()
    [0, 43, 44, 75]
    """
    found = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    return found - _FIRST - (found > _BACKSLASH)
