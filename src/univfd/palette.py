"""Colours and marks of drawings: told apart by the colour-blind, and seen on white. A line has a mark or dash too."""

from __future__ import annotations

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5539b", "#b07a00", "#6b5bd2", "#3a8fc7", "#7a7a7a")
"""After Okabe and Ito (2008), the light ones darkened."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
