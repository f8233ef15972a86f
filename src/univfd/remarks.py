"""What a verdict remarks on: words for its reader, a code and figures for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Remark:
    """A reason or a note.

    Attributes:
        code: short and stable.
        text: the same in English; its wording may change.
        figures: numbers that the text speaks of, by name; finite.
    """

    code: str
    text: str
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)

    def coded(self) -> dict[str, Any]:
        """Code and figures as plain JSON values; rows have the texts beside them."""
        return {"code": self.code, "figures": dict(self.figures)}
