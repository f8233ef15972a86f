"""A table as Markdown, LaTeX and CSV. The same figures give the same bytes.

Markdown and LaTeX are for reading: a value, its interval and n in every cell, or a dash and why there is no value. CSV
is for programs: those parts in columns of their own, to 10 digits.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputExistsError
from ..metrics import Absent, Estimate
from ..storage import cannot_write, new_folder, replace_file
from ..writers import CsvLines, disarmed, printable

Value = Estimate | Absent | str | int
_DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class Section:
    """Rows of a table that belong together; `of`: the perturbation and detector that they are of, where it is one."""

    of: tuple[str, ...]
    rows: Sequence[Sequence[Value]]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.of[1]} under {self.of[0]}" if self.of else ""


@dataclass(frozen=True)
class Table:
    """A table: its file's name, a title, remarks, the heads of its columns, and its rows."""

    name: str
    title: str
    notes: Sequence[str]
    head: Sequence[str]
    sections: Sequence[Section]


def markdown(table: Table) -> str:
    """As Markdown."""
    lines = [f"# {marked(table.title)}", ""]
    for section in table.sections:
        lines += [f"## {marked(section.title)}", ""] if section.title else []
        lines += ["| " + " | ".join(map(marked, table.head)) + " |", "|" + " --- |" * len(table.head)]
        lines += ["| " + " | ".join(marked(_text(value)) for value in row) + " |" for row in section.rows]
        lines.append("")
    return "\n".join([*lines, *(line for note in table.notes for line in (_one_line(note), ""))]).rstrip() + "\n"


def latex(table: Table) -> str:
    r"""As LaTeX; needs `\usepackage{booktabs}`."""
    lines = [f"% {_tex(table.title)}. Needs \\usepackage{{booktabs}}."]
    lines += [f"% {_one_line(note)}" for note in table.notes]
    for section in table.sections:
        lines += [f"% {_tex(section.title)}"] if section.title else []
        lines += [rf"\begin{{tabular}}{{{'l' * len(table.head)}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, table.head)) + r" \\", r"\midrule"]
        # {}: a row that begins with [ or * would be read as an argument of the line break before it
        lines += ["{}" + " & ".join(_tex(_text(value)) for value in row) + r" \\" for row in section.rows]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(table: Table) -> str:
    """As CSV: value, low, high, n and reason of a figure are columns of their own."""
    every = [(section.of, row) for section in table.sections for row in section.rows]
    wide = [any(isinstance(row[i], Estimate | Absent) for _, row in every) for i in range(len(table.head))]
    head = ["perturbation", "detector"] if any(of for of, _ in every) else []
    for name, is_figure in zip(table.head, wide, strict=True):
        head += [name, *(f"{name}: {part}" for part in ("low", "high", "n", "reason"))] if is_figure else [name]
    lines: list[list[Value]] = []
    for of, row in every:
        lines.append([*of])
        for value in row:
            lines[-1] += spread(value) if isinstance(value, Estimate | Absent) else [value]
    return csv_text([head, *lines])


def files_of(table: Table) -> dict[str, str]:
    """Its files, by name; the table's may have the name of a family in it, and so any sign."""
    name = re.sub(r"[^\w.+-]", "-", table.name)
    return {f"{name}.md": markdown(table), f"{name}.tex": latex(table), f"{name}.csv": as_csv(table)}


def write_files(folder: Path, files: Mapping[str, str]) -> bool:
    """Write texts into a new folder.

    Args:
        folder: must not exist, or hold these very files.
        files: by name.

    Returns:
        Whether they were written; they were there already otherwise.

    Raises:
        OutputExistsError: the folder is there and holds something else.
    """
    if folder.exists():
        if folder.is_dir() and {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == {
            name: text.encode() for name, text in files.items()
        }:
            return False
        raise OutputExistsError(f"{folder} holds something else; results are never overwritten. Choose another with -o")
    with new_folder(folder) as scratch:
        for name, text in files.items():
            (scratch / name).write_bytes(text.encode())
    return True


def write_file(path: Path, text: str) -> bool:
    """Write a text into a new file.

    Args:
        path: must not exist, or hold this very text.
        text: what to write.

    Returns:
        Whether it was written; it was there already otherwise.

    Raises:
        OutputExistsError: the file is there and holds something else.
        UnivFDError: it cannot be written.
    """
    if path.exists():
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        raise OutputExistsError(f"{path} holds something else; results are never overwritten. Choose another name")
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        scratch.write_bytes(text.encode())
        replace_file(scratch, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        scratch.unlink(missing_ok=True)
    return True


def csv_text(lines: Iterable[Sequence[Value]]) -> str:
    """Lines as CSV. Numbers stay as they are; other texts are disarmed, see `univfd.writers.disarmed`."""
    out = io.StringIO()
    table = CsvLines(out)
    for line in lines:
        table.writerow(map(_cell, line))
    return out.getvalue()


def _cell(value: Value) -> Any:
    try:
        float(str(value))
    except ValueError:
        return disarmed(value)
    return value


def spread(value: Estimate | Absent) -> list[Value]:
    """Value, low, high, n and reason of a figure."""
    if isinstance(value, Absent):
        return ["", "", "", value.n, value.reason]
    numbers = [format(x, ".10g") if not np.isnan(x) else "" for x in (value.value, value.low, value.high)]
    return [*numbers, value.n, ""]


def _text(value: Value) -> str:
    if isinstance(value, Estimate):
        return f"{value} n={value.n}"
    return f"{_DASH} ({value.reason})" if isinstance(value, Absent) else str(value)


_MD = {c: f"\\{c}" for c in "\\|`[]"} | {"<": "&lt;", "&": "&amp;"}


def marked(text: str) -> str:
    """Text in Markdown, on one line: no cell, link, picture, heading or tag of its own."""
    return "".join(_MD.get(c, c) for c in _one_line(text))


def _one_line(text: str) -> str:
    return printable(re.sub(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", " ", text))


_TEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", _DASH: "---", "\n": " ",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in _one_line(text))
