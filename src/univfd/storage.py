"""Folders on disk: a JSON manifest with a schema version, arrays in `.safetensors`, and one rename at the end.

No pickle anywhere, so that reading a stranger's folder runs none of their code.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .errors import FormatError, OutputExistsError, UnivFDError

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def require_new(target: Path) -> None:
    """Refuse a target that is there already; to be asked before long work.

    Raises:
        OutputExistsError: it is.
    """
    if target.exists() or target.is_symlink():
        raise OutputExistsError(f"{target} exists already; results are never overwritten. Choose another name")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends without an error.

    Raises:
        OutputExistsError: `target` is there already (before anything is done).
        UnivFDError: it cannot be written (read-only, no permission, disk full).
    """
    require_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise OutputExistsError(f"{target} was made by another process meanwhile; nothing was changed") from error
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cannot_write(target: Path, error: OSError) -> UnivFDError:
    """An operating system's refusal to write, in plain words."""
    why = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
    }.get(error.errno or 0, error.strerror or str(error))
    return UnivFDError(f"{target} cannot be written: {why}. Choose another place or make room")


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Keep a second process off the same unfinished work (a journal, a folder of checkpoints).

    Raises:
        OutputExistsError: another process is at it.
        OSError: no file can be made there.
    """
    import filelock

    if not work.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(work.parent))
    place = work.with_name(f".{work.name}.lock")
    lock = filelock.FileLock(place)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not place.exists():  # the library tries again where the system says that there is no such file
            with tempfile.TemporaryFile(dir=work.parent):
                pass
        raise OutputExistsError(f"another process is writing {work}; wait for it or choose another output") from None
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()


def write_json(path: Path, kind: str, schema: int, data: Mapping[str, Any]) -> None:
    """A manifest: what it is, its schema version, its data."""
    path.write_text(json_text(kind, schema, data), "utf-8")


def json_text(kind: str, schema: int, data: Mapping[str, Any]) -> str:
    """The text of a manifest."""
    return json.dumps({"kind": kind, "schema": schema} | dict(data), indent=1, ensure_ascii=False) + "\n"


def parsed(text: str | bytes) -> Any:
    """JSON of a stranger, of any size and shape.

    Raises:
        ValueError: no JSON, no UTF-8, nested deeper than Python can follow, or with half of a character (a lone
            surrogate, which no output can take).
    """
    try:
        data = json.loads(text)
        if ("\\u" if isinstance(text, str) else b"\\u") in text:  # type: ignore[operator]
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"it has a text that is no Unicode: {error.reason}") from None


def parsed_toml(text: str) -> dict[str, Any]:
    """TOML of a stranger.

    Raises:
        ValueError: no TOML, or nested deeper than Python can follow.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def within(path: Path) -> Path:
    """A file of a folder, which may come from a stranger.

    Raises:
        FormatError: it is a link to a place outside of its folder, or no regular file (a pipe would be waited for).
    """
    real, folder = path.resolve(), path.parent.resolve()
    if not real.is_relative_to(folder):
        raise FormatError(f"{path} is a link out of its folder; if you trust it, copy the folder with 'cp -rL'")
    if real.exists() and not real.is_file():
        raise FormatError(f"{path} is no regular file; expected one")
    return path


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, which may come from a stranger, into a new one.

    Raises:
        FormatError: something in it is a link to a place outside, a link to a folder, or neither file nor folder.
        OSError: it cannot be written.
    """
    inside = source.resolve()
    target.mkdir()
    target.chmod(0o755)  # it may come from a temporary folder
    for place, folders, files in os.walk(source):
        at = target / Path(place).relative_to(source)
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise FormatError(
                    f"{Path(place) / name} is a link to a folder, which is not copied; put the files there"
                )
            (at / name).mkdir()
        for name in files:
            path = Path(place) / name
            if not path.resolve().is_relative_to(inside) or not path.is_file():
                raise FormatError(f"{path} is no file of this folder (a link out of it, or no regular file); remove it")
            shutil.copyfile(path, at / name)


def read_json(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """Inverse of `write_json`.

    Raises:
        FormatError: missing, no JSON, of another kind, of a newer schema, or a link out of its folder.
    """
    try:
        text = within(path).read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{path.parent} is not a {kind} folder: it has no {path.name}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    return parse_json(text, str(path), kind, schema)


def parse_json(text: bytes, where: str, kind: str, schema: int) -> dict[str, Any]:
    """Inverse of `json_text`; see `read_json`."""
    try:
        data = parsed(text.decode("utf-8"))
    except ValueError as error:
        raise FormatError(f"{where} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != kind:
        got = data.get("kind") if isinstance(data, dict) else type(data).__name__
        raise FormatError(f"{where} is not the manifest of a {kind} (it says {got!r})")
    if not isinstance(data.get("schema"), int) or data["schema"] > schema:
        raise FormatError(
            f"{where} has schema {data.get('schema')!r}; this version reads up to {schema}. Update univfd to read it"
        )
    return data


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Named arrays, in the order of their names (the same arrays give the same bytes).

    Raises:
        OSError: it cannot be written.
    """
    try:
        save_file({k: np.ascontiguousarray(arrays[k]) for k in sorted(arrays)}, path)
    except SafetensorError as error:  # the library has the operating system's refusal as text
        if found := _OS_ERROR.search(str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise
    path.chmod(0o644)  # the library writes for the owner alone


def read_arrays(path: Path, expected: Mapping[str, tuple[int | None, ...]]) -> dict[str, np.ndarray[Any, Any]]:
    """Inverse of `write_arrays`.

    Args:
        path: the file.
        expected: shape of each array that must be there; None where any length will do.

    Raises:
        FormatError: missing, truncated, an array of another shape or of a type that numpy lacks, or a link out of its
            folder.
    """
    try:
        arrays = dict(load_file(within(path)))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise FormatError(f"{path} cannot be read (missing or damaged): {error}") from error
    for name, shape in expected.items():
        got = arrays[name].shape if name in arrays else None
        fits = got is not None and len(got) == len(shape)
        if not fits or any(want not in {None, have} for want, have in zip(shape, got or (), strict=True)):
            raise FormatError(f"{path}: array {name!r} has shape {got}; expected {shape} (None: any)")
    return arrays


def finite(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of numbers that something can be computed with.

    Raises:
        FormatError: nan, infinity, or values that are no numbers.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise FormatError(f"{path}: array {name!r} holds values that are not finite, or no numbers")
    return arrays


@contextmanager
def new_contents(target: Path) -> Iterator[Path]:
    """Give the name of a scratch file beside `target` that takes its place when the block ends without an error.

    Whatever goes wrong, `target` is what it was or what it shall be, and nothing else is left.

    Raises:
        OSError: as the block, or the move, raises it.
    """
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield scratch
        replace_file(scratch, target)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def replace_file(scratch: Path, target: Path) -> None:
    """Move a finished file into place, durably."""
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)
