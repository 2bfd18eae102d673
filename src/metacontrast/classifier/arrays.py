"""What other libraries call an array, a column or a table's part, as NumPy's."""

from typing import Any

import numpy as np
import torch


def as_numpy(values: Any) -> Any:
    """As a NumPy array what is none but makes one of itself; tensors, lists and all else as they are."""
    is_foreign = hasattr(values, "__array__") and not isinstance(values, np.ndarray | np.generic | torch.Tensor)
    return np.asarray(values) if is_foreign else values
