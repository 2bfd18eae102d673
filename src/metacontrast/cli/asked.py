"""Which runs the flags of `train` ask for, what of them has begun, and the command that continues them."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from metacontrast.cli import shared
from metacontrast.cli.config_flags import config_from_fields, config_from_flags, given_fields
from metacontrast.device import find_device
from metacontrast.errors import InputError
from metacontrast.training.config import TrainConfig
from metacontrast.training.distributed import is_restarted
from metacontrast.training.run import check_continues, read_config
from metacontrast.training.sources import pretrained_names
from metacontrast.training.step import Resources
from metacontrast.training.sweep import Sweep, holds_runs, load_sweep


def asked_sweep(args: argparse.Namespace) -> Sweep | None:
    """Return the seeds and variants that are asked for, with all that they began with; None for a single run."""
    given = {name: _anywhere(name, value) for name, value in given_fields(args).items()}
    varied = {name: tuple(_anywhere(name, value) for value in values) for name, values in args.vary}
    if len(varied) < len(args.vary):
        raise InputError("--vary names a field twice: give all its values at once, --vary FIELD=VALUE,VALUE")
    begun = load_sweep(args.out) if goes_on(args) and read_config(args.out) is None else None
    if begun is None and args.seeds is None and not varied:
        return None
    if begun is None:
        sweep = Sweep(given, varied, 1 if args.seeds is None else args.seeds, args.recipe)
    else:
        sweep = begun.extended(given, varied, args.seeds, args.recipe)
    if both := sorted(sweep.varied.keys() & given.keys()):
        flag = both[0].replace("_", "-")
        raise InputError(f"--{flag} gives a field that the variants differ in: leave it out, or --vary {flag}")
    return replace(sweep, before=begun or load_sweep(args.out))


def _anywhere(name: str, value: Any) -> Any:
    """Return the value of a field; a start or weights that lie here by a name that holds in any folder."""
    if name not in ("start", "weights") or value is None or value in pretrained_names():
        return value
    return str(Path(value).absolute()) if Path(value).exists() else value


def configs_of(args: argparse.Namespace, sweep: Sweep | None) -> dict[Path, TrainConfig]:
    """Return the configuration of every run by its folder below `args.out`; a run that was trained longer stays so."""
    if sweep is None:
        return {Path(): config_from_flags(args)}
    configs = {folder: config_from_fields(sweep.recipe, {}, fields) for folder, fields in sweep.runs().items()}
    for folder, config in configs.items() if goes_on(args) else ():
        begun = read_config(args.out / folder)
        if begun is not None and begun.updates > config.updates and not config.follows_length:
            configs[folder] = replace(config, updates=begun.updates)
    return configs


def check_effects(args: argparse.Namespace, configs: list[TrainConfig]) -> None:
    """Raise `InputError` for flags that change none of the runs."""
    for name in (*given_fields(args), *dict(args.vary)):
        if all(name in config.without_effect for config in configs):
            methods = ", ".join(sorted({config.method for config in configs}))
            raise InputError(f"--{name.replace('_', '-')} changes nothing in a training by {methods}: leave it out")
    asked = Resources(find_device(args.device), engine=args.engine, chunk=args.chunk)
    if args.engine not in ("auto", "loop") and all(config.task_gradient() is not None for config in configs):
        raise InputError(f"--engine {args.engine} is for MAML's own gradient; these run as a loop: leave it out")
    if args.chunk is not None and not any(asked.are_batched(config) for config in configs):
        raise InputError(f"--chunk {args.chunk} is for --engine vmap, and these run as a loop: leave it out")


def check_place(args: argparse.Namespace, sweep: Sweep | None, configs: dict[Path, TrainConfig]) -> None:
    """Raise where `args.out` holds something else than what is asked for."""
    is_single, are_several = read_config(args.out) is not None, holds_runs(args.out)
    if are_several and not goes_on(args):
        raise InputError(f"{args.out} holds several runs: continue them with --resume, or choose another --out")
    is_known = sweep is not None and (sweep.before or any(read_config(args.out / run) for run in configs))
    if are_several and not is_known:
        raise InputError(f"{args.out} holds several runs, but not what they began with: give all their flags again")
    if sweep is None:
        if args.runner == "ray":
            raise InputError("--runner ray hands several runs to a cluster: add --seeds or --vary, or leave it out")
        if args.jobs is not None and args.jobs > 1:
            raise InputError(f"--jobs {args.jobs} is for several runs: add --seeds or --vary, or leave it out")
        if args.resume and not is_single:
            shared.say(f"there is no run in {args.out} yet: a new one begins")
        return
    if is_single:
        raise InputError(f"{args.out} holds a single run: choose another --out for several")
    for folder, config in configs.items():
        check_continues(args.out / folder, config)


def goes_on(args: argparse.Namespace) -> bool:
    """Whether runs that have begun are continued: `torchrun` restarts dead processes with the same flags."""
    return args.resume or is_restarted()


def command_that_goes_on(args: argparse.Namespace) -> str:
    """Return the command that continues what these flags began."""
    names = ("data_root", "jobs", "device", "runner", "address", "engine", "chunk", "out")
    usual = {"device": "auto", "runner": "local", "engine": "auto"}
    given = {name: value for name in names if (value := getattr(args, name)) not in (None, usual.get(name))}
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    flags += [f"--{name}" for name in ("deterministic", "tensorboard") if getattr(args, name)]
    return shlex.join(["train", "--resume", *flags])
