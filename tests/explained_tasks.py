"""Small float64 tasks and models of the released encoder for tests of the analysis."""

import torch

from metacontrast.model.encoders import conv4_released
from metacontrast.model.model import Model
from metacontrast.types import Episode, map_params


def tasks(count: int = 2, ways: int = 3, shots: int = 1, queries: int = 2, seed: int = 0) -> Episode:
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(count, ways, 1, 28, 28, generator=g, dtype=torch.float64)

    def draw(per_class):
        y = torch.arange(ways).repeat_interleave(per_class)
        return means[:, y] + 0.3 * torch.randn(count, len(y), 1, 28, 28, generator=g, dtype=torch.float64), y

    (support_x, support_y), (query_x, query_y) = draw(shots), draw(queries)
    return Episode(support_x, support_y.expand(count, -1), query_x, query_y.expand(count, -1))


def small_model(head="learned", ways=3, **options):
    model = Model(conv4_released(1, 28, 8), ways, head=head, **options)
    return model, map_params(lambda t: t.double(), model.init(torch.Generator().manual_seed(1)))
