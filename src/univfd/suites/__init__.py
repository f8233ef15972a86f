"""Published benchmarks: what is in each, where to get it, how it lies on disk. One TOML file a suite.

A suite names its test sets (`Subset`), and for each the folders of real and of fake images below a root that the user
gives. The label comes from this statement, so nothing is read out of file names. Nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .. import registry
from ..errors import DataError, FormatError
from ..sources import display_name, expand, file_of, unreachable_ref
from ..storage import parsed_toml
from ..types import Failure, Label, Sample
from ..wording import counted
from ._checksums import Archive, fingerprint, verify
from ._places import Found, count, find

__all__ = ["Archive", "Check", "Found", "Subset", "Suite", "fingerprint", "names", "open_suite", "verify"]

_TEXTS = ("name", "title", "family", "generator", "source", "split", "sha256")


@dataclass(frozen=True, slots=True)
class Subset:
    """One test set of a suite.

    Attributes:
        name: within the suite.
        title: as tables of the literature call it.
        family: of its generator: `gan`, `diffusion`, `ar` ...
        generator: of its fakes.
        source: of its reals; sets that share their reals have the same.
        split: as the suite calls this part of its data, or empty.
        folder: places below the root where the set may lie; one of them must hold what `real` and `fake` name.
        real: folders (or tars) of its reals, below `folder`; parts may have `*`, `?`, `[]`.
        fake: the same of its fakes.
        count: published number of images of each class (`real`, `fake`), where known.
        sha256: `univfd.types.data_digest` of its images, where known.
    """

    name: str
    title: str = ""
    family: str = ""
    generator: str = ""
    source: str = ""
    split: str = ""
    folder: tuple[str, ...] = (".",)
    real: tuple[str, ...] = ()
    fake: tuple[str, ...] = ()
    count: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""

    def samples(self, found: Found) -> Iterator[Sample]:
        """Its images, reals first, sorted by path."""
        for label, places in ((Label.REAL, found.real), (Label.FAKE, found.fake)):
            fake = label is Label.FAKE
            for place, stars in places:
                for item in expand(place):
                    yield Sample(
                        unreachable_ref(item) if isinstance(item, Failure) else item,
                        label,
                        generator=self.generator if fake else "",
                        source=self.generator if fake else self.source,
                        family=self.family if fake else "",
                        split=self.split,
                        subset=self.name,
                        extra=_class_of(item, place, stars),
                    )


@dataclass(frozen=True, slots=True)
class Suite:
    """A published benchmark.

    Attributes:
        name: shipped name.
        title: for people.
        url: the project's page.
        get: how to get the images.
        root: which folder the user is to name.
        citation: what to cite.
        licence: of the images, where known.
        note: what a reader of figures on it should know.
        subsets: its test sets.
        archives: published files with known checksums.
    """

    name: str
    title: str
    url: str
    get: str
    root: str
    citation: str = ""
    licence: str = ""
    note: str = ""
    subsets: tuple[Subset, ...] = ()
    archives: tuple[Archive, ...] = ()

    def chosen(self, only: Sequence[str] = ()) -> tuple[Subset, ...]:
        """The subsets of these names, in the suite's order; all where none is named.

        Raises:
            UnknownNameError: a name that it does not have.
        """
        names = {subset.name for subset in self.subsets}
        for name in only:
            if name not in names:
                raise registry.unknown(f"subset of {self.name}", name, names)
        return tuple(subset for subset in self.subsets if not only or subset.name in only)

    def samples(self, root: str | Path, *, only: Sequence[str] = (), partial: bool = False) -> Iterator[Sample]:
        """Every image of the suite, subset by subset; what cannot be read is a sample too.

        Reals that several subsets share are given once for each.

        Args:
            root: see `Suite.root`.
            only: names of subsets; default all.
            partial: accept other numbers of images than were published.

        Raises:
            DataError: before the first sample is given: all that is missing below the root.
            UnknownNameError: a subset that the suite does not have.
        """
        checks = self.check(root, only=only)
        problems = [line for check in checks for line in check.problems(partial=partial)]
        if problems:
            listed = "\n  ".join(problems)
            raise DataError(
                f"{root} does not hold {self.name} as it was published:\n  {listed}\n"
                f"Expected: {self.root}. From {self.url}: {self.get} Nothing is downloaded"
            )
        for check in checks:
            yield from check.subset.samples(check.found)

    def check(self, root: str | Path, *, only: Sequence[str] = ()) -> tuple[Check, ...]:
        """What is below a root, subset by subset; no image is opened.

        Raises:
            DataError: the root is no folder.
            UnknownNameError: a subset that the suite does not have.
        """
        place = Path(root)
        if not place.is_dir():
            raise DataError(f"{root} is no folder. {self.name} wants {self.root}")
        return tuple(
            Check(subset, found, {word: count(places) for word, places in found.by_class.items()})
            for subset in self.chosen(only)
            for found in [find(place, subset.folder, subset.real, subset.fake)]
        )


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of a subset.

    Attributes:
        subset: what was looked for.
        found: its folders.
        images: number of each class (`real`, `fake`), of the folders found.
    """

    subset: Subset
    found: Found
    images: Mapping[str, int]

    def problems(self, *, partial: bool = False) -> list[str]:
        """What is not as published, one line each; `partial` takes any number of images but none."""
        lines = [f"{self.subset.name}: {problem}" for problem in self.found.problems]
        for word, n in self.images.items() if not self.found.problems else ():
            expected = self.subset.count.get(word)
            if n == 0 or (expected is not None and n != expected and not partial):
                lines.append(f"{self.subset.name}: {counted(n, f'{word} image')}; expected {expected or 'some'}")
        return lines


