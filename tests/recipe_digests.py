"""A process of its own: train named recipes at smoke size and print a digest of everything that each leaves.

python recipe_digests.py GREY COLOUR OUT THREADS RECIPE...
"""

import hashlib
import json
import sys
from pathlib import Path

from metacontrast.cli.main import run
from metacontrast.training.recipes import recipe

SMOKE = [
    *("--image-size", "28", "--split-scheme", "default", "--queries", "2", "--updates", "2", "--filters", "8"),
    *("--eval-every", "0", "--eval-episodes", "2", "--eval-steps", "1,2", "--explain-every", "2"),
]


def words(name: str, grey: str, colour: str) -> list[str]:
    """The recipe on images of the same kind; `--no-invert` since an inverted folder is another folder."""
    is_grey = recipe(name).dataset in ("glyphs", "omniglot")
    return ["train", "--recipe", name, "--dataset", f"folder:{grey if is_grey else colour}", "--no-invert", *SMOKE]


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def main(grey: str, colour: str, out: str, threads: str, *recipes: str) -> None:
    """One task an update leaves the threads to the operators; several are spread over them."""
    found = {}
    for name in recipes:
        for tasks in ("1", "3"):
            folder = Path(out) / f"{name}-{tasks}"
            more = ["--meta-batch", tasks, "--workers", threads, "--deterministic", "--out", str(folder)]
            assert run([*words(name, grey, colour), *more]) == 0
            found[f"{name}, {tasks} tasks an update"] = digest(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
