"""Paths and the operating system's errors in words."""

from __future__ import annotations

import errno
import os

from ..errors import FileAccessError, InputError
from ..types import Failure, ImageRef

NOT_REGULAR = "not a regular file (a pipe, socket or device); skipped"


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


def unreachable_ref(failure: Failure) -> ImageRef:
    """A reference that fails, when it is read, as the walk of its folder did: a labelled row of its own."""
    return ImageRef(failure.image, _kind_of(failure)(failure.message))


def error_of(failure: Failure) -> InputError:
    """The error that a failure stands for, with the image's name in front: where no row can stand in its place."""
    return _kind_of(failure)(f"{failure.image}: {failure.message}")


def _kind_of(failure: Failure) -> type[InputError]:
    return {kind.code: kind for kind in InputError.__subclasses__()}.get(failure.error, InputError)


def explain_os_error(error: OSError) -> str:
    """An operating system's error in plain words."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, PermissionError):
        return "no permission to read it; check its access rights"
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself; skipped"
    return error.strerror or str(error)


def unreachable(path: str | os.PathLike[str], error: OSError) -> Failure:
    """The row of a path that the operating system does not give."""
    return failed(display_name(path), FileAccessError(explain_os_error(error)))


def failed(name: str, error: InputError) -> Failure:
    """The row of an input that cannot be used."""
    return Failure(name, error.code, str(error))
