"""The description on a package index: README.md with absolute links, which its `repository` configures.

While no address is configured, links to files of the repository become plain text, and their pictures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FILE = r"\]\((?![a-z]+:|#)([^)\s]+)\)"
_PICTURE = r"!\[[^\[\]]*" + _FILE
_LINK = r"\[([^\[\]]*)" + _FILE


class ReadmeHook(MetadataHookInterface):
    """Sets the field `readme` of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the text of README.md into `metadata`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": on_an_index(text, self.config["repository"])}


def on_an_index(text: str, repository: str) -> str:
    """Make the text independent of the repository's files.

    >>> on_an_index("[Speed](docs/speed.md), ![curve](docs/curve.png)", "https://host/me/it")
    '[Speed](https://host/me/it/blob/HEAD/docs/speed.md), ![curve](https://host/me/it/raw/HEAD/docs/curve.png)'
    >>> on_an_index("[Speed](docs/speed.md), [![curve](docs/curve.png)](docs/speed.md) and more", "")
    'Speed,  and more'
    """
    if repository:
        return re.sub(
            _FILE, lambda m: f"]({repository}/{'raw' if m[1].endswith('.png') else 'blob'}/HEAD/{m[1]})", text
        )
    return re.sub(_LINK, r"\1", re.sub(_PICTURE, "", text))
