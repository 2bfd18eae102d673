"""A Ray cluster to hand runs to: one that is there, or one on this machine for as long as the work takes."""

import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metacontrast.errors import InputError, require_extra

_OBJECT_STORE = 80 * 2**20
"""Runs exchange files, not objects: close to the least that Ray takes."""
_ANSWER_SECONDS = 5.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


def require_ray() -> None:
    """Raise when Ray is not installed."""
    require_extra("--runner ray", "ray", "ray")


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to the cluster at `address`, or without one start a Ray of `cpus` processors on this machine.

    What Ray prints to standard output meanwhile is dropped: that belongs to the caller's results.
    """
    require_ray()
    _settle(is_local=address is None)
    import ray

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        if address is None:
            folder = tempfile.TemporaryDirectory(prefix="metacontrast-ray-", ignore_cleanup_errors=True)
            _start(cpus, stack.enter_context(folder))
        else:
            _join(address)
        stack.callback(ray.shutdown)
        yield


def _settle(is_local: bool) -> None:
    """Set Ray's environment, which it reads when it is first imported and hands to its processes.

    No statistics of usage are sent. A Ray of our own listens on the network, so it asks for a token; made here, it
    need not be kept in a file in the user's home. Its workers get their share of a busy machine, as processes of the
    local runner do; Ray would put them last.
    """
    if "ray" in sys.modules:
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    if is_local:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(token, RAY_worker_niceness="0")


def _start(cpus: int, folder: str) -> None:
    with _init_errors("no Ray can be started on this machine"):
        _init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _temp_dir=folder,
        )


def _join(address: str) -> None:
    if address != "auto":
        _check_answers(address)
    with _init_errors(f"the Ray cluster at --address {address} cannot be joined from this machine"):
        _init(address=address)


def _init(**options: Any) -> None:
    """`ray.init` without its log and without its handler of SIGTERM."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _init_errors(what: str) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, RuntimeError, ValueError, RayError, SystemExit) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{what}: {reason or type(error).__name__}") from error


def _check_answers(address: str) -> None:
    """Raise unless something at `address` speaks as a cluster does: Ray itself would wait for minutes, noisily."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise InputError(
            f"--address {address} is not HOST:PORT of a cluster's head (as `ray start --head --port 6379` prints it) "
            "or auto: give one of them, and run the command on a machine of the cluster"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at --address {address} ({error.strerror or error}): is its head running there?"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS_FRAME:
        raise InputError(f"what answers at --address {address} is not a Ray cluster: give the port of its head")
