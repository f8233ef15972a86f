"""Keys of callers: made at random, kept as hashes, compared in constant time.

A key has 256 random bits, so one round of sha256 is enough at rest: there is nothing to guess.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
from pathlib import Path

from ..errors import FormatError, UnauthorizedError, UsageError
from ..storage import cannot_write

log = logging.getLogger(__name__)

_PREFIX = "univfd_"
_LINE = re.compile(r"(?P<name>[\w.-]{1,64}) sha256:(?P<digest>[0-9a-f]{64})")
_LONGEST = 200


def generate(path: Path, name: str) -> str:
    """Make a key, add its hash to a file (mode 600), and give the key, which is kept nowhere.

    Args:
        path: the file; made where there is none.
        name: whose key it is; letters, digits, `_.-`.

    Raises:
        UsageError: a name that is taken or cannot be one.
        FormatError: the file is no file of keys.
        UnivFDError: the file cannot be written; it is as it was.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    line = f"{name} sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise UsageError(f"a key cannot be named {name!r}; up to 64 letters, digits and _ . -")
    if path.exists() and name in read(path):
        raise UsageError(f"{path} has a key named {name!r}; take out its line first, or choose another name")
    try:
        _append(path, f"{line}\n".encode())
    except OSError as error:
        raise cannot_write(path, error) from error
    return key


def _append(path: Path, line: bytes) -> None:
    """All of the line or nothing: half of one would shut out everybody."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        if before and os.pread(descriptor, 1, before - 1) != b"\n":  # written by hand; two keys on a line are none
            line = b"\n" + line
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, str]:
    """Name -> sha256 of the key.

    Raises:
        UsageError: the file cannot be read.
        FormatError: a line that is none of a key; the line's number is told, its text is not.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"file of keys {path}: {error}") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line.strip())):
            raise FormatError(f"{path}, line {number}: expected 'NAME sha256:HEX' as 'univfd serve keygen' writes it")
        if match["name"] in found:
            raise FormatError(f"{path}, line {number}: a second key of the same name; each name stands for one key")
        found[match["name"]] = match["digest"]
    return found


class Keys:
    """The keys that are let in; the file is read again when it changes, so that a key can be taken back."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UsageError, FormatError: see `read`.
        """
        self._path, self._known = path, read(path)
        if not self._known:
            log.warning(
                "%s has no key yet, so nobody is let in: univfd serve keygen --key-file %s --name NAME", path, path
            )
        self._stamp: tuple[int, int, int] | None = None  # of the file, when it was last read; not yet known
        self._wrong = ""  # with the file, as it was last told

    def check(self, authorization: str | None) -> str:
        """The name that belongs to the key of an `Authorization: Bearer` header.

        Raises:
            UnauthorizedError: no key, or an unknown one.
        """
        self._reread()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise UnauthorizedError("no key was sent")
        digest, name = _digest(key.strip()[:_LONGEST]), ""
        for each, known in self._known.items():  # all of them, whichever fits: the time tells nothing
            if hmac.compare_digest(digest, known):
                name = each
        if not name:
            raise UnauthorizedError("the key is not known here")
        return name

    def _reread(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp, wrong = stamp, ""
        try:
            self._known = read(self._path)
        except (UsageError, FormatError) as error:  # nobody is let in by a file that cannot be read
            self._known, wrong = {}, str(error)
            self._stamp = None  # it may be let read without being changed
        if wrong and wrong != self._wrong:
            log.error("no key is accepted: %s", wrong)
        self._wrong = wrong

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
