"""The page's server: routes, and how it starts and stops.

The page talks in JSON; images are bytes. Computing runs in a few threads, one request of a page at a time, so that the
server goes on answering other pages meanwhile.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from metacontrast.errors import InputError
from metacontrast.play import keep
from metacontrast.play.answers import answer, compare_starts, describe
from metacontrast.play.gallery import GALLERY, open_entry
from metacontrast.play.security import Address, Guard, Impatient, Refused, read_body
from metacontrast.play.session import Session, Sessions
from metacontrast.play.watch import Watch, probed_images

T = TypeVar("T")

IMAGE_LIMIT, JSON_LIMIT = 8_000_000, 16_000
WORKERS = 4
ANSWER_SECONDS = 5.0
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Play:
    """The application without its guard.

    Args:
        folder: where classifiers are saved, each in a folder of its own.
    """

    def __init__(self, sessions: Sessions, folder: Path):
        self.sessions, self.folder = sessions, folder
        self.quick = ThreadPoolExecutor(WORKERS, "play", lambda: torch.set_num_threads(1))
        self.slow = ThreadPoolExecutor(1, "play-slow", lambda: torch.set_num_threads(1))

    def app(self) -> Starlette:
        """The routes."""
        page = "/s/{session}"
        routes = [
            Route("/", self.asset),
            Route("/static/{name}", self.asset),
            Route("/s", self.open_page, methods=["POST"]),
            Route(page, self.show),
            Route(page + "/do", self.do, methods=["POST"]),
            Route(page + "/examples/{id}", self.add_example, methods=["POST"]),
            Route(page + "/examples/{id}", self.example),
            Route(page + "/thumbnails/{id}", self.thumbnail),
            Route(page + "/query", self.ask, methods=["POST"]),
            Route(page + "/query", self.query),
            Route(page + "/starts", self.starts, methods=["POST"]),
            Route(page + "/save", self.save, methods=["POST"]),
            Route(page + "/load", self.load, methods=["POST"]),
            Route(page + "/classifier.zip", partial(self.download, keep.as_zip, "application/zip")),
            Route(page + "/classifier.onnx", partial(self.download, keep.as_onnx, "application/octet-stream")),
            Route(page + "/explanation.png", partial(self.download, keep.as_picture, "image/png")),
            Route(page + "/watch", self.watch),
            Route(page + "/watch", self.control, methods=["POST"]),
            Route(page + "/watch/{name}", self.watched_image),
        ]
        handlers: Any = {InputError: _bad_input, Refused: _refused, 404: _not_found, 405: _not_found}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def asset(self, request: Request) -> Response:
        """A file of the page, by its name in a fixed list."""
        name = request.path_params.get("name", "index.html")
        if name not in assets():
            raise Refused(404, "there is no such file")
        return Response(assets()[name], media_type=TYPES[Path(name).suffix])

    async def open_page(self, request: Request) -> Response:
        """A new session."""
        try:
            id, session = self.sessions.add()
        except InputError as error:
            raise Refused(503, str(error)) from error
        gallery = [{"name": name, "title": e.title, "note": e.note} for name, e in GALLERY.items()]
        return JSONResponse({"session": id, "gallery": gallery, "state": describe(session)})

    async def show(self, request: Request) -> Response:
        """What is taught; also the page's sign of life."""
        return JSONResponse({"state": await self._run(self.session(request), describe)})

    async def do(self, request: Request) -> Response:
        """Change what is taught or how."""
        session, wish = self.session(request), await _json(request)
        name, given = wish.pop("do", ""), wish
        if type(name) is not str or name not in _ACTIONS or set(given) - set(_ACTIONS[name]):
            raise InputError("the page asked for something unknown: reload it")
        if name == "gallery":
            return await self._changed(session, open_entry, _text(given, "name", GALLERY))
        if name == "restore":
            return await self._changed(session, lambda session: session.restore(**given))
        if name == "settings":
            return await self._changed(session, lambda session: session.set_settings(**given))
        texts = {key: _text(given, key) for key in _ACTIONS[name]}
        return await self._changed(session, lambda session: getattr(session, name)(**texts))

    async def add_example(self, request: Request) -> Response:
        """An image for a class."""
        session, data = self.session(request), await read_body(request, IMAGE_LIMIT)
        return await self._changed(session, Session.add_example, request.path_params["id"], data)

    async def example(self, request: Request) -> Response:
        """An example as it was given; the page keeps it in case the server goes away."""
        return Response(_example(self.session(request), request).data, media_type="application/octet-stream")

    async def thumbnail(self, request: Request) -> Response:
        """An example as a small PNG."""
        found = _example(self.session(request), request).thumbnail
        return Response(found, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    async def ask(self, request: Request) -> Response:
        """The answer to an image, with what each example did to it."""
        session, image = self.session(request), await read_body(request, IMAGE_LIMIT)
        return JSONResponse(await self._run(session, answer, image))

    async def query(self, request: Request) -> Response:
        """The last image that was asked about, as it was given; nothing where there is none."""
        return Response(self.session(request).query, media_type="application/octet-stream")

    async def starts(self, request: Request) -> Response:
        """The answers to the last image under other heads at the start."""
        session = self.session(request)
        if not session.query:
            raise InputError("draw or drop an image on the query board first")
        return JSONResponse(await self._run(session, compare_starts, session.query))

    async def save(self, request: Request) -> Response:
        """Write the classifier to the server's own folder."""
        place = await self._run(self.session(request), keep.save, self.folder)
        return JSONResponse({"folder": str(place)})

    async def load(self, request: Request) -> Response:
        """Go on from a zip."""
        session, data = self.session(request), await read_body(request, keep.ZIP_LIMIT)
        return await self._changed(session, keep.load_zip, data)

    async def download(self, make: Callable[[Session], bytes], media_type: str, request: Request) -> Response:
        """A file that is made now."""
        found = await self._run(self.session(request), make, pool=self.slow)
        name = request.url.path.rsplit("/", 1)[-1]
        return Response(found, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})

    async def watch(self, request: Request) -> Response:
        """The updates since the last that the page knows, as soon as there is one."""
        watch = self._watch(self.session(request))
        generation, since = (_whole(request.query_params.get(name, "")) for name in ("generation", "since"))
        found, waited = watch.read(generation, since), 0.0
        while waited < ANSWER_SECONDS and not (
            found["records"] or found["generation"] != generation or found["problem"]
        ):
            await asyncio.sleep(0.05)
            found, waited = watch.read(generation, since), waited + 0.05
        return JSONResponse(found)

    async def control(self, request: Request) -> Response:
        """Play, pause, step, reset, speed."""
        watch, wish = self._watch(self.session(request)), await _json(request)
        if set(wish) - {"do", "seed", "speed"} or type(wish.get("do")) is not str:
            raise InputError("the page asked for something unknown: reload it")
        watch.control(wish.pop("do"), **wish)
        return JSONResponse(watch.read(-1, 10**9))

    async def watched_image(self, request: Request) -> Response:
        """An image of the task that is watched."""
        self.session(request)
        images = await asyncio.get_running_loop().run_in_executor(self.slow, probed_images)
        if request.path_params["name"] not in images:
            raise Refused(404, "there is no such image")
        return Response(images[request.path_params["name"]], media_type="image/png")

    def session(self, request: Request) -> Session:
        """The page's session, or 404: then the page opens a new one."""
        session = self.sessions.find(request.path_params["session"])
        if session is None:
            raise Refused(404, "this page's session is gone")
        return session

    def _watch(self, session: Session) -> Watch:
        """The session's pair; only the event loop makes it, so that no lock is waited for there."""
        if session.watch is None:
            session.watch = Watch()
        return session.watch

    async def _changed(self, session: Session, change: Callable[..., object], *given: Any) -> Response:
        """What is taught after a change of it."""
        await self._run(session, change, *given)
        return JSONResponse({"state": await self._run(session, describe)})

    async def _run(
        self, session: Session, work: Callable[..., T], *given: Any, pool: ThreadPoolExecutor | None = None
    ) -> T:
        """Work on a session in a thread, alone."""

        def alone() -> T:
            with session.lock:
                return work(session, *given)

        return await asyncio.get_running_loop().run_in_executor(pool or self.quick, alone)

    def close(self) -> None:
        """Let the threads end."""
        self.sessions.close()
        for pool in (self.quick, self.slow):
            pool.shutdown(wait=False, cancel_futures=True)


