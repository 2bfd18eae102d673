"""What every process of `test_ranks` runs: some shared updates in float64; the parameters go into a file."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from metacontrast.errors import InputError
from metacontrast.methods import METHODS
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.training.distributed import joined
from metacontrast.training.step import Resources
from metacontrast.training.train_run import initial_state, outer_step
from metacontrast.types import Episode, map_params, to_tensors
from toy_images import noisy_images

IMAGES = noisy_images(seed=0)
BASE = TrainConfig(filters=4, ways=3, queries=2, meta_batch=5, inner_lr=0.1)
CONFIGS = {
    "zeroing trick, second order": replace(BASE, head="zeroed", order="second"),
    "learned head, two steps": replace(BASE, head="learned", inner_steps=2),
    **{name: with_fields(BASE, method=name) for name in METHODS if name not in ("maml", "imaml", "conml")},
    "conml": with_fields(BASE, method="conml", order="second", meta_batch=6),
    "imaml": with_fields(BASE, method="imaml", inner_steps=2),  # 16 steps and a Hessian make 1e-6 of rounding
}


def trained(config, ranks, updates=4, on_update=lambda number: None):
    """Parameters after some updates, and the metrics of the last one's tasks."""
    model = config.model(IMAGES.shape)
    start = initial_state(config, model, "cpu", len(IMAGES))
    params = map_params(lambda t: t.double(), start.params)
    if not ranks.is_main:
        params = map_params(torch.zeros_like, params)
    state = ranks.broadcast(
        replace(start, params=params, optimizer=torch.optim.Adam(to_tensors(params), lr=1e-3), schedule=None)
    )
    for number in range(updates):
        own = ranks.shard(range(number * config.meta_batch, (number + 1) * config.meta_batch), config.tasks_at_once)
        batch = config.training_tasks(IMAGES).batch(own)
        batch = Episode(batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y)
        metrics = outer_step(config, model, Resources(distributed=ranks))(state, batch)
        on_update(number)
        if number == 1:
            state = ranks.broadcast(state)
    return torch.cat([*(t.flatten() for t in to_tensors(state.params)), *metrics])


def refusal(ranks, digests):
    """The name of the digest that differs, and what is said of it."""
    try:
        ranks.check_same(digests)
    except InputError as error:
        return list(digests)[1], str(error)
    return list(digests)[1], ""


if __name__ == "__main__":
    with joined("cpu") as shared:
        found = {name: trained(config, shared) for name, config in CONFIGS.items()}
        asked = torch.tensor([shared.any(shared.rank == 1), shared.any(False)])
        shared.check_same({"configuration": "a", "omniglot": "b"})
        refusals = [refusal(shared, {"configuration": "a", name: str(shared.rank)}) for name in ("omniglot", "glyphs")]
    told = torch.tensor([f"process 1 of this training has another {name}" in text for name, text in refusals])
    save_file({**found, "asked": asked, "told": told}, Path(sys.argv[1]) / f"{shared.rank}.safetensors")
