"""Uncompressed tar files (WebDataset style): members by offset, nothing unpacked."""

from __future__ import annotations

import logging
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import NotAnImageError, TruncatedImageError
from ..types import Failure, ImageRef, TarSpan
from ._formats import HEAD, IMAGE_SUFFIXES, sniff
from ._names import display_name, failed, unreachable

_LARGEST = 1 << 62  # bytes of a member
_LONGEST_HEADER = 1 << 20
_DIGITS = re.compile(rb"\d{200}")
log = logging.getLogger("univfd.sources")


def is_tar(path: Path) -> bool:
    """Whether the file is taken as a tar shard, by its name."""
    return path.suffix.lower() == ".tar"


class TarMember(NamedTuple):
    """A regular file inside a tar; its bytes are read later, by offset."""

    name: str
    span: TarSpan
    image: bool


def tar_images(path: Path) -> Iterator[ImageRef | Failure]:
    """Image members of a tar, in order, named `shard.tar/member`."""
    for member in tar_members(path):
        if isinstance(member, Failure):
            yield member
        elif member.image:
            yield tar_ref(member)
        else:
            log.info("passed over %s in %s: not an image by name or content", display_name(member.name), path)


def tar_ref(member: TarMember) -> ImageRef:
    """The reference of a tar's member."""
    return ImageRef(f"{display_name(member.span.tar)}/{display_name(member.name)}", member.span)


def tar_members(path: Path) -> Iterator[TarMember | Failure]:
    """Every regular file of an uncompressed tar, in order; a `Failure` where the tar is damaged or no tar."""
    try:
        with path.open("rb") as file:
            for entry in tar_entries(file, display_name(path)):
                if isinstance(entry, Failure):
                    yield entry
                else:
                    yield TarMember(entry.name, TarSpan(path, entry.offset, entry.size), entry.image)
    except OSError as error:
        yield unreachable(path, error)


class TarEntry(NamedTuple):
    """A regular file inside a tar: its bytes are `size` bytes at `offset`."""

    name: str
    offset: int
    size: int
    image: bool


def tar_entries(file: IO[bytes], name: str) -> Iterator[TarEntry | Failure]:
    """Every regular file of an open tar, see `tar_members`.

    Args:
        file: it can seek; each read is at a place that was sought.
        name: of the tar, for failures.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                if member.isfile():
                    image = Path(member.name).suffix.lower() in IMAGE_SUFFIXES
                    if not image:
                        file.seek(member.offset_data)
                        image = sniff(file.read(min(HEAD, member.size))) != ""
                    yield TarEntry(member.name, member.offset_data, member.size, image)
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member otherwise
            end = tar.offset
            file.seek(end)  # tarfile takes a damaged header for the end
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                yield failed(name, TruncatedImageError(f"the tar is damaged at byte {end}; what follows was not read"))
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, IndexError, struct.error) as error:
        yield failed(name, NotAnImageError(f"not a readable (uncompressed) tar file: {error}"))


class _Header(tarfile.TarInfo):
    """A header whose numbers are looked at before they are believed.

    `tarfile` goes back where a size is below 0, and so on for ever; it takes a long name of any length into memory; and
    what it looks for in a pax header takes it a time that grows with the square of a row of digits.
    """

    _MORE = frozenset(
        [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE]
    )

    def _proc_member(self, tar: Any) -> Any:
        """The place that `tarfile` leaves to subclasses: what follows a header, by its type."""
        if not 0 <= self.size <= _LARGEST:
            raise tarfile.ReadError(f"a member of {self.size} bytes")
        if self.type in self._MORE:
            if self.size > _LONGEST_HEADER:
                raise tarfile.ReadError(f"a header of {self.size} bytes; expected {_LONGEST_HEADER} at most")
            here = tar.fileobj.tell()
            if _DIGITS.search(tar.fileobj.read(self.size)):
                raise tarfile.ReadError("a header with a number of more digits than any size has")
            tar.fileobj.seek(here)
        return super()._proc_member(tar)  # type: ignore[misc]
