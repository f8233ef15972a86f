"""Checks that a row of a service is one: whoever answers at an address may write what it likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from .types import VerdictLabel

_FINITE = 1e300
Check = Callable[[Any], bool]


def remote_row(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a verdict; what a newer service says beside it is let through.

    Raises:
        ValueError: something is missing or of another type; says what.
    """
    checks = _CHECKS | ({"provenance": _is_provenance} if answer.get("provenance") is not None else {})
    for name, fits in checks.items():
        if name not in answer or not fits(answer[name]):
            raise ValueError(f"{name!r} is missing, or no value that it can have")
    return dict(answer)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and -_FINITE <= value <= _FINITE  # not `isfinite`: an integer may be too large


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are(value: Any, checks: Mapping[str, Check]) -> bool:
    """Whether it is a list of objects that have at least these values."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(name in each and fits(each[name]) for name, fits in checks.items())
        for each in value
    )


_NEIGHBOR: dict[str, Check] = {
    "label": _is_text, "distance": _is_number, "generator": _is_text, "source": _is_text, "key": _is_text,
    "row": _is_count,
}  # fmt: skip
_FINDING: dict[str, Check] = dict.fromkeys(("kind", "claim", "found", "where", "meaning", "forgery"), _is_text)
_CHECKS: dict[str, Check] = {
    "status": lambda v: v == "ok",
    "image": _is_text,
    "verdict": lambda v: isinstance(v, str) and v in get_args(VerdictLabel),
    "score": _is_number,
    "probability": lambda v: v is None or (_is_number(v) and 0 <= v <= 1),
    "attribution": _is_text,
    "nearest_fake": lambda v: _are(v, _NEIGHBOR),
    "nearest_real": lambda v: _are(v, _NEIGHBOR),
    "sha256": _is_text,
    "width": _is_count,
    "height": _is_count,
    "format": _is_text,
    "view": _is_text,
    "detector": _is_text,
    "space": _is_text,
    "reasons": _is_texts,
    "reason_codes": lambda v: _are(v, {"code": _is_text}),
    "notes": _is_texts,
    "note_codes": lambda v: _are(v, {"code": _is_text}),
    "timings": lambda v: isinstance(v, dict) and all(map(_is_number, v.values())),
}


def _is_provenance(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_text(value.get(name)) for name in ("c2pa", "headline"))
        and _is_texts(value.get("claims"))
        and _are(value.get("findings"), _FINDING)
    )
