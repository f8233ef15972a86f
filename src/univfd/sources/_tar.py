"""Uncompressed tar files (WebDataset style): members by offset, nothing unpacked."""

from __future__ import annotations

import logging
import posixpath
import re
import struct
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import FileAccessError, NotAnImageError, TruncatedImageError
from ..types import Failure, ImageRef, TarSpan
from ._formats import HEAD, IMAGE_SUFFIXES, sniff
from ._names import NOT_REGULAR, display_name, failed, unreachable

_LARGEST = 1 << 62  # bytes of a member
_LONGEST_HEADER = 1 << 20
_MOST_LINKS = 40  # one after another, as Linux has it
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, IndexError, struct.error)
_SPARSE = "a member that was stored with holes (tar --sparse), whose bytes do not lie in a row; pack it anew without"
_JOINED = (
    "the tar ends at byte {}, and more data follow (tars joined with cat?), which were not read; give each tar alone"
)
_LOOKED_BEHIND = 1 << 20  # more than any block size pads a tar with
_PACKED = re.compile(r"\.(tgz|tbz2?|txz|tzst|taz|tar\.[a-z0-9]{1,5})$", re.IGNORECASE)
_DIGITS = re.compile(rb"\d{200}")
log = logging.getLogger("univfd.sources")


def is_tar(path: Path) -> bool:
    """Whether the file is taken as a tar shard, by its name."""
    return path.suffix.lower() == ".tar"


PACKED_TAR = "a compressed tar, whose images cannot be read by place: unpack it, or decompress it to a plain .tar"
"""Why the images of such a file are left out, and what to do."""


def is_packed_tar(name: str) -> bool:
    """Whether a file is a compressed tar, by its name."""
    return _PACKED.search(name) is not None


class TarMember(NamedTuple):
    """A file inside a tar, or a link to one; its bytes are read later, by offset."""

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
    """Every file of an uncompressed tar, in order, links to them too.

    A `Failure` stands where the tar is damaged or no tar, for a link to what is no file of it, and for a device.
    """
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
    """A file inside a tar, or a link to one: its bytes are `size` bytes at `offset`."""

    name: str
    offset: int
    size: int
    image: bool


def tar_entries(file: IO[bytes], name: str) -> Iterator[TarEntry | Failure]:
    """Every file of an open tar, see `tar_members`.

    Args:
        file: it can seek; each read is at a place that was sought.
        name: of the tar, for failures.
    """
    begun = False
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            links: _Links | None = None
            while (member := tar.next()) is not None:
                begun = True
                if member.islnk() or member.issym():
                    links = links or _Links(file)
                    yield links.entry(member, name)
                elif member.issparse():
                    yield failed(f"{name}/{display_name(member.name)}", FileAccessError(_SPARSE))
                elif member.isfile():
                    yield _entry(file, member.name, member.offset_data, member.size)
                elif not member.isdir():
                    yield failed(f"{name}/{display_name(member.name)}", FileAccessError(NOT_REGULAR))
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member otherwise
            end = tar.offset
            file.seek(end)  # tarfile takes a damaged header for the end
            rest = file.read(_LOOKED_BEHIND)
            if rest[: tarfile.BLOCKSIZE].strip(b"\0"):
                yield failed(name, TruncatedImageError(f"the tar is damaged at byte {end}; what follows was not read"))
            elif rest.strip(b"\0"):
                yield failed(name, TruncatedImageError(_JOINED.format(end)))
    except _DAMAGE as error:
        if begun:
            yield failed(
                name, TruncatedImageError(f"the tar breaks off or is damaged ({error}); the rest was not read")
            )
        else:
            yield failed(name, NotAnImageError(f"not a readable (uncompressed) tar file: {error}"))


def _entry(file: IO[bytes], name: str, offset: int, size: int) -> TarEntry:
    image = Path(name).suffix.lower() in IMAGE_SUFFIXES
    if not image:
        file.seek(offset)
        image = sniff(file.read(min(HEAD, size))) != ""
    return TarEntry(name, offset, size, image)


class _Links:
    """Where the links of a tar lead: looked up in a pass of its own, so that tars without links need no memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._spans: dict[str, list[tuple[int, int]]] = {}
        self._onwards: dict[str, str] = {}
        file.seek(0)
        with suppress(*_DAMAGE), tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                if member.isfile() and not member.issparse():
                    here = member.offset_data, member.size
                    self._spans.setdefault(posixpath.normpath(member.name), []).append(here)
                elif member.islnk() or member.issym():
                    self._onwards[posixpath.normpath(member.name)] = _target(member)
                tar.members = []  # type: ignore[attr-defined]

    def entry(self, member: tarfile.TarInfo, name: str) -> TarEntry | Failure:
        """A link as the file that it leads to; a `Failure` where that is none of the tar's.

        Args:
            member: the link.
            name: of the tar.
        """
        place, passed = _target(member), 0
        while place not in self._spans and place in self._onwards and passed < _MOST_LINKS:
            place, passed = self._onwards[place], passed + 1
        if place not in self._spans:
            problem = FileAccessError(
                f"a link to {display_name(member.linkname)}, which is no file of this tar; skipped"
            )
            return failed(f"{name}/{display_name(member.name)}", problem)
        before = [span for span in self._spans[place] if span[0] < member.offset]  # a hard link is to what was there
        return _entry(self._file, member.name, *(before if member.islnk() and before else self._spans[place])[-1])


def _target(link: tarfile.TarInfo) -> str:
    """Name of the member that a link leads to: a hard link's is the whole name, a symbolic one's as seen from it."""
    beside = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(beside, link.linkname))


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
