"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, one: str, several: str = "") -> str:
    """So many things: `1 image`, `2,375 images`; `1 row is`, `2 rows are`.

    Args:
        n: how many.
        one: what a single one is called; a verb may follow.
        several: what others are called; default: the same with an s.
    """
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"