def names() -> list[str]:
    """Names of the suites that come with the package."""
    files = resources.files(__package__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def open_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or one of the user's own by the path of its TOML file.

    Raises:
        UnknownNameError: neither.
        FormatError: the file cannot be read.
    """
    if str(name) in names():
        return _parse((resources.files(__package__) / f"{name}.toml").read_text("utf-8"), f"suite {name}")
    path = Path(name)
    if not path.is_file():
        raise registry.unknown("suite", str(name), names())
    try:
        return _parse(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: {error}") from error


def _class_of(item: Any, place: Path, stars: tuple[str, ...]) -> dict[str, str]:
    """The folders that the `*` of a pattern stood for, and those below; see `Sample.extra`."""
    below: tuple[str, ...] = ()
    if not isinstance(item, Failure):
        file = file_of(item)
        assert file is not None  # `expand` of a folder gives nothing else
        below = file.relative_to(place).parts[:-1]
    words = [display_name(part) for part in (*stars, *below)]
    return {"class": "/".join(words)} if words else {}


def _parse(text: str, where: str) -> Suite:
    try:
        data = parsed_toml(text)
        subsets = tuple(_subset(each) for each in data.pop("subset", []))
        archives = tuple(_archive(each) for each in data.pop("archive", []))
        made = Suite(subsets=subsets, archives=archives, **data)
        if not all(isinstance(value, str) for value in data.values()):
            raise ValueError("expected text for all that is said of the suite itself")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"{where} is not a readable suite: {error}") from error
    seen = [subset.name for subset in made.subsets]
    if not seen or len(set(seen)) < len(seen):
        raise FormatError(f"{where}: expected [[subset]] entries of different names; got {', '.join(seen) or 'none'}")
    return made


def _archive(data: dict[str, Any]) -> Archive:
    if not _below(data.get("file")) or not isinstance(data.get("md5"), str):
        raise ValueError(f"archive {data.get('file')!r}: expected the name of a file in the root, and text for md5")
    return Archive(**data)


def _below(pattern: Any) -> bool:
    """Whether it names a place below the root, whatever the system's way of writing paths."""
    if not isinstance(pattern, str) or "\0" in pattern:
        return False
    parts = pattern.replace("\\", "/").split("/")
    return ".." not in parts and not PurePosixPath(pattern).is_absolute() and not PureWindowsPath(pattern).anchor


def _subset(data: dict[str, Any]) -> Subset:
    name = data.get("name")
    if not all(isinstance(data.get(key, ""), str) for key in _TEXTS) or not name:
        raise ValueError(f"subset {name!r}: expected text for {', '.join(_TEXTS)}, and a name")
    lists = {}
    for key in ("folder", "real", "fake"):
        value = data.pop(key, [])
        lists[key] = tuple([value] if isinstance(value, str) else value)
        for pattern in lists[key]:
            if not _below(pattern):
                raise ValueError(f"subset {name}: {key} {pattern!r}; expected folders below the root")
            if any("**" in part and part != "**" for part in pattern.split("/")):
                raise ValueError(f"subset {name}: {key} {pattern!r}; expected '**' to be a whole part of the path")
    if not lists["real"] and not lists["fake"]:
        raise ValueError(f"subset {name} names no folder of real or fake images")
    counts = data.get("count", {})
    if not isinstance(counts, dict) or not all(k in {"real", "fake"} and type(n) is int for k, n in counts.items()):
        raise ValueError(f"subset {name}: count {counts!r}; expected {{ real = N, fake = N }}")
    lists["folder"] = lists["folder"] or (".",)
    defaults = {"generator": name, "source": name, "title": name}
    return Subset(**(defaults | data | lists))
