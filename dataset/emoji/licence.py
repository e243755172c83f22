"""Licences that go with whatever is made of the pictures."""

from __future__ import annotations

from pathlib import Path

from dataset.emoji.package import EmojiPackage
from runtime.errors import UserError

_APACHE = Path(__file__).parent / "LICENSE-Apache-2.0.txt"
_PICTURES = {
    "google": (
        "Noto emoji, (c) Google LLC, under the Apache License 2.0 (LICENSE-pictures.txt); "
        "https://github.com/googlefonts/noto-emoji"
    ),
    "twitter": (
        "Twemoji, (c) Twitter, Inc. and other contributors, under CC BY 4.0; "
        "https://creativecommons.org/licenses/by/4.0/, https://github.com/jdecked/twemoji"
    ),
}


def require_free(package: EmojiPackage) -> None:
    """Refuses pictures that may not be passed on.

    Raises:
      UserError: they are of another vendor than Google or Twitter.
    """
    if package.vendor not in _PICTURES:
        raise UserError(
            f"the pictures are {package.vendor}'s, which nobody may pass on; take emoji-datasource-google "
            "(Apache 2.0) or emoji-datasource-twitter (CC BY 4.0)"
        )


def write_licences(package: EmojiPackage, folder: Path) -> None:
    """Writes NOTICE.txt and the texts it names beside a prepared set."""
    notice = [
        "The pictures in this folder are made of emoji, scaled and laid over drawn backgrounds.",
        "",
        f"Pictures: {_PICTURES[package.vendor]}",
        f"Names and index: emoji-datasource-{package.vendor} {package.version}, (c) Cal Henderson, under "
        "the MIT licence (LICENSE-index.txt); https://github.com/iamcal/emoji-data",
        "",
        "Keep this notice and the licences with copies of the pictures, and with models that draw them.",
    ]
    (folder / "NOTICE.txt").write_text("\n".join(notice) + "\n", encoding="utf-8")
    (folder / "LICENSE-index.txt").write_text(package.licence or "MIT licence\n", encoding="utf-8")
    if package.vendor == "google":
        (folder / "LICENSE-pictures.txt").write_text(_APACHE.read_text(), encoding="utf-8")
