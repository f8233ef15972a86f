"""A row (see `univfd.writers`) as a piece of HTML, for notebooks. All text is escaped: names come from strangers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_COLOURS = {"fake": "#b2182b", "real": "#1f6b3b", "unsure": "#7a5b00", "failed": "#6b2c6b"}


def card(row: Mapping[str, Any]) -> str:
    """One verdict or failure with its evidence; self-contained, without scripts."""
    word = "failed" if row["status"] == "failed" else row["verdict"]
    badge = f"color:#fff;background:{_COLOURS[word]};padding:0 .5em;border-radius:.3em"
    lines = "".join(f"<div>{line}</div>" for line in (_failed(row) if word == "failed" else _verdict(row)))
    return (
        f'<div style="border-left:.3em solid {_COLOURS[word]};padding:.2em .8em;margin:.3em 0">'
        f'<div><b style="{badge}">{escape(word)}</b> {escape(row["image"])}</div>{lines}</div>'
    )


def _failed(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{escape(row['error'])}: {escape(row['message'])}"


def _verdict(row: Mapping[str, Any]) -> Iterator[str]:
    chance = "" if row["probability"] is None else f"p(fake) {row['probability']:.2f}, "
    yield f"{chance}score {row['score']:+.3f}"
    if row["attribution"]:
        yield f"like images of: {escape(row['attribution'])}"
    for side in ("nearest_fake", "nearest_real"):
        for near in row[side]:
            origin = " ".join(filter(None, (near["generator"], near["source"] and f"({near['source']})")))
            yield f"{escape(side.replace('_', ' '))}: distance {near['distance']:.3f} {escape(origin)}"
    for reason in row["reasons"]:
        yield f"unsure: {escape(reason)}"
    for note in row["notes"]:
        yield f"note: {escape(note)}"
    yield f"<small>{escape(row['detector'])}; a verdict is a signal, not proof</small>"
