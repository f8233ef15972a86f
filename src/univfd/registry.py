"""Finds things by name: a file of a package folder, or an installed plug-in's entry point.

A new backbone engine, recipe, classifier, data set reader or output is one new file in its folder that ends in
`PLUGIN = TheThing`; the file's name (underscores as dashes) is the public name. Other distributions add to the same
names with entry points of the group `univfd.<kind>`. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

from .errors import MissingExtraError, UnknownNameError, UsageError

_NOT_FOR_USERS = {"dev", "docs", "browser"}  # extras: for who works on this project
_SHOWN = 200  # characters of a name that is not known
KINDS = ("backbones", "recipes", "classifiers", "datasets", "writers", "experiments", "index")


def names(kind: str) -> list[str]:
    """All names of a kind, sorted; nothing is imported but the package folder itself."""
    return sorted(_files(kind) | _plug_ins(kind).keys())


def load(kind: str, name: str) -> Any:
    """The thing called `name`.

    Args:
        kind: one of `KINDS`.
        name: public name; dashes and underscores are the same.

    Raises:
        UnknownNameError: no such name; the nearest names are proposed.
        MissingExtraError: its file needs a package that is not installed; the extra to install is named.
        UsageError: a plug-in that cannot be imported.
    """
    public = _public(name)
    files, plug_ins = _files(kind), _plug_ins(kind)
    if public in plug_ins:
        return _plug_in(f"{kind.rstrip('s')} {public!r}", plug_ins[public])
    if public not in files:
        raise unknown(kind.rstrip("s"), name, files | plug_ins.keys())
    try:
        module = importlib.import_module(f"univfd.{kind}.{public.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise missing_extra(f"{kind.rstrip('s')} {public!r}", error) from error
    return module.PLUGIN


def name_of(kind: str, thing: type) -> str:
    """The name that `load` finds a class by: what a folder on disk records of it.

    Args:
        kind: one of `KINDS`.
        thing: the class.
    """
    home = thing.__module__.partition(".")[0]
    for entry in importlib.metadata.entry_points(group=f"univfd.{kind}"):
        if entry.module.partition(".")[0] == home and entry.load() is thing:
            return entry.name
    return thing.__module__.rpartition(".")[2]


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not known, with the nearest known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}." if known else "There is none."
    )
    return UnknownNameError(f"no {what} is called {name[:_SHOWN]!r}. {hint}")


def missing_extra(what: str, error: ModuleNotFoundError) -> MissingExtraError:
    """The error for an absent optional dependency; the extra is looked up in the package's own metadata."""
    module = (error.name or "").partition(".")[0]
    extra = _extra_of(module)
    install = f"pip install 'univfd[{extra}]'" if extra else f"pip install {module}"
    return MissingExtraError(f"{what} needs {module}, which is not installed: {install}")


def _extra_of(module: str) -> str:
    wanted = module.replace("_", "-").lower()
    extras = []
    for requirement in importlib.metadata.requires("univfd") or []:
        found = re.match(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if found and found[2] not in _NOT_FOR_USERS and found[1].lower().replace("_", "-").startswith(wanted):
            extras.append(found[2])
    return wanted if wanted in extras else next(iter(extras), "")  # torch is in several, and has one of its own


def _files(kind: str) -> set[str]:
    package = importlib.import_module(f"univfd.{kind}")
    return {_public(m.name) for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}


def _plug_ins(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """By public name; of two under one name the first that is found."""
    return {_public(e.name): e for e in reversed(tuple(importlib.metadata.entry_points(group=f"univfd.{kind}")))}


def _plug_in(what: str, entry: importlib.metadata.EntryPoint) -> Any:
    owner = entry.dist.name if entry.dist else "another distribution"
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != entry.module.partition(".")[0]:
            raise missing_extra(what, error) from error
        raise UsageError(f"{what} of {owner} cannot be loaded: {error}. Install that distribution anew") from error
    except Exception as error:  # whatever a stranger's module does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise UsageError(f"{what} of {owner} cannot be loaded: {said}. Tell its maker, or remove it") from error


def _public(name: str) -> str:
    return name.replace("_", "-")
