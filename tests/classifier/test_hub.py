"""The Hugging Face Hub, against a stand-in on this machine that speaks as much of its protocol as is needed."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from classifier_kit import grey_images, tiny_start
from metacontrast import FewShotClassifier
from metacontrast.classifier import sharing
from metacontrast.errors import InputError
from metacontrast.training.sources import PRETRAINED

SHA = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """Repositories in memory: create, commit, list, fetch."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.server.address}/{name}", "name": name})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" not in self.path:
            return self.answer({"errors": [], "warnings": []})  # of the card
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[name][line["value"]["path"]] = content
        return self.answer(
            {"commitUrl": f"{self.server.address}/{name}/commit/{SHA}", "commitOid": SHA, "success": True}
        )

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.server.repositories.get("/".join(parts[2:4]))
            if files is None:
                return self.send_error(404)
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            tree = [{"type": "file", "path": n, "size": len(c), "oid": SHA} for n, c in files.items()]
            if "tree" in parts:
                return self.answer(tree)
            return self.answer(
                {"id": "/".join(parts[2:4]), "sha": SHA, "siblings": siblings, "private": False, "tags": []}
            )
        if parts[0] == "api":
            return self.answer({})
        content = self.server.repositories["/".join(parts[:2])].get("/".join(parts[4:]))
        if content is None:
            return self.send_error(404)
        return self.answer(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA})

    do_HEAD = do_GET

    def answer(self, found, headers=()):
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(tmp_path):
    """The address of a stand-in, and what it holds."""
    pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.repositories, server.address = {}, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.address, server.repositories
    server.shutdown()
    server.server_close()
    thread.join()


def elsewhere(program: str, address: str, home) -> str:
    """Run a program in a process whose Hub is the stand-in; `huggingface_hub` reads its address when it is imported."""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fitted_classifier_goes_to_the_hub_and_comes_back(hub, tmp_path):
    """Guards `push_to_hub` and `from_pretrained`: the same folder, a card beside it, the same answers, bit for bit."""
    address, repositories = hub
    images, labels = grey_images()
    classifier = FewShotClassifier(tiny_start()).fit(images, labels)
    classifier.save(tmp_path / "own")
    np.save(tmp_path / "images.npy", images)
    push = f"""
from metacontrast import FewShotClassifier
print(FewShotClassifier.load({str(tmp_path / "own")!r}).push_to_hub("someone/shapes"))
"""
    assert "someone/shapes" in elsewhere(push, address, tmp_path / "home")
    files = repositories["someone/shapes"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    card = files["README.md"].decode()
    assert header_of(card)["tags"] == ["few-shot-learning"]
    assert "# someone/shapes" in card
    assert '- "class0": 5 images' in card
    fetch = f"""
import numpy as np
from metacontrast import FewShotClassifier
found = FewShotClassifier.from_pretrained("hf.co/someone/shapes")
np.save({str(tmp_path / "answers.npy")!r}, found.predict_proba(np.load({str(tmp_path / "images.npy")!r})))
"""
    elsewhere(fetch, address, tmp_path / "other home")
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), classifier.predict_proba(images))


def header_of(card: str) -> dict:
    """What the Hub reads of a model card: the YAML between its first two lines of dashes."""
    start, header, _ = card.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert start == ""
    assert facts["library_name"] == "metacontrast"
    assert facts["pipeline_tag"] == "image-classification"
    return facts


@pytest.mark.parametrize("model", ["omniglot-conv4", "cifar-fs-conv4", "photos", "photos-small"])
def test_bundled_models_have_cards_with_a_header(model):
    card = (PRETRAINED / model / "README.md").read_text(encoding="utf-8")
    assert header_of(card)["license"] in ("mit", "apache-2.0")
    assert f"# {model}\n" in card


def test_a_saved_model_has_a_card_which_does_not_replace_ones_own(tmp_path):
    classifier = FewShotClassifier(tiny_start())
    classifier.save_pretrained(tmp_path / "shapes")
    card = tmp_path / "shapes" / "README.md"
    assert header_of(card.read_text(encoding="utf-8"))
    assert "# shapes" in card.read_text(encoding="utf-8")
    card.write_text("mine")
    classifier.save_pretrained(tmp_path / "shapes")
    assert card.read_text() == "mine"


def test_a_repository_that_is_not_there_is_one_line(hub, tmp_path):
    program = """
from metacontrast import FewShotClassifier
try:
    FewShotClassifier.from_pretrained("someone/nothing")
except ValueError as error:
    print(error)
"""
    found = elsewhere(program, hub[0], tmp_path / "home")
    assert found.startswith("someone/nothing cannot be fetched from the Hub (")
    assert len(found.splitlines()) == 1


def test_an_unreachable_hub_is_one_line(tmp_path):
    pytest.importorskip("huggingface_hub")
    program = """
from metacontrast import FewShotClassifier
try:
    FewShotClassifier.load("someone/shapes")
except ValueError as error:
    print(error)
"""
    found = elsewhere(program, "http://127.0.0.1:9", tmp_path / "home")
    assert "cannot be fetched from the Hub" in found
    assert len(found.splitlines()) == 1


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sharing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'metacontrast\[hub\]'"):
        FewShotClassifier.from_pretrained("someone/shapes")


@pytest.mark.parametrize("name", ["one", "a/b/c", "", "user/na me"])
def test_names_that_are_no_repository(name):
    with pytest.raises(InputError, match="is not a repository: write user/name"):
        FewShotClassifier(tiny_start()).fit(*grey_images()).push_to_hub(name)


def test_a_folder_on_this_machine_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FewShotClassifier(tiny_start()).fit(*grey_images()).save("mine/shapes")
    assert sharing.downloaded("mine/shapes") is None
    assert FewShotClassifier.load("mine/shapes").classes_.tolist() == ["class0", "class1", "class2"]
