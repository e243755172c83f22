"""Webdataset shards: tar files in which the files of an item stand side by side and share a name."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.prepare.caption_items import IMAGE_SUFFIXES, make_line, parse_caption
from dataset.prepare.jobs import Job, Result, Tick, UnreadableJob
from dataset.prepare.output import fingerprint
from dataset.prepare.pictures import ImageBytes, check_image, write_bytes
from runtime.errors import UserError
from runtime.files import is_mac_metadata, require_regular

_MAX_MEMBER = 1 << 28  # bytes: no image under the pixel cap is larger
_SUFFIXES = (*sorted(IMAGE_SUFFIXES), ".txt", ".json")
_OVERHEAD = 1.2  # small files fill whole blocks on disk


def tar_jobs(shards: Sequence[Path]) -> Iterator[Job]:
    """A job a shard; its size is in bytes, for the number of items is not known beforehand."""
    for shard in shards:
        require_regular(shard, "a shard")
        size = shard.stat().st_size
        yield Job(f"{shard.stem}-shard", size, round(_OVERHEAD * size), fingerprint([shard]), shard)


def extract_shard(job: Job, tick: Tick, folder: Path) -> Result:
    """Writes a shard's images to `folder`/images/<shard>/<number>.<suffix>; names in the shard lead nowhere.

    Returns:
      A line for each item: `image_path`, `text`, `width`, `height`, `key`.
    """
    shard, result, position = job.payload, Result(), 0
    for number, (key, files, end) in enumerate(_read_items(shard, result.problems)):
        tick(end - position)
        position = end
        origin = f"{shard} item {key!r}"
        try:
            name, data, line = _check_item(files, f"images/{shard.stem}/{number:06d}", origin)
        except UserError as error:
            result.problems.append(str(error))
            continue
        write_bytes(folder / name, data)
        result.files.append(name)
        result.lines.append(line | {"key": key})
    tick(job.size - position)
    return result


def _check_item(files: dict[str, bytes | None], stem: str, origin: str) -> tuple[str, bytes, dict[str, Any]]:
    """The image's file name and bytes, and the item's line."""
    suffix = _only(files, IMAGE_SUFFIXES, origin)
    if suffix is None:
        raise UserError(f"{origin}: no image")
    if files[suffix] is None:
        raise UserError(f"{origin}: its image is not a plain file, or is too large")
    image = check_image(ImageBytes(files[suffix], origin))
    plain = {suffix: data for suffix, data in files.items() if data is not None}
    kind = _only(plain, {".txt"}, origin) or _only(plain, {".json"}, origin)
    text = None if kind is None else parse_caption(files[kind], kind.lower(), origin)
    name = f"{stem}{image.suffix}"
    return name, image.data, make_line(name, text, image.size, origin)


def _only(files: Mapping[str, Any], kinds: Collection[str], origin: str) -> str | None:
    """The suffix, as it is written, of the item's file of some kinds; None where it has none.

    Raises:
      UserError: it has several, and nothing says which is meant.
    """
    found = [suffix for suffix in files if suffix.lower() in kinds]
    if len(found) > 1:
        raise UserError(f"{origin}: {' and '.join(found)} are both there; keep one")
    return found[0] if found else None


def _read_items(shard: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, bytes | None], int]]:
    """(key, {suffix: bytes}, position after it) of every item; where the shard is damaged it ends, named.

    Suffixes are as the shard has them: `a.jpg` and `a.JPG` are two files. The bytes are None for what is not
    a plain file of an acceptable size.
    """
    key, files, count, end = None, {}, 0, 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isdir() or is_mac_metadata(Path(member.name)):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if f"{folder}/{stem}" != key:
                    if files:
                        yield key.lstrip("/"), files, end
                        count += 1
                    key, files = f"{folder}/{stem}", {}
                if f".{suffix.lower()}" in _SUFFIXES:
                    files[f".{suffix}"] = _read_member(archive, member)
                end = member.offset_data + member.size
                archive.members.clear()  # tarfile keeps them all
            if files:
                yield key.lstrip("/"), files, end
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("damaged header")  # tarfile takes it for the end
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        message = f"{shard}: damaged after {count} items, get it again: {error}"
        if count == 0:
            raise UnreadableJob(message) from None
        problems.append(message)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if not member.isreg() or member.issparse() or member.size > _MAX_MEMBER:
        return None
    data = archive.extractfile(member).read()
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
