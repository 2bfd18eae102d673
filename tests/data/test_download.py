"""Downloads are whole and verified, or leave nothing behind; every failure says what to fetch by hand."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metacontrast.data import omniglot, published
from metacontrast.data.published import fetch
from metacontrast.errors import InputError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """`/whole` answers; `/cut/N` breaks off the first N times; anything else is not found."""

    cuts = 0
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if self.path not in ("/whole", "/cut", "/open-ended"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/open-ended":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/cut" and type(self).cuts > 0:
            type(self).cuts -= 1
            self.wfile.write(CONTENT[:1000])
            return
        self.wfile.write(CONTENT)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback interface, asked without proxies and again without pause."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(published, "PAUSE", 0.0)
    monkeypatch.setattr(Handler, "cuts", 0)
    monkeypatch.setattr(Handler, "requests", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("page", ["whole", "open-ended"])
def test_a_file_arrives_whole_in_a_folder_made_for_it(server, tmp_path, capfd, page):
    path = fetch(f"{server}/{page}", tmp_path / "new" / "file.zip", MD5)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]
    told = capfd.readouterr()
    assert told.out == ""
    assert "file.zip" in told.err


def test_a_file_with_the_right_checksum_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    fetch(f"{server}/whole", tmp_path / "file", MD5)
    assert Handler.requests == 0
    (tmp_path / "file").write_bytes(b"damaged")
    fetch(f"{server}/whole", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_that_breaks_off_is_tried_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "cuts", 2)
    assert fetch(f"{server}/cut", tmp_path / "file").read_bytes() == CONTENT
    assert Handler.requests == 3


def test_after_three_breaks_the_address_and_the_place_are_told(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "cuts", 9)
    message = f"could not fetch {server}/cut: 3 attempts failed.*1000 of {len(CONTENT)} bytes; fetch it by hand"
    with pytest.raises(InputError, match=message) as caught:
        fetch(f"{server}/cut", tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(InputError, match=f"what came has MD5 {MD5}, expected {'0' * 32}; fetch it by hand"):
        fetch(f"{server}/whole", tmp_path / "file", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told_at_once(server, tmp_path):
    with pytest.raises(InputError, match="the server answered 404 Not Found; fetch it by hand and put it at"):
        fetch(f"{server}/missing", tmp_path / "file")
    assert Handler.requests == 1


def test_without_a_server_the_address_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "PAUSE", 0.0)
    with pytest.raises(InputError, match=r"3 attempts failed, the last with: .*refused; fetch it by hand"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")


def test_a_place_that_cannot_be_written_is_not_taken_for_a_broken_network(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot write"):
        fetch(f"{server}/whole", tmp_path / "file" / "below")
    assert Handler.requests == 1


def test_omniglot_is_fetched_from_its_author_into_a_folder_of_its_own(server, tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", server)
    with pytest.raises(InputError, match=r"images_background.zip: the server answered 404.*omniglot/images_background"):
        omniglot.get(tmp_path)
