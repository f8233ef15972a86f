"""What the user points at -> a stream of `ImageRef`, one per image, in a stable order.

Takes paths, folders (recursive), globs, tar files (WebDataset style), bytes, file objects, Pillow images and pixel
arrays. What cannot be reached (no permission, a link loop) comes out as a `Failure` in its place: nothing is dropped
in silence. Files of a walked folder that are neither named nor shaped like an image are passed over and logged.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from .errors import FileAccessError, InputError, NotAnImageError, TruncatedImageError, UsageError
from .types import Failure, ImageRef, Sample, TarSpan

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".heic",
        ".heif",
        ".hif",
        ".mpo",
    ]
)
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
_HEAD = 16

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | ImageRef | Sample | Any
"""One input: see `expand`. Pillow images and `(H, W, 3)` uint8 arrays are accepted too."""


def expand(inputs: Source | Iterable[Source]) -> Iterator[ImageRef | Failure]:
    """Turn inputs into image references, lazily.

    Args:
        inputs: one input or an iterable of them. A string or path is a file, a folder (walked recursively, names
            sorted), a tar file, or, where no such file exists and it has `*?[`, a glob. Bytes and file objects are
            encoded images. A `Sample` stands for its image.

    Yields:
        One `ImageRef` per image; a `Failure` in the place of what cannot be reached.

    Raises:
        UsageError: a single input of a type that is not listed above (among several it is a `Failure`).
    """
    if isinstance(inputs, Iterable) and not _is_single(inputs):
        for each in inputs:
            try:
                yield from _expand_one(each)
            except UsageError as error:  # one input among many: a row of its own
                yield Failure(f"<{type(each).__name__}>", error.code, str(error))
    else:
        yield from _expand_one(inputs)


def _is_single(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray) or hasattr(value, "read")


def _expand_one(item: Source) -> Iterator[ImageRef | Failure]:
    if isinstance(item, ImageRef | Failure):
        yield item
    elif isinstance(item, Sample):
        yield item.ref
    elif isinstance(item, str | os.PathLike):
        yield from _expand_path(os.fspath(item))
    elif isinstance(item, bytes | bytearray | memoryview):
        yield ImageRef("<bytes>", bytes(item))
    elif isinstance(item, np.ndarray):
        yield ImageRef("<pixels>", _checked_pixels(item))
    elif hasattr(item, "read"):
        yield ImageRef(str(getattr(item, "name", "<stream>")), item.read())
    elif hasattr(item, "convert") and hasattr(item, "size"):
        yield _from_pillow(cast("Image", item))
    else:
        raise UsageError(
            f"cannot read an image from {type(item).__name__}; give a path, folder, glob, bytes, file object, "
            "Pillow image or (H, W, 3) uint8 array"
        )


def _from_pillow(image: Image) -> ImageRef | Failure:
    name = display_name(getattr(image, "filename", "") or "<image>")
    try:
        return ImageRef(name, image.copy())  # the caller's object is neither moved nor shared with a thread
    except Exception as error:  # see images._open on what Pillow raises
        return _failure(name, TruncatedImageError(f"the image data end early or are damaged: {error}"))


def _checked_pixels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UsageError(f"pixels of shape {array.shape} and type {array.dtype}; expected RGB (H, W, 3) uint8")
    return np.ascontiguousarray(array)


def display_name(path: str | os.PathLike[str]) -> str:
    r"""A path as valid Unicode: bytes of a file name that are no UTF-8 are shown as `\xNN`."""
    text = os.fspath(path)
    if not _has_surrogates(text):
        return text
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _expand_path(text: str) -> Iterator[ImageRef | Failure]:
    if not text:
        yield _failure("", FileAccessError("an empty path; name a file or folder"))
        return
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError) and glob.has_magic(text):
            yield from _expand_glob(text)
        else:
            yield _unreachable(text, error)
    except ValueError as error:  # an embedded NUL
        yield _failure(display_name(text), FileAccessError(f"no usable path: {error}"))
    else:
        yield from _walk(path) if stat.S_ISDIR(mode) else _file(path, mode)


def _expand_glob(pattern: str) -> Iterator[ImageRef | Failure]:
    found = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 -- absolute patterns too
    if not found:
        yield _failure(
            display_name(pattern), FileAccessError("no file matches this pattern; check the path or quote the pattern")
        )
    folders: list[Path] = []  # what a matched folder holds comes with it, once
    for path in map(Path, found):
        if not any(folder in path.parents for folder in folders):
            yield from _expand_path(str(path))
            if path.is_dir():
                folders.append(path)


def _walk(top: Path) -> Iterator[ImageRef | Failure]:
    """Depth first, names sorted, on a stack of its own: a tree may be deeper than Python's."""
    passed_over = 0
    stack: list[tuple[Iterator[Path], tuple[int, int]]] = []
    below: Path | None = top
    while below is not None or stack:
        if below is not None:
            opened = _open_folder(below, [identity for _, identity in stack])
            if isinstance(opened, Failure):
                yield opened
            else:
                stack.append(opened)
            below = None
            continue
        path = next(stack[-1][0], None)
        if path is None:
            stack.pop()
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield _unreachable(path, error)
            continue
        if stat.S_ISDIR(mode):
            below = path
        elif is_tar(path) or path.suffix.lower() in IMAGE_SUFFIXES or _looks_like_image(path, mode):
            yield from _file(path, mode)
        else:
            passed_over += 1
            log.info("passed over %s: not an image by name or content", display_name(path))
    if passed_over:
        log.warning("%d files in %s are no images, by name and content, and were passed over", passed_over, top)