@cache
def assets() -> dict[str, bytes]:
    """The page's files by name; nothing else can be asked for."""
    folder = resources.files("metacontrast.play") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if Path(file.name).suffix in TYPES}


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to that address; port 0 takes any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"port {port} of {host} cannot be used ({error.strerror}): choose another with --port"
        ) from error
    return bound


def make_server(play: Play, address: Address) -> uvicorn.Server:
    """The server, not yet started."""
    config = uvicorn.Config(
        Guard(play.app(), address),
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16_384,
    )
    return uvicorn.Server(config)


_ACTIONS = {
    "add_class": ("name",),
    "rename_class": ("id", "name"),
    "remove_class": ("id",),
    "remove_example": ("id",),
    "undo": (),
    "gallery": ("name",),
    "settings": ("model", "steps", "lr", "scope", "random_head"),
    "restore": ("names", "model", "steps", "lr", "scope", "random_head"),
}


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await read_body(request, JSON_LIMIT))
    except (ValueError, RecursionError) as error:
        raise InputError("the page sent invalid JSON: reload it") from error
    if not isinstance(found, dict):
        raise InputError("the page sent no JSON object: reload it")
    return found


def _text(given: dict[str, Any], key: str, choices: Any = None) -> str:
    value = given.get(key)
    if type(value) is not str or (choices is not None and value not in choices):
        raise InputError("the page asked for something unknown: reload it")
    return value


def _whole(text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 20 else -1


def _example(session: Session, request: Request) -> Any:
    id = request.path_params["id"]
    for board in session.task.boards:
        for example in board.examples:
            if example.id == id:
                return example
    raise Refused(404, "this example is no longer there")


async def _bad_input(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is no such page"}, 404)
