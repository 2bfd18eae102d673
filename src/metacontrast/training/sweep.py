"""Seeds and variants of a training: a run directory for each seed, in a folder for each variant.

The run of a variant is the one that the variant's fields would give as flags of a training alone. What was asked for
is kept as `sweep.json`, so that all runs go on, those that have not begun too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from metacontrast.errors import InputError
from metacontrast.fields import as_declared, field_types
from metacontrast.files import parse_json, write_text
from metacontrast.training.config import TrainConfig

MOST_SEEDS = 1000
VARIED = tuple(f.name for f in fields(TrainConfig) if f.name != "seed")
"""Fields that variants may differ in."""
_FILE = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What the runs of a sweep are made from.

    Args:
        given: fields that all runs have.
        varied: the values of each varied field; variants are all their combinations.
        seeds: how many for each variant, from the given seed or 0 on.
        recipe: the named configuration that the fields are put over; None is the data set's own.
        before: what the folder said when this was asked for; None where no sweep had begun.
    """

    given: Mapping[str, Any]
    varied: Mapping[str, Sequence[Any]]
    seeds: int = 1
    recipe: str | None = None
    before: "Sweep | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"seeds={self.seeds}, but it must be 1 to {MOST_SEEDS}")
        if empty := next((name for name, values in self.varied.items() if not values), None):
            raise InputError(f"{empty} is varied over no values: give one or more")

    def runs(self) -> dict[Path, dict[str, Any]]:
        """Return the fields of every run by its folder."""
        variants = [dict(zip(self.varied, values, strict=True)) for values in product(*self.varied.values())]
        folders = [variant_folder(variant) for variant in variants]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise InputError(f"two variants have the folder '{twice}': train them apart, into an --out each")
        first = self.given.get("seed", 0)
        return {
            folder / f"seed-{seed}": {**self.given, **variant, "seed": seed}
            for folder, variant in zip(folders, variants, strict=True)
            for seed in range(first, first + self.seeds)
        }

    def extended(
        self, given: Mapping[str, Any], varied: Mapping[str, Sequence[Any]], seeds: int | None, recipe: str | None
    ) -> "Sweep":
        """Return the sweep with other fields, and with more values and seeds beside those that it has.

        Raises:
            InputError: runs would no longer belong to it.
        """
        if varied and varied.keys() != self.varied.keys():
            names = " and ".join(name.replace("_", "-") for name in self.varied) or "seeds alone"
            raise InputError(f"the runs that are there differ in {names}: vary the same, or choose another --out")
        first = self.given.get("seed", 0)
        if given.get("seed", first) != first:
            raise InputError(f"the runs that are there begin with seed={first}: leave it out, or choose another --out")
        if seeds is not None and seeds < self.seeds:
            raise InputError(f"seeds={seeds}, but there are {self.seeds}: leave it out, or choose another --out")
        kept = {name: value for name, value in self.given.items() if name.removeprefix("least_") not in given}
        values = {name: (*dict.fromkeys([*own, *varied.get(name, ())]),) for name, own in self.varied.items()}
        return Sweep({**kept, **given}, values, seeds or self.seeds, recipe or self.recipe)

    def save(self, folder: Path) -> None:
        """Write it into the folder of its runs, once; seeds and values that another command has added since stay.

        Raises:
            InputError: another command has begun a sweep over other fields there.
        """
        found, kept = load_sweep(folder), self
        if found not in (None, self, self.before):
            kept = found.extended({}, self.varied, max(found.seeds, self.seeds), None)
        if kept != found:
            values = {name: getattr(kept, name) for name in ("given", "varied", "seeds", "recipe")}
            write_text(folder / _FILE, json.dumps(values, indent=1) + "\n")


def load_sweep(folder: Path) -> Sweep | None:
    """Load what the runs in a folder are made from; None where no sweep has begun there.

    Raises:
        InputError: the file is damaged.
    """
    file, types = folder / _FILE, field_types(TrainConfig)
    if not file.exists():
        return None
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
        given = {name: as_declared(name, value, types[name]) for name, value in found["given"].items()}
        varied = {
            name: tuple(as_declared(name, value, types[name]) for value in values)
            for name, values in found["varied"].items()
        }
        recipe = as_declared("recipe", found["recipe"], str | None)
        return Sweep(given, varied, as_declared("seeds", found["seeds"], int), recipe)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read ({error}): restore it or choose another --out") from error


def variant_folder(variant: Mapping[str, Any]) -> Path:
    """Name a variant's folder: its fields, or none for the configuration itself.

    >>> variant_folder({"head": "learned", "eval_steps": (1, 3)}).name
    'head=learned,eval-steps=1-3'
    """
    return Path(",".join(f"{name.replace('_', '-')}={_in_name(value)}" for name, value in variant.items()).lower())


def _in_name(value: Any) -> str:
    return "-".join(map(str, value or ("none",))) if isinstance(value, tuple) else str(value).replace("/", "_")


def holds_runs(folder: Path) -> bool:
    """Whether runs of a sweep have begun in a folder."""
    runs = [file.parent for pattern in ("", "*=*/") for file in folder.glob(f"{pattern}seed-*/config.json")]
    return any(run.name[5:].isdecimal() for run in runs)