def _open_folder(folder: Path, above: list[tuple[int, int]]) -> tuple[Iterator[Path], tuple[int, int]] | Failure:
    """A folder's entries and its identity, or why it cannot be walked."""
    try:
        here = folder.stat()
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            problem = FileAccessError("a link loop: this folder contains itself; skipped")
            return _failure(display_name(folder), problem)
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        return _unreachable(folder, error)
    return (folder / name for name in names), identity


def _file(path: Path, mode: int) -> Iterator[ImageRef | Failure]:
    name = display_name(path)
    if not stat.S_ISREG(mode):
        yield _failure(name, FileAccessError("not a regular file (a pipe, socket or device); skipped"))
    elif is_tar(path):
        yield from _tar_members(path)
    else:
        yield ImageRef(name, path)


def _looks_like_image(path: Path, mode: int) -> bool:
    """Whether the first bytes are those of an image; ."""
    if not stat.S_ISREG(mode):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return True  # it cannot be told; reading it will say why
    return sniff(head) != ""


def sniff(head: bytes) -> str:
    """The image format that the first 12 bytes or more speak of (`JPEG`, `WEBP` ...), or an empty string."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "")
    return next((name for start, name in _MAGIC.items() if head.startswith(start)), "")


def is_tar(path: Path) -> bool:
    """Whether the file is taken as a tar shard, by its name."""
    return path.suffix.lower() == ".tar"


def _tar_members(path: Path) -> Iterator[ImageRef | Failure]:
    """Image members of an uncompressed tar, in order, named `shard.tar/member`. Members are read later, by offset."""
    name = display_name(path)
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                    span = TarSpan(path, member.offset_data, member.size)
                    yield ImageRef(f"{name}/{display_name(member.name)}", span)
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member otherwise
            end = tar.offset
        with path.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                yield _failure(
                    name, TruncatedImageError(f"the tar is damaged at byte {end}; what follows was not read")
                )
    except (tarfile.TarError, EOFError) as error:
        yield _failure(name, NotAnImageError(f"not a readable (uncompressed) tar file: {error}"))
    except OSError as error:
        yield _unreachable(path, error)


def read_bytes(ref: ImageRef) -> bytes:
    """The encoded bytes of a reference.

    Raises:
        FileAccessError: the file cannot be opened or read.
        TruncatedImageError: a tar that ends before its member does.
        UsageError: the reference holds pixels, which have no encoded bytes.
    """
    source = ref.source
    try:
        if isinstance(source, Path):
            return source.read_bytes()
        if isinstance(source, TarSpan):
            with source.tar.open("rb") as file:
                file.seek(source.offset)
                data = file.read(source.size)
            if len(data) < source.size:
                raise TruncatedImageError(f"the tar ends {source.size - len(data)} bytes before the end of this member")
            return data
    except OSError as error:
        raise FileAccessError(explain_os_error(error)) from error
    if not isinstance(source, bytes):
        raise UsageError(f"{ref.name} holds pixels, not encoded bytes")
    return source


def explain_os_error(error: OSError) -> str:
    """An operating system's error in plain words."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, PermissionError):
        return "no permission to read it; check its access rights"
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself; skipped"
    return error.strerror or str(error)


def _unreachable(path: str | os.PathLike[str], error: OSError) -> Failure:
    return _failure(display_name(path), FileAccessError(explain_os_error(error)))


def _failure(name: str, error: InputError) -> Failure:
    return Failure(name, error.code, str(error))
