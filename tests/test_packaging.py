"""What is published: complete archives, a description without relative links, and how to cite."""

import doctest
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from metacontrast.version import __version__

ROOT = Path(__file__).parents[1]
RELATIVE = re.compile(r"\]\((?!https?://|#)")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> dict[str, bytes]:
    """The files of the source archive by name."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    with tarfile.open(archive) as tar:
        files = {m.name.partition("/")[2]: tar.extractfile(m) for m in tar.getmembers() if m.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_the_source_archive_has_every_file_of_the_repository(sdist):
    """Except for what concerns the repository itself."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    kept = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file() and not name.startswith(".")}
    assert kept <= set(sdist)


def test_the_description_has_no_relative_links(sdist):
    description = Parser().parsestr(sdist["PKG-INFO"].decode())
    assert description["Description-Content-Type"] == "text/markdown"
    assert "# metacontrast" in description.get_payload()
    assert not RELATIVE.search(description.get_payload())


def test_links_of_the_description_are_absolute_once_there_is_an_address():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    assert doctest.testmod(hook).failed == 0
    text = hook.on_an_index((ROOT / "README.md").read_text(encoding="utf-8"), "https://host/me/it")
    assert not RELATIVE.search(text)
    assert "](https://host/me/it/raw/HEAD/docs/pictures/play-teach.png)" in text
    assert "](https://host/me/it/blob/HEAD/docs/play.md)" in text


def test_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    paper = citation["references"][0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"version = {{{__version__}}}" in readme
    assert paper["url"] in readme
    assert all(f"{author['given-names']} {author['family-names']}" in readme for author in paper["authors"])
