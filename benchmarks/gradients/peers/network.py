"""The four-block encoder and its linear head as an ordinary PyTorch module."""

import torch
from torch import Tensor, nn

from .job import Job


class Network(nn.Module):
    """Convolution, ReLU, batch norm by the batch's own statistics, max-pooling where asked; then a linear head."""

    def __init__(self, job: Job):
        super().__init__()
        blocks: list[nn.Module] = []
        for layer in job.layers:
            sizes = [layer[name] for name in ("channels", "filters", "kernel", "stride", "padding")]
            blocks += [nn.Conv2d(*sizes), nn.ReLU(), nn.BatchNorm2d(layer["filters"], track_running_stats=False)]
            blocks += [nn.MaxPool2d(2)] if layer["pooled"] else []
        params = job.params()
        self.encoder = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(params[-2].shape[1], job.ways)
        self.to(job.device, getattr(torch, job.dtype))
        with torch.no_grad():
            for own, start in zip(self.parameters(), params, strict=True):
                own.copy_(start)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.encoder(images))


def fixed_and_moving(network: Network, job: Job) -> tuple[nn.Module, nn.Module]:
    """What the inner loop leaves alone and what it moves: nothing and the network, or the encoder and the head."""
    return (network.encoder, network.head) if job.scope == "head" else (nn.Identity(), network)


def support_features(fixed: nn.Module, images: Tensor, job: Job) -> Tensor:
    """The support images after the part that does not move, once for all steps; first order needs no gradient there."""
    with torch.set_grad_enabled(job.order == "second"):
        return fixed(images)


def mean_gradient(network: Network, job: Job) -> list[Tensor]:
    """What `backward` has summed up over the tasks, divided by their number."""
    return [p.grad / job.tasks for p in network.parameters() if p.grad is not None]
