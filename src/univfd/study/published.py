"""What was published of the paper's experiments: `paper.toml`, every number with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

MISSING = "not published in a source at hand"


@dataclass(frozen=True)
class Row:
    """A table's row: a figure of a method on each test set, in percent; `of`: which variant of the method."""

    method: str
    of: str
    figure: str
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Mean:
    """A mean, in percent; `over`: `gan`, `unseen` or `all` of the paper's test sets."""

    method: str
    of: str
    figure: str
    over: str
    value: float
    source: str


@dataclass(frozen=True)
class Published:
    """What there is about one experiment.

    Attributes:
        rows: of tables.
        means: over test sets.
        findings: in words, each with its source.
        missing: what no source at hand has.
    """

    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    findings: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def published(experiment: str) -> Published:
    """What was published about an experiment of this name; the sources are given in full."""
    data = _read()
    source = data["source"]

    def about(kind: str) -> list[dict[str, Any]]:
        return [entry for entry in data[kind] if entry["experiment"] == experiment]

    return Published(
        tuple(
            Row(e["method"], e.get("variant", ""), e["figure"], e["values"], source[e["source"]]) for e in about("row")
        ),
        tuple(
            Mean(e["method"], e.get("variant", ""), e["figure"], e["over"], e["value"], source[e["source"]])
            for e in about("mean")
        ),
        tuple((e["text"], source[e["source"]]) for e in about("finding")),
        tuple(e["text"] for e in about("missing")),
    )


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "paper.toml").read_text("utf-8"))
