"""Who is timed: this library, the floor, and the peers that an environment has."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from metacontrast.errors import InputError

OURS, ONE_WORKER, FLOOR = "ours", "ours-one-worker", "floor"
OWN = (OURS, ONE_WORKER, FLOOR)
"""This library; with one task in memory at a time, in one thread; and the lower bound."""
_FOLDER = Path(__file__).parent
_BENCH_ENVIRONMENT = Path(".venv-bench/bin/python")


@dataclass(frozen=True)
class Peer:
    """Another way to compute the same.

    Args:
        adapter: module in `peers`, and its function if it is not `prepare`.
        module: what it imports.
        package: name of the release that has it.
        absent: what to say where it is not installed.
    """

    adapter: str
    module: str
    package: str
    absent: str = "not installed"


PEERS = {
    "plain": Peer("plain", "torch", "torch"),
    "higher": Peer("with_higher", "higher", "higher"),
    "torchopt": Peer("with_torchopt", "torchopt", "torchopt"),
    "metalearn": Peer("with_metalearn", "metalearn", "parallel-metalearn"),
    "metalearn-sequential": Peer("with_metalearn:prepare_sequential", "metalearn", "parallel-metalearn"),
    "learn2learn": Peer("with_learn2learn", "learn2learn", "learn2learn", absent="did not install"),
}
ENGINES = (OURS, ONE_WORKER, *PEERS)


@dataclass(frozen=True)
class Engine:
    """An engine of this run.

    Args:
        command: starts its process.
        missing: why it cannot be started here, if so.
    """

    name: str
    command: tuple[str, ...] = ()
    missing: str | None = None


@dataclass(frozen=True)
class Environment:
    """Where the peers are: its interpreter, and each package's version or why it cannot be imported."""

    python: str
    versions: dict[str, str]
    missing: dict[str, str]

    def engine(self, name: str) -> Engine:
        """The peer of that name in this environment."""
        peer = PEERS[name]
        if peer.module in self.missing:
            reason = self.missing[peer.module]
            return Engine(name, missing=peer.absent if "ModuleNotFoundError" in reason else f"no import: {reason}")
        return Engine(name, (self.python, "-c", _START, str(_FOLDER), "peers.process", peer.adapter))


def own_engine(name: str) -> Engine:
    """One of `OWN`, in this interpreter."""
    return Engine(name, (sys.executable, "-c", _START, str(_FOLDER.parent), "gradients.ours", name))


def default_python() -> str:
    """The environment that `make bench` sets up, if it is here, else this one."""
    return str(_BENCH_ENVIRONMENT) if _BENCH_ENVIRONMENT.exists() else sys.executable


def probe(python: str) -> Environment:
    """Ask an interpreter which peers it can import."""
    modules = {peer.module: peer.package for peer in PEERS.values()}
    try:
        done = subprocess.run([python, "-c", _PROBE, json.dumps(modules)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"--peers {python} is no Python interpreter that runs: name its python, or leave it out"
        ) from error
    found = json.loads(done.stdout.splitlines()[-1])
    return Environment(python, found["versions"], found["missing"])


_START = """
import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

_PROBE = """
import importlib, importlib.metadata, json, sys
versions, missing = {}, {}
for module, package in json.loads(sys.argv[1]).items():
    try:
        importlib.import_module(module)
        versions[package] = importlib.metadata.version(package)
    except Exception as error:
        missing[module] = type(error).__name__ + ": " + str(error)[:120]
print()
print(json.dumps({"versions": versions, "missing": missing}))
"""
