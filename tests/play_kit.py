"""A page's server in a thread of the test, and a client that speaks plain HTTP."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metacontrast.play.security import Address
from metacontrast.play.server import Play, listen, make_server
from metacontrast.play.session import Sessions, available_models

TOKEN = "0123456789abcdef0123456789abcdef"


class Client:
    """Speaks to the server as the page does."""

    def __init__(self, port: int):
        self.port = port
        self.session = ""

    def open(self) -> "Client":
        _, found = self.request("POST", "s", b"{}")
        self.session = found["session"]
        return self

    def request(self, method: str, path: str, body: Any = None, token: str = TOKEN, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/{token}/{path}", body, names)
            response = connection.getresponse()
            data, kind = response.read(), response.headers.get("content-type", "")
        return response.status, json.loads(data) if kind.startswith("application/json") else data

    def get(self, path: str) -> Any:
        return self.request("GET", f"s/{self.session}/{path}")

    def post(self, path: str, body: Any = b"") -> tuple[int, Any]:
        return self.request("POST", f"s/{self.session}/{path}", body)

    def act(self, do: str, **given: Any) -> tuple[int, Any]:
        return self.post("do", json.dumps({"do": do} | given))

    @property
    def state(self) -> dict[str, Any]:
        return self.request("GET", f"s/{self.session}")[1]["state"]


@contextlib.contextmanager
def serving(folder: Path, port: int = 0, models: Any = None, token: str = TOKEN) -> Iterator[int]:
    """A running server; its port."""
    play = Play(Sessions(available_models() if models is None else models), folder)
    with listen("127.0.0.1", port) as bound:
        number = bound.getsockname()[1]
        server = make_server(play, Address("127.0.0.1", number, token))
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield number
        finally:
            server.should_exit = True
            thread.join(20)
            play.close()
    assert not thread.is_alive()


def drawing(kind: str, seed: int = 0, side: int = 40) -> bytes:
    """A PNG of black strokes on white: a `cross`, a `ring`, or a `bar`, never twice the same."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2 + random.uniform(-2, 2, (2, 1, 1))
    radius = np.hypot(x, y)
    ink = {
        "cross": (np.minimum(abs(x), abs(y)) < 2) & (radius < side * 0.42),
        "ring": abs(radius - side * 0.3) < 2.2,
        "bar": (abs(x) < 2) & (abs(y) < side * 0.42),
    }[kind]
    file = BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
