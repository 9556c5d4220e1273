"""The packages of the npm registry that drawings and names come from."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = {
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "fluentui-emoji-js": "1.2.1",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/fxemoji": "1.2.2",
    "unicode-emoji-json": "0.9.0",
    "emojilib": "4.0.3",
    "emojibase-data": "17.0.0",
}


@dataclass(frozen=True)
class Packages:
    """A folder of packed packages."""

    folder: Path

    def fetch(self) -> None:
        """Packs those that are missing, by `npm pack`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [f"{name}@{version}" for name, version in VERSIONS.items() if not self.tarball(name).exists()]
        if missing:
            subprocess.run(["npm", "pack", "--silent", *missing], cwd=self.folder, check=True)

    def tarball(self, name: str) -> Path:
        """The file that `npm pack` makes of a package."""
        return self.folder / f"{name.removeprefix('@').replace('/', '-')}-{VERSIONS[name]}.tgz"

    def json(self, name: str, file: str) -> Any:
        """A JSON file of a package."""
        with tarfile.open(self.tarball(name)) as archive:
            member = archive.extractfile(f"package/{file}")
            assert member is not None, f"{name} has no {file}"
            return json.load(member)

    def files(self, name: str, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Stem and content of the files of a package with a suffix."""
        with tarfile.open(self.tarball(name)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(suffix) else None
                if content is not None:
                    yield Path(member.name).stem, content.read()


def code_of(emoji: str) -> str:
    """Code points in lower case, such as `1f468-200d-2695`, without the selectors of presentation."""
    return tidy_code("-".join(f"{ord(letter):x}" for letter in emoji))


def tidy_code(code: str) -> str:
    """Code points as `code_of` writes them, of those that a package writes, such as `0023-FE0F-20E3`."""
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part != "fe0f")
