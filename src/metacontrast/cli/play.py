"""`metacontrast play`: a page on which one teaches classes, and sees why the model decides."""

import argparse
import secrets
import webbrowser
from collections.abc import Callable
from pathlib import Path

from metacontrast.cli import shared
from metacontrast.cli.parser import Parser
from metacontrast.errors import one_line, require_extra


def add_parser(new: Callable[..., Parser]) -> None:
    """Declare the command, made by `new`, and its flags."""
    parser = new(
        description="Open a page on this computer: draw or drop a few images of each class, ask about another one, and "
        "see which examples pulled and pushed the answer. A second tab meta-trains two small models while you watch. "
        "Nothing leaves this computer. Ctrl-C ends it."
    )
    parser.add_argument("--model", metavar="NAME|DIR", help="what to offer first: a bundled model, or a run directory")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="default: any that is free")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    parser.add_argument(
        "--out",
        type=shared.out_folder,
        default=Path("play-classifiers"),
        metavar="DIR",
        help="where the page's Save writes classifiers (default: %(default)s)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; needs --token (default: %(default)s)"
    )
    parser.add_argument("--token", metavar="TEXT", help="the secret part of the address (default: drawn at random)")


def execute(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    require_extra("play", "page", "starlette", "uvicorn")
    from metacontrast.play.security import Address, check_binding
    from metacontrast.play.server import Play, listen, make_server
    from metacontrast.play.session import Sessions, available_models

    check_binding(args.host, args.token)
    shared.check_destinations([], folders=[args.out])
    play = Play(Sessions(available_models(args.model)), args.out)
    with listen(args.host, args.port) as bound:
        address = Address(args.host, bound.getsockname()[1], args.token or secrets.token_hex(16))
        print(one_line(address.url), flush=True)
        shared.say("the page is at the address above; Ctrl-C ends it")
        bound.listen()
        if not args.no_browser:
            webbrowser.open(address.url)
        try:
            make_server(play, address).run([bound])
        finally:
            play.close()


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) < 65536:
        raise ValueError
    return port


_port.__name__ = "port from 0 to 65535"
