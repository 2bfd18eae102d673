"""Several seeds of one training: a folder with a run directory for each."""

from dataclasses import replace
from pathlib import Path

from metacontrast.errors import InputError
from metacontrast.training.config import TrainConfig


def replica_configs(config: TrainConfig, replicas: int) -> list[TrainConfig]:
    """The same configuration with the seeds `config.seed` and following."""
    if replicas < 1:
        raise InputError(f"replicas={replicas}, but it must be 1 or more")
    return [replace(config, seed=config.seed + number) for number in range(replicas)]


def replica_folder(folder: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return folder / f"seed-{seed}"


def first_replica(folder: Path) -> Path | None:
    """The run of the lowest seed; None where there is none."""
    seeds = [int(path.name[5:]) for path in folder.glob("seed-*") if path.name[5:].isdigit()]
    return replica_folder(folder, min(seeds)) if seeds else None
