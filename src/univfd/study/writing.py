"""A study's folder: tables, figures, score rows, the record, and a README that reads as the experiment's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmark.rendering import Section, Table, Value, files_of, markdown, marked
from ..benchmark.rows import Cell, Columns, write_rows
from ..benchmark.run import KIND as BENCH
from ..benchmark.run import MANIFEST as BENCH_MANIFEST
from ..benchmark.run import SCHEMA as BENCH_SCHEMA
from ..benchmark.run import SCORES
from ..storage import new_folder, write_json
from ..wording import counted
from . import plots
from .data import Data
from .experiment import Experiment, Result
from .published import MISSING, Published
from .split import Split

KIND, SCHEMA = "study", 1
MANIFEST, REPORT, TABLES, FIGURES, ROWS = "study.json", "README.md", "tables", "figures", "rows"
_NAMED = 10


def write(
    output: Path, experiment: Experiment, result: Result, about: Published, record: Mapping[str, Any], data: Data,
    splits: Mapping[str, Split],
) -> None:  # fmt: skip
    """Write the folder of a study.

    Args:
        output: must not exist.
        experiment: what was asked.
        result: what came out.
        about: what was published of it.
        record: what was done, for `study.json`.
        data: the images.
        splits: the parts that were made, by name.

    Raises:
        OutputExistsError: the folder is there already.
    """
    tables = [*result.tables, *(split_table(split, name) for name, split in splits.items())]
    with new_folder(output) as folder:
        (folder / TABLES).mkdir()
        for table in tables:
            for name, text in files_of(table).items():
                (folder / TABLES / name).write_bytes(text.encode())
        if result.drawings:
            (folder / FIGURES).mkdir()
        for drawing in result.drawings:
            plots.save(drawing.figure, folder / FIGURES / _file(drawing.name, drawing.raster))
        if result.images is not None:
            _write_rows(folder / ROWS, result, record)
        write_json(folder / MANIFEST, KIND, SCHEMA, record)
        text = readme(experiment, result, tables, about, record, data)
        (folder / REPORT).write_bytes(text.encode())


def readme(
    experiment: Experiment, result: Result, tables: Sequence[Table], about: Published, record: Mapping[str, Any],
    data: Data,
) -> str:  # fmt: skip
    """The report of a study."""
    lines = [f"# {experiment.title}", "", experiment.question, ""]
    lines += ["## What came out", "", *(f"- {marked(s)}" for s in result.sentences), ""]
    if about.findings or about.missing:
        lines += ["## What the paper has", "", *(f"- {text} [{source}]" for text, source in about.findings)]
        lines += [f"- {MISSING[0].upper()}{MISSING[1:]}: {text}." for text in about.missing] + [""]
    for drawing in result.drawings:
        caption = marked(drawing.caption)
        lines += [f"![{caption}]({FIGURES}/{_file(drawing.name, drawing.raster)})", "", caption, ""]
    said: set[str] = set()
    for table in tables:  # a remark that several tables have is read once
        once = replace(table, notes=[note for note in table.notes if note not in said])
        said.update(table.notes)
        lines += [f"#{markdown(once)}"]
    fakes = int(data.fake.sum())
    lines += ["## What was done", ""]
    used = f"{counted(fakes, 'fake')} and {counted(len(data) - fakes, 'real')} used"
    given = counted(data.given, "image")
    lines += [f"- Data: {marked(str(record['data']))}, {given}; {used}; digest `{record['data_digest']}`."]
    if record.get("limit"):
        most = counted(record["limit"], "image")
        lines += [f"- **A quick run**: at most {most} of each generator and real source (`--limit`)."]
    for failure in data.failures[:_NAMED]:
        lines += ["- Could not be read: " + marked(f"{failure.image}: {failure.error}: {failure.message}")]
    if len(data.failures) > _NAMED:
        lines += [f"- {len(data.failures) - _NAMED} more could not be read; see {MANIFEST}."]
    shown = ("experiment", "options", "space", "network", "perturb", "seed", "univfd", "software")
    texts = {name: " ".join(str(record[name]).replace("`", "'").split()) for name in shown if record.get(name)}
    lines += [f"- {name}: `{text}`" for name, text in texts.items()] + [""]
    return "\n".join(lines)


def split_table(split: Split, name: str = "split") -> Table:
    """Who trained and who was tested."""
    rows: list[Sequence[Value]] = [
        [m.label, m.name or "(not named)", m.family, *m.counts.values(), sum(m.counts.values()), m.tested]
        for m in split.members
    ]
    rows += [_all_of(split, label) for label in ("real", "fake")]
    notes = (
        "Images by part. Parts share no image, no group, and no source but where it says *other images of the same "
        "sources*: such a generator has one source only, or sources that hang together by groups. *Left out*: its "
        "source trains and its group is tested, or it was left out on purpose (a smaller training set).",
        "*Tested on*: what the test images are. *Unseen*: of a generator, or a real source, that does not train. "
        "*Other sources*: of a generator that trains, and of sources that do not. *Other images, source not named*: in "
        "no group with images that train, and perhaps of their sources. *Other sources, where named*: some of each.",
    )
    head = ("class", "generator or source", "family", "train", "validation", "test", "left out", "n", "tested on")
    return Table(name, "Who trained, who was tested" + ("" if name == "split" else f" ({name})"), notes, head,
                 [Section((), rows)])  # fmt: skip


def _all_of(split: Split, label: str) -> list[Value]:
    own = [m.counts for m in split.members if m.label == label]
    sums = [sum(c[part] for c in own) for part in own[0]]
    return [label, "all", "", *sums, sum(sums), ""]


def paper_table(rows: Sequence[Sequence[Value]], name: str = "paper") -> Table:
    """Our numbers beside the paper's: method, figure, over what, ours, the paper's, its source."""
    notes = (
        "The paper's encoder is CLIP ViT-L/14, its training set 720,000 images of ProGAN and LSUN, its tests other "
        "generators and other images: numbers beside each other, not a repetition. Published percentages are shares "
        "here, as ours are.",
    )
    head = ("method", "figure", "over", "ours", "the paper's", "variant", "source of the paper's")
    return Table(name, "Our numbers beside the paper's", notes, head, [Section((), rows)])


def _file(name: str, raster: bool) -> str:
    return f"{name}.png" if raster else f"{name}.svg"


def _write_rows(folder: Path, result: Result, record: Mapping[str, Any]) -> None:
    """The score rows, as a benchmark's run: `univfd bench report` and `compare` read them."""
    folder.mkdir()
    images = result.images
    assert images is not None
    about = {name: [column[i] for i in range(len(images))] for name, column in images.columns.items()}
    n = len(images)

    def chunks() -> Iterator[Columns]:
        for cell in result.cells:
            yield about | _columns_of(cell, n)

    write_rows(folder / SCORES, chunks())
    cells = list(result.cells)
    failed = sum(int((~c.judged).sum()) for c in cells)
    kept = {key: record[key] for key in ("data", "data_digest", "univfd", "software")}
    names = {"detectors": list(dict.fromkeys(c.identity for c in cells)),
             "perturbations": list(dict.fromkeys(c.perturbation for c in cells))}  # fmt: skip
    more = {"suite": record.get("suite", ""), "images": n, "seed": None, "rows": n * len(cells), "failed": failed}
    write_json(folder / BENCH_MANIFEST, BENCH, BENCH_SCHEMA, kept | names | more)


def _columns_of(cell: Cell, n: int) -> dict[str, list[Any]]:
    """What score rows say of the n images besides what is known of them anyway."""
    there = cell.judged.tolist()
    limit = float(cell.fake_above)
    same: dict[str, Any] = {
        "format": "", "width": None, "height": None, "perturbation": cell.perturbation, "detector": cell.detector,
        "identity": cell.identity, "probability": None, "fake_above": None if np.isnan(limit) else limit,
        "real_below": None, "in_bank": False,
    }  # fmt: skip
    own: dict[str, list[Any]] = {
        "status": ["ok" if known else "failed" for known in there],
        "error": ["" if known else "not scored" for known in there],
        "score": [score if known else None for score, known in zip(cell.score.tolist(), there, strict=True)],
        "verdict": [cell.verdict[i] for i in range(n)],
    }
    return {name: [value] * n for name, value in same.items()} | own
