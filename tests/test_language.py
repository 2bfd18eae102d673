"""Plain technical English: words and phrases that are avoided in the docs, in docstrings and in what commands print."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AVOIDED = {
    "anew": "again",
    "so many": "this many, N",
    "so often": "this often",
    "one's own": "your own",
    "mend": "fix",
    "rightly": "correctly",
    "older name": "alias",
    "comes? along|came along|brought along": "bundled, provided",
    "for the sake of": "for",
    "turn(s|ed|ing)? round": "reverses",
    "abreast": "batched across tasks",
    "once more": "again",
    "words of its own": "its own error",
    "stands in the linear head": "the head's current weights",
    "miss(es)? one another": "fail to rendezvous",
    "made to harm": "malicious",
    "do(es)? no harm": "can be deleted",
    "worth its edges": "",
    "hold the released": "cover the authors' numbers",
    "appears? whole": "writes are atomic",
    "in small(?=[.,;:)])": "at toy scale",
    "whoever": "anyone who",
    "of no use": "useless",
    "knows? no": "works for any",
    "is no(t)? from (here|there)|not from (here|there)": "from another program",
    "is no (image|zip|word|part|repository|stack|class)": "is not a",
    "what is no\\b": "what is not",
    "read off the": "derived from the",
    "main job": "quick demo",
    "ought": "should",
    "thereof|therein|hereby|hitherto|whilst|amongst": "",
}
"""Regular expressions, and what to write instead."""

TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(file for kind in ("md", "rst", "py") for file in sorted((ROOT / "docs").rglob(f"*.{kind}"))),
    *sorted((ROOT / "src").rglob("*.md")),
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]


@pytest.mark.parametrize("phrase", AVOIDED)
def test_words_to_avoid(phrase):
    pattern = re.compile(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match[0].split())}"
        for file in TEXTS
        for text in [file.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]
    assert not found, f"write {AVOIDED[phrase]!r}:\n" + "\n".join(found)
