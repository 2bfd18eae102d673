"""Each attack on the page's server is refused, costs little, and leaves other pages as they were."""

import contextlib
import http.client
import socket
import struct
import threading
import time
import zlib
from urllib.parse import quote

import pytest

from metacontrast.cli.main import run
from metacontrast.errors import InputError
from metacontrast.play import security, session
from metacontrast.play.security import Address, check_binding
from play_kit import TOKEN, Client, drawing, serving


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("saved")) as port:
        yield port


@pytest.fixture(scope="module")
def taught(port):
    client = Client(port).open()
    board, other = client.state["classes"]
    client.post(f"examples/{board['id']}", drawing("cross"))
    client.post(f"examples/{other['id']}", drawing("ring"))
    return client, client.state, client.post("query", drawing("ring", 4))


@pytest.fixture
def page(taught):
    """A page on which something is taught; whatever a test does, it goes on as before."""
    client, before, answered = taught
    yield client
    assert client.state["classes"] == before["classes"]
    assert client.post("query", drawing("ring", 4)) == answered


def raw(port: int, data: bytes, wait: float = 5.0) -> bytes:
    """What comes back for some bytes, until the server closes or `wait` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := connection.recv(65536):
                found += part
        return found


def status_of(page: Client, method: str = "GET", path: str = "", **headers: str) -> int:
    return page.request(method, path, **headers)[0]


HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "[::1", ""]


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused(page, host):
    """A name that resolves to this computer (DNS rebinding) reaches nothing, with the right token too."""
    assert status_of(page, Host=host.format(port=page.port)) == 403
    assert status_of(page, Host=f"localhost:{page.port}") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_a_foreign_origin_is_refused(page, origin):
    wish = '{"do": "add_class", "name": "x"}'
    path, given = f"s/{page.session}/do", origin.format(port=page.port)
    assert page.request("POST", path, wish, Origin=given)[0] == 403
    assert page.request("POST", path, wish, Sec_Fetch_Site="cross-site")[0] == 403
    assert status_of(page, Origin=f"http://127.0.0.1:{page.port}", Sec_Fetch_Site="same-origin") == 200


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "%C3%A9", "../" + TOKEN])
def test_without_the_token_nothing_is_answered(page, token):
    """Neither pages nor files, and no difference between what exists and what does not."""
    for path in ("", "static/main.js", "s", "nothing"):
        status, found = page.request("GET", path, token=token)
        assert status == 403
        assert TOKEN not in str(found)


def test_headers_of_every_answer(page):
    """The policy loads from here alone; no other site may read, frame or keep what is shown."""
    for path, status in (("", 200), ("static/main.js", 200), ("nothing", 404), (f"s/{page.session}", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", f"/{TOKEN}/{path}")
            response = connection.getresponse()
            response.read()
        assert response.status == status
        assert response.headers["content-security-policy"].startswith("default-src 'self';")
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


TRAVERSALS = [
    "static/../session.py",
    "static/..%2fsession.py",
    "static/%2e%2e/session.py",
    "static/..%5csession.py",
    "static//etc/passwd",
    "static/%2fetc%2fpasswd",
    "static/main.js%00.html",
    "../static/main.js",
    "..%2f..%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_name_that_climbs_finds_nothing(page, path):
    answer = raw(page.port, f"GET /{TOKEN}/{path} HTTP/1.0\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
    assert answer.split()[1] in (b"403", b"404")
    assert b"root:" not in answer
    assert b"import" not in answer


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BOMBS = {"large": (5000, 5000), "huge": (60000, 60000), "wide": (2**31 - 1, 1)}


@pytest.mark.parametrize("case", BOMBS)
def test_a_decompression_bomb_is_not_unpacked(page, case):
    board = page.state["classes"][0]["id"]
    for path in (f"examples/{board}", "query"):
        started = time.process_time()
        status, found = page.post(path, png_header(*BOMBS[case]))
        assert status == 400
        assert found["error"]
        assert time.process_time() - started < 5


BODIES = {
    "not JSON": b"{",
    "deep": b"[" * 15_000,
    "a list": b"[]",
    "an unknown wish": b'{"do": "__init__"}',
    "a wish that is no text": b'{"do": ["undo"]}',
    "an extra word": b'{"do": "undo", "path": "/etc"}',
    "a name that is a number": b'{"do": "add_class", "name": 3}',
    "a path for a model": b'{"do": "settings", "model": "../../etc"}',
    "a model that is a list": b'{"do": "settings", "model": []}',
    "no number": b'{"do": "settings", "lr": NaN}',
    "an unknown example": b'{"do": "gallery", "name": "../letters"}',
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_wish_that_makes_no_sense_is_refused(page, case):
    status, found = page.post("do", BODIES[case])
    assert status == 400
    assert found["error"]


@pytest.mark.parametrize("path", ["do", "query", "load", "examples/e1"])
def test_a_body_over_the_limit_is_refused_unread(page, path):
    """By its header at once, and without one after as many bytes as are allowed."""
    start = f"POST /{TOKEN}/s/{page.session}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
    assert raw(page.port, f"{start}Content-Length: 99999999999\r\n\r\n".encode()).split()[1] == b"413"
    if path == "do":
        chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
        assert raw(page.port, f"{start}Transfer-Encoding: chunked\r\n\r\n".encode() + 3 * chunk).split()[1] == b"413"


def test_a_body_that_never_ends_and_half_open_connections_are_dropped(tmp_path, monkeypatch):
    """While twenty of them hang, another page is answered; then each is closed by the server."""
    monkeypatch.setattr(security, "PATIENCE", 1.5)
    monkeypatch.setattr(security, "BODY_TIME", 1.5)
    with serving(tmp_path) as port, contextlib.ExitStack() as stack:
        page = Client(port).open()
        start = (
            f"POST /{TOKEN}/s/{page.session}/query HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000\r\n\r\n"
        )
        begun = [start.encode() + b"x", start[:40].encode(), b"", b"GET / HTTP/1.1\r\nHost: a\r\n"]
        hanging = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(20)]
        for k, each in enumerate(hanging):
            each.sendall(begun[k % 4])
        assert page.request("GET", "")[0] == 200
        for each in hanging:
            with contextlib.suppress(ConnectionError):
                while each.recv(65536):
                    pass
        assert page.request("GET", "")[0] == 200


def test_only_so_many_connections_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "MOST_CONNECTIONS", 8)
    with serving(tmp_path) as port, contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(30)]
        closed = 0
        for each in many[8:]:
            with contextlib.suppress(ConnectionError):
                closed += each.recv(1) == b""
                continue
            closed += 1
        assert closed == 22


@pytest.mark.parametrize("requests", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_requests_take_nothing_from_another_page(page, requests):
    """An eighth of them without the token; each is answered, and so is the page that was there before."""
    counted = [0] * 5

    def flood(k: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
        with contextlib.closing(connection):
            for number in range(requests // 5):
                connection.request("GET", f"/{TOKEN if number % 8 else 'wrong'}/static/icon.svg")
                counted[k] += connection.getresponse().read() != b""

    threads = [threading.Thread(target=flood, args=(k,)) for k in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert page.get("query")[0] == 200
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert sum(counted) == requests


def test_sessions_are_bounded(tmp_path):
    """One page more than there may be is told so; those that are open stay."""
    with serving(tmp_path) as port:
        pages = [Client(port).open() for _ in range(session.MOST_SESSIONS)]
        status, found = pages[0].request("POST", "s", b"{}")
        assert status == 503
        assert "pages are open already" in found["error"]
        assert all(page.state["classes"] for page in pages)
        assert Client(port).request("GET", "s/unknown")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_no_other_method_does_anything(page, method):
    assert status_of(page, method, f"s/{page.session}/do") in (404, 405)


@pytest.mark.parametrize("number", ["\u00b2", "1.5", "9" * 30, "x"])
def test_numbers_that_are_none_are_read_as_unknown(page, number):
    status, found = page.get(f"watch?generation={quote(number)}&since={quote(number)}")
    assert status == 200
    assert found["records"] == []


def test_the_port_that_browsers_leave_out():
    address = Address("127.0.0.1", 80, TOKEN)
    assert all(address.allows(host) for host in ("127.0.0.1", "localhost", "[::1]", "127.0.0.1:80", "[::1]:80"))
    assert not any(address.allows(host) for host in ("127.0.0.1:81", "example.org", "example.org:80", ""))
    assert not Address("127.0.0.1", 81, TOKEN).allows("127.0.0.1")


def test_names_that_an_address_answers_to():
    """The bound one; on loopback also three, elsewhere any number, for rebinding needs a name."""
    home, away = Address("127.0.0.1", 8000, TOKEN), Address("0.0.0.0", 8000, TOKEN)
    assert all(home.allows(name) for name in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"))
    assert not any(home.allows(name) for name in ("192.168.0.2:8000", "localhost:8001", "localhost", "a:8000"))
    assert all(away.allows(name) for name in ("192.168.0.2:8000", "0.0.0.0:8000", "[fe80::1]:8000"))
    assert not any(away.allows(name) for name in ("evil.example:8000", "192.168.0.2:8001", "localhost:8000"))
    other = Address("127.0.0.2", 8000, TOKEN)
    assert all(other.allows(name) for name in ("127.0.0.2:8000", "localhost:8000"))
    assert not other.allows("127.0.0.3:8000")
    assert Address("::1", 80, "t").url == "http://[::1]:80/t/"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--host", "0.0.0.0"], ("--token",)),
        (["--host", "192.168.0.9"], ("--token",)),
        (["--token", "short"], ("16 or more",)),
        (["--token", "a/b/c/d/e/f/g/h/i/j/k"], ("letters and digits",)),
        (["--port", "99999"], ("0 to 65535",)),
        (["--model", "no-such-model"], ("no-such-model",)),
        (["--out", __file__], ("cannot write", "is a file")),
    ],
)
def test_the_command_refuses_in_one_line(words, parts, capsys):
    try:
        status = run(["play", "--no-browser", *words])
    except SystemExit as error:
        status = error.code
    assert status == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert all(part in line for part in parts)


def test_a_port_in_use_is_named(port, capsys):
    assert run(["play", "--no-browser", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err
    with pytest.raises(InputError):
        check_binding("::", None)
    check_binding("::1", None)
