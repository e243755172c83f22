"""Reads an emoji package of npm, unpacked or as the .tgz that `npm pack` brings.

`package/emoji.json` lists the emoji, `package/img/<vendor>/64/<image>` holds one picture each, 64 x 64 with
alpha.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime.errors import UserError

SPRITE_SIZE = 64
INDEX = "emoji.json"
_PICTURE = re.compile(r"(?:package/)?img/(\w+)/64/([\w-]+\.png)")
_MOST_BYTES = 64 << 20  # of a file in the package; the index has 2 MB, a picture some kB


@dataclass(frozen=True)
class EmojiPackage:
    """An index and its pictures.

    Attributes:
      entries: of emoji.json.
      pictures: image name -> a PNG file's bytes.
      vendor: who drew them, "google" or "twitter".
      licence: of the index, as the package says it.
      version: of the package.
    """

    entries: list[dict[str, Any]]
    pictures: dict[str, bytes]
    vendor: str
    licence: str
    version: str

    def sprite(self, image: str) -> np.ndarray:
        """(64, 64, 4) uint8 RGBA of a picture that the index names.

        Raises:
          UserError: it is not there, or no picture of that size.
        """
        if image not in self.pictures:
            raise UserError(
                f"the package names {image} in {INDEX}, but brings no such picture; download it again"
            )
        try:
            with Image.open(io.BytesIO(self.pictures[image]), formats=["PNG"]) as picture:
                if picture.size != (SPRITE_SIZE, SPRITE_SIZE):
                    raise UserError(f"{image} is {picture.size[0]}x{picture.size[1]}, expected 64x64")
                return np.array(picture.convert("RGBA"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{image} is no readable PNG file ({error}); download the package again"
            ) from None


def read_package(path: str | Path) -> EmojiPackage:
    """Reads a package.

    Args:
      path: the .tgz, or the folder that holds emoji.json, or the folder around that, `package/`.
    Raises:
      UserError: it is neither, is damaged, or its vendor's pictures may not be passed on.
    """
    path = Path(path)
    files = _files_of_folder(path) if path.is_dir() else _files_of_archive(path)
    found = {key: value for key, value in files.items() if not key.startswith("img/")}
    if INDEX not in found:
        raise UserError(f"{path}: holds no {INDEX}; give what `npm pack emoji-datasource-google` brings")
    pictures: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        if match := _PICTURE.fullmatch(name):
            pictures.setdefault(match[1], {})[match[2]] = content
    if len(pictures) != 1:
        raise UserError(
            f"{path}: expected pictures of one vendor in img/<vendor>/64, found {sorted(pictures) or 'none'}"
        )
    (vendor,) = pictures
    return EmojiPackage(
        _read_index(found[INDEX], path),
        pictures[vendor],
        vendor,
        found.get("LICENSE", b"").decode(errors="replace"),
        _version(found.get("package.json", b"{}")),
    )


def _is_wanted(name: str) -> bool:
    return name in (INDEX, "LICENSE", "package.json") or bool(_PICTURE.fullmatch(name))


def _files_of_folder(path: Path) -> dict[str, bytes]:
    root = path / "package" if (path / "package" / INDEX).is_file() else path
    names = (file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if file.is_file())
    return {name: (root / name).read_bytes() for name in names if _is_wanted(name)}


def _files_of_archive(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; `npm pack emoji-datasource-google` brings the .tgz")
    files = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix("package/")
                if member.isfile() and _is_wanted(name):
                    if member.size > _MOST_BYTES:
                        raise UserError(
                            f"{path}: {member.name} has {member.size} bytes, which no such file needs"
                        )
                    files[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is no readable archive ({error}); download it again") from None
    return files


def _read_index(content: bytes, path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(content)
        for entry in entries:
            for key in ("name", "short_name", "unified", "image", "category"):
                if not isinstance(entry[key], str):
                    raise TypeError(f"{key} is {entry[key]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {INDEX} is not a list of emoji ({error!r})") from None
    return entries


def _version(content: bytes) -> str:
    try:
        return str(json.loads(content)["version"])
    except (ValueError, KeyError, TypeError):
        return "unknown"
