"""Who may talk to the page's server, how much, and for how long.

- The address holds a random token, `http://127.0.0.1:PORT/TOKEN/`; without it nothing is answered.
- `Host` must be this server's own name, which stops a foreign name that resolves to this computer; `Origin`, where a
  browser sends one, must be the page's own. No header allows another site to read an answer.
- The content security policy loads nothing from elsewhere and runs no inline script.
- Bodies are counted while they arrive and have a time limit; so has every request. A connection that sends no whole
  request in time is closed, and the number of open ones is bounded.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from metacontrast.errors import InputError

HttpScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[HttpScope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_TOKEN = 16
PATIENCE, BODY_TIME, REQUEST_TIME = 10.0, 30.0, 120.0
MOST_CONNECTIONS = 128
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is not answered, with the status and the sentence that are."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.response = JSONResponse({"error": sentence}, status, {"connection": "close"})


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Args:
        token: the part of every path that only the page's owner knows.
    """

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{self.name}:{self.port}/{self.token}/"

    @property
    def name(self) -> str:
        """The host as an address writes it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def allows(self, host: str) -> bool:
        """Whether a `Host` header names this server.

        That is the name that was bound; also, on loopback, one of three names, and elsewhere a number: a name that an
        attacker makes resolve to this computer is neither.
        """
        if self.port == 80 and not re.search(r":\d+$", host):
            host += ":80"  # which browsers leave out
        name, colon, port = host.rpartition(":")
        if not colon or port != str(self.port):
            return False
        if is_loopback(self.host):
            return name in (self.name, *LOOPBACK)
        return name == self.name or _is_number(name.strip("[]"))


def check_binding(host: str, token: str | None) -> None:
    """Raise `InputError` where a page would be open to others without a token that was chosen for it."""
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
        raise InputError(f"--token must be {SHORTEST_TOKEN} or more letters and digits; left out it is drawn at random")
    if not is_loopback(host) and token is None:
        raise InputError(f"--host {host} opens the page to other computers: give --token too, and share it with care")


def is_loopback(host: str) -> bool:
    """Whether an address is this computer's own, unseen from elsewhere."""
    return host == "localhost" or (_is_number(host) and ipaddress.ip_address(host).is_loopback)


def _is_number(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


class Guard:
    """The application behind the checks of this module; paths reach it without the token."""

    def __init__(self, app: App, address: Address):
        self.app, self.address = app, address

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            async with asyncio.timeout(REQUEST_TIME):
                await self.app(self._checked(scope), receive, guarded)
        except (Refused, TimeoutError, ClientDisconnect) as error:
            if not started and not isinstance(error, ClientDisconnect):
                refused = error if isinstance(error, Refused) else Refused(503, "this took too long: try less at once")
                await refused.response(scope, receive, guarded)

    def _checked(self, scope: HttpScope) -> HttpScope:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self.address.allows(host):
            raise Refused(403, "this server is not that host: open the address that `metacontrast play` printed")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, "another site may not use this server")
        if headers.get(b"sec-fetch-site", "none") not in ("same-origin", "none"):
            raise Refused(403, "another site may not use this server")
        _, token, *rest = scope["path"].split("/", 2) if scope["path"].count("/") > 1 else ("", "")
        if not hmac.compare_digest(token.encode(), self.address.token.encode()):
            raise Refused(403, "the address lacks its token: open the address that `metacontrast play` printed")
        return {**scope, "path": f"/{rest[0]}", "raw_path": b"", "root_path": ""}


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes, or `Refused`; it is not read further than that."""
    too_large = Refused(413, f"this is larger than the limit of {limit / 1e6:g} MB: make it smaller")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIME):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise Refused(408, "the request did not arrive in time: try again") from error
    return b"".join(parts)


class Impatient(H11Protocol):
    """HTTP of uvicorn that closes a connection on which no whole request has arrived in time."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, or close at once where too many are open."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._restart()

    def on_response_complete(self) -> None:
        """Start the clock for the next request."""
        self._restart()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _restart(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
