"""The names of `univfd`, and how its values show themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import univfd
from test_writers import ROWS
from univfd import registry
from univfd.detector import Detector
from univfd.errors import MissingExtraError
from univfd.remarks import Remark
from univfd.types import Failure, Label, Neighbor, Timings, Verdict
from univfd.writers import FLAT_COLUMNS, flat


def test_names_are_sorted_and_each_is_there() -> None:
    assert univfd.__all__ == sorted(univfd.__all__)
    assert dir(univfd) == univfd.__all__
    for name in univfd.__all__:
        assert getattr(univfd, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'detct'"):
        _ = univfd.detct


def test_names_for_type_checkers_are_those_that_load() -> None:
    """What is imported under TYPE_CHECKING, and from where, against what `__getattr__` gives."""
    tree = ast.parse(Path(univfd.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    said = {a.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert said == univfd._HOMES
    assert sorted([*said, "__version__"]) == univfd.__all__


EVIL = "<script>alert(1)</script>"


def test_a_verdict_shows_itself_and_escapes_what_strangers_wrote() -> None:
    near = Neighbor(1, 0.125, Label.FAKE, EVIL, EVIL, "00" * 32)
    doubt = Remark("tiny", f"tiny {EVIL}")
    verdict = Verdict(
        EVIL, "unsure", 1.5, 0.75, EVIL, (near,), (near,), "", 1, 1, EVIL, "native", EVIL, "space", (doubt,), (doubt,),
        Timings(0, 0, 0),
    )  # fmt: skip
    for shown in (verdict._repr_html_(), Failure(EVIL, EVIL, EVIL)._repr_html_()):
        assert "<script" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    shown = verdict._repr_html_()
    for text in ("unsure", "p(fake) 0.75", "score +1.500", "distance 0.125", "unsure: tiny"):
        assert text in shown
    assert "failed" in Failure("x", "access", "gone")._repr_html_()


def test_a_table_has_the_columns_and_the_values_of_the_parquet_output(tmp_path: Path) -> None:
    table = univfd.to_arrow(ROWS)
    assert table.column_names == [name for name, _ in FLAT_COLUMNS]
    assert table.to_pylist() == [flat(row) for row in ROWS]
    with (tmp_path / "x.parquet").open("wb") as file:
        writer = registry.load("writers", "parquet")(file)
        for row in ROWS:
            writer.write(row)
        writer.close()
    assert pq.read_table(tmp_path / "x.parquet").equals(table)
    assert univfd.to_arrow([]).schema == table.schema


def test_a_table_of_what_detect_yields(toy_detector: Detector, photo: Path) -> None:
    items = list(toy_detector.detect([photo, b""]))
    table = univfd.to_arrow(items)
    assert isinstance(table, pa.Table)
    frame = table.to_pandas()
    assert frame["status"].tolist() == ["ok", "failed"]
    assert frame["score"][0] == items[0].score
    assert pd.isna(frame["score"][1])
    assert pl.from_arrow(table)["error"].to_list() == [None, "empty"]
    (again,) = toy_detector.detect(frame["image"][:1])
    assert again.score == items[0].score


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "univfd.writers._arrow", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"a table of verdicts needs pyarrow.*pip install 'univfd\[parquet\]'"):
        univfd.to_arrow([])
