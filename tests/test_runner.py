from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from univfd import runner
from univfd.errors import FormatError, OutputExistsError, UnivFDError, UsageError
from univfd.types import Failure, ImageRef


class Row:
    def __init__(self, name: str) -> None:
        self.name = name

    def to_dict(self) -> dict[str, object]:
        return {"status": "ok", "image": self.name, "verdict": "real", "score": 1.0, "detector": "d@1", "notes": [],
                "nearest_fake": [], "nearest_real": [], "probability": None}  # fmt: skip


def line(refs: Iterable[ImageRef | Failure]) -> Iterator[Row | Failure]:
    for ref in refs:
        yield Row(ref.name) if isinstance(ref, ImageRef) else ref


def refs(*names: str) -> list[ImageRef]:
    return [ImageRef(n, b"") for n in names]


def run(output: Path, inputs: list[ImageRef], **options: object) -> list[str]:
    rows = runner.run(line, inputs, output, runner.format_of(output), detector="d@1", **options)  # type: ignore[arg-type]
    return [str(r["image"]) for r in rows]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_the_same_name_twice_is_two_rows_also_on_resume(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"x.{suffix}"
    assert run(out, refs("a", "b")) == ["a", "b"]
    assert run(out, refs("a", "a", "b", "a"), resume=True) == ["a", "b", "a", "a"]
    assert run(out, refs("a", "a", "b", "a"), resume=True) == ["a", "b", "a", "a"]
    assert [r["image"] for r in runner.writer(suffix).read(out)] == ["a", "b", "a", "a"]
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


BROKEN = Failure("b", "file-access", "the disk was gone")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("finished", [True, False])
def test_what_failed_is_judged_again_where_that_is_asked_for(suffix: str, finished: bool, tmp_path: Path) -> None:
    out = tmp_path / f"x.{suffix}"
    first = runner.run(line, [*refs("a"), BROKEN, *refs("c", "d")], out, suffix, detector="d@1")
    if finished:
        list(first)
    else:
        next(first), next(first)
        first.close()
    expected = ["a", "c", "d", "b"] if finished else ["a", "b", "c", "d"]
    assert run(out, refs("a", "b", "c", "d"), resume=True, retry=True) == expected
    rows = list(runner.writer(suffix).read(out))
    assert [r["image"] for r in rows] == expected
    assert {r["status"] for r in rows} == {"ok"}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_retry_loses_no_row_that_it_does_not_replace(suffix: str, tmp_path: Path) -> None:
    """Of what is not among the inputs, of what fails again, and of a name that stands for several images."""
    out = tmp_path / f"x.{suffix}"
    twice = Failure("t", "file-access", "first of two members of one name")
    list(runner.run(line, [*refs("a"), BROKEN, twice, *refs("t")], out, suffix, detector="d@1"))
    assert run(out, refs("a", "t", "t"), resume=True, retry=True) == ["a", "t", "t", "b"]
    assert [r["image"] for r in runner.writer(suffix).read(out)] == ["a", "b", "t", "t"]
    again = Failure("b", "truncated", "cut")
    assert run(out, [*refs("a"), again, *refs("t", "t")], resume=True, retry=True) == ["a", "t", "t", "b"]  # type: ignore[list-item]
    assert [(r["image"], r.get("error")) for r in runner.writer(suffix).read(out) if r["status"] == "failed"] == [
        ("t", "file-access"),
        ("b", "truncated"),
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_folder_that_opens_since_has_no_failed_row_left(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"x.{suffix}"
    gone = [Failure(name, "file-access", "not mounted") for name in ("in/b", "in", "in.tar", "http://a/b", "other")]
    list(runner.run(line, [*refs("a"), *gone], out, suffix, detector="d@1"))
    inside = ["in/b/c.png", "in/b/d.png", "http://a/b/e.png"]
    assert run(out, refs("a", *inside), resume=True, retry=True) == ["a", *inside, "in.tar", "http://a/b", "other"]
    rows = {r["image"]: r["status"] for r in runner.writer(suffix).read(out)}
    assert rows == dict.fromkeys(["a", *inside], "ok") | dict.fromkeys(["in.tar", "http://a/b", "other"], "failed")
    broken = Failure("in.tar", "truncated", "it ends in the middle")
    found = run(out, [*refs("a", "in.tar/1"), broken], resume=True, retry=True)  # type: ignore[list-item]
    assert found[-4:] == ["in.tar/1", "in.tar", "http://a/b", "other"]
    assert [r["image"] for r in runner.writer(suffix).read(out)][-2:] == ["in.tar/1", "in.tar"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"image": "a", "status": "void"',
        b'["void"]',
        b'{"image": ["void"], "status": "void"}',
        b'"void" \xff',
        b'{"void": 1}',
    ],
)
def test_a_journal_with_a_broken_line_about_a_retry_is_refused(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.partial").write_bytes(
        b'{"image": "a", "status": "failed", "detector": "d@1"}\n' + line + b"\n"
    )
    with pytest.raises(FormatError, match=r"x\.jsonl\.partial.*no result of this program"):
        run(tmp_path / "x.jsonl", refs("a"), resume=True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"nearest_fake": [{"distance": 0.1}]}, "'generator'"),
        ({"nearest_fake": {"distance": 0.1}}, "unhashable|slice|KeyError|0"),
        ({"reason_codes": ["between"]}, "string indices"),
        ({"notes": [1]}, "expected str"),
        ({"provenance": {"c2pa": "none"}}, "'claims'"),
        ({"score": "high"}, "score is 'high', expected float"),
        ({"score": 10**400}, "too large"),
        ({"width": True}, "width is True, expected int"),
        ({"width": 1 << 63}, "too big"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_earlier_row_that_no_format_could_take_is_refused_before_anything_is_judged(
    changed: dict[str, object], named: str, suffix: str, tmp_path: Path
) -> None:
    journal = tmp_path / f"x.{suffix}.partial"
    journal.write_text(json.dumps(Row("a").to_dict() | changed) + "\n")
    before = journal.read_bytes()
    with pytest.raises(FormatError, match=rf"is no result of this program \(after row 1: .*({named})"):
        run(tmp_path / f"x.{suffix}", refs("b"), resume=True)
    assert journal.read_bytes() == before


def test_an_image_may_be_called_void(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    assert run(out, refs("void", "status")) == ["void", "status"]
    assert run(out, refs("void", "status", "b"), resume=True, retry=True) == ["void", "status", "b"]


@pytest.mark.parametrize("void_only", [False, True])
def test_a_retry_that_is_stopped_goes_on_with_a_plain_resume(void_only: bool, tmp_path: Path) -> None:
    out, journal = tmp_path / "x.jsonl", tmp_path / "x.jsonl.partial"
    list(runner.run(line, [BROKEN, *refs("c")], out, "jsonl", detector="d@1"))
    again = runner.run(line, refs("b", "c", "d"), out, "jsonl", detector="d@1", resume=True, retry=True)
    assert [next(again)["image"], next(again)["image"]] == ["c", "b"]
    again.close()
    if void_only:  # killed between the two lines
        lines = journal.read_bytes().splitlines(keepends=True)
        assert b"void" in lines[-2]
        journal.write_bytes(b"".join(lines[:-1]))
    assert sorted(run(out, refs("b", "c", "d"), resume=True)) == ["b", "c", "d"]
    rows = list(runner.writer("jsonl").read(out))
    assert sorted(r["image"] for r in rows) == ["b", "c", "d"]
    assert {r["status"] for r in rows} == {"ok"}
    with pytest.raises(UsageError, match="retry needs resume"):
        run(out, refs("a"), retry=True)


@pytest.mark.parametrize("kept", [0, 1, 25, 26, 27])
def test_a_journal_cut_anywhere_is_taken_up(kept: int, tmp_path: Path) -> None:
    out, journal = tmp_path / "x.jsonl", tmp_path / "x.jsonl.partial"
    run(out, refs("a", "b", "c"))
    whole = out.read_bytes()
    out.rename(journal)
    second = whole.index(b"\n") + 1
    journal.write_bytes(whole[: second + kept] if kept else b"")
    assert run(out, refs("a", "b", "c"), resume=True) == ["a", "b", "c"]
    assert out.read_bytes() == whole


def test_a_long_last_line_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_TAIL", 16)
    self_cut = tmp_path / "x.jsonl.partial"
    self_cut.write_bytes(b'{"status": "ok", "image": "a", "detector": "d@1"}\n{"image": "' + b"b" * 500)
    assert run(tmp_path / "x.jsonl", refs("a", "c"), resume=True) == ["a", "c"]


class Whole(Row):
    """A row as a detector gives it, with what options add."""

    def __init__(self, name: str, neighbors: int = 1, fakes: int = 9, origin: object = ...) -> None:
        super().__init__(name)
        near = {"label": "real", "distance": 0.5, "generator": "", "source": "s", "key": "k", "row": 0}
        self.beside: dict[str, object] = {"nearest_real": [near] * neighbors}
        self.beside["nearest_fake"] = [near] * min(neighbors, fakes)
        self.beside |= {} if origin is ... else {"provenance": origin}

    def to_dict(self) -> dict[str, object]:
        return super().to_dict() | self.beside


READ = {"c2pa": "none", "claims": [], "findings": []}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "explained": {"neighbors": 3},
    "few fakes": {"neighbors": 3, "fakes": 1},
    "no bank": {"neighbors": 0},
    "origin": {"origin": READ},
    "no file": {"origin": None},
    "both": {"neighbors": 3, "origin": READ},
}


def judged(output: Path, format: str, names: str, options: dict[str, Any], resume: bool = False) -> list[str]:
    def line(refs: Iterable[ImageRef | Failure]) -> Iterator[Row | Failure]:
        for ref in refs:
            yield Whole(ref.name, **options) if isinstance(ref, ImageRef) else ref

    inputs = [Failure("broken", "truncated", "cut"), *refs(*names)]
    rows = runner.run(line, inputs, output, format, detector="d@1", resume=resume)
    return [str(r["image"]) for r in rows]


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cut", [False, True])
def test_the_same_options_go_on(
    format: str, options: dict[str, Any], cut: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / f"x.{format}"
    judged(out, format, "ab", options)
    assert judged(out, format, "abcd", options, resume=True) == ["broken", *"abcd"]
    if cut:
        with out.with_name(f"x.{format}.partial").open("wb") as file:
            keeper = runner.writer("jsonl")(file)
            for row in runner.writer(format).read(out):
                keeper.write(row)
        out.unlink()
    assert judged(out, format, "abcdef", options, resume=True) == ["broken", *"abcdef"]
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert not caplog.text


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("plain", "origin", "without provenance; this run is with it"),
        ("explained", "both", "without provenance; this run is with it"),
        ("origin", "plain", "with provenance; this run is without it"),
        ("both", "plain", "with provenance; this run is without it"),
    ],
)
def test_rows_with_provenance_do_not_mix_with_others(
    format: str, first: str, then: str, said: str, tmp_path: Path
) -> None:
    out = tmp_path / f"x.{format}"
    judged(out, format, "ab", OPTIONS[first])
    before = out.read_bytes()
    with pytest.raises(UsageError, match=f"was begun {said}. Give the same options"):
        judged(out, format, "abc", OPTIONS[then], resume=True)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert judged(out, format, "abc", OPTIONS[first], resume=True) == ["broken", *"abc"]


@pytest.mark.parametrize(("format", "remarks"), [("jsonl", 1), ("json", 1), ("csv", 0), ("parquet", 0)])
@pytest.mark.parametrize(("first", "then"), [("plain", "explained"), ("few fakes", "plain")])
def test_another_number_of_neighbours_is_a_remark(
    format: str, remarks: int, first: str, then: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / f"x.{format}"
    judged(out, format, "ab", OPTIONS[first])
    assert judged(out, format, "abcd", OPTIONS[then], resume=True) == ["broken", *"abcd"]
    assert caplog.text.count("another number of neighbours than this run's") == remarks


def test_rows_of_a_format_that_keeps_little_tell_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(runner.writer("jsonl")):  # type: ignore[misc]
        """As a plug-in's may be."""

        def write(self, row: dict[str, object]) -> None:
            super().write({name: row[name] for name in ("image", "status")})

    real = runner.registry.load
    monkeypatch.setattr(runner.registry, "load", lambda room, name: Short if name == "short" else real(room, name))
    out = tmp_path / "x.short"
    for names, options in (("ab", OPTIONS["both"]), ("abc", OPTIONS["both"]), ("abcd", OPTIONS["plain"])):
        assert judged(out, "short", names, options, resume=True) == ["broken", *names]


def test_an_interrupted_run_is_not_overwritten(tmp_path: Path) -> None:
    rows = runner.run(line, refs("a", "b"), tmp_path / "x.csv", "csv", detector="d@1")
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    with pytest.raises(OutputExistsError, match="unfinished run"):
        run(tmp_path / "x.csv", refs("a"))
    assert not (tmp_path / "x.csv").exists()
    assert run(tmp_path / "x.csv", refs("a", "b"), resume=True) == ["a", "b"]


def test_files_that_are_no_results(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2")
    with pytest.raises(FormatError, match="no result of this program"):
        run(tmp_path / "x.json", refs("a"), resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(UsageError, match="format is not clear"):
        runner.format_of(Path("x.txt"))
    with pytest.raises(UnivFDError, match="cannot be written"):
        run(tmp_path / "nowhere" / "x.jsonl", refs("a"))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_finished_run_with_failures_is_taken_up(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"x.{suffix}"
    failure = Failure("bad", "truncated", "ends early")
    inputs = [*refs("a"), failure, *refs("b")]
    assert run(out, inputs) == ["a", "bad", "b"]  # type: ignore[arg-type]
    rows = list(runner.run(line, [*inputs, *refs("c")], out, suffix, detector="d@1", resume=True))
    assert [r["status"] for r in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1]["error"] == "truncated"
    assert rows[1].get("verdict") is None


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_kill_while_a_finished_run_is_taken_up_loses_nothing(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"x.{suffix}"
    run(out, refs("a", "b", "c"))

    class Killed(BaseException):
        pass

    jsonl = runner.writer("jsonl")
    written = 0

    def dies(self: object, row: object) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise Killed
        self._stream.write(b"{}\n")  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "write", dies)
        with pytest.raises(Killed):
            run(out, refs("a", "b", "c"), resume=True)
    assert run(out, refs("a", "b", "c", "d"), resume=True) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("name", "text"), [("x.json", '{"a": 1}'), ("x.jsonl", "{}\n"), ("x.csv", "image\na\n"),
                                            ("x.jsonl.partial", "nonsense\n")])  # fmt: skip
def test_foreign_files_are_refused_and_left_alone(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match="no result of this program"):
        run(tmp_path / name.removesuffix(".partial"), refs("a"), resume=True)
    assert (tmp_path / name).read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_two_at_once_on_one_output(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    first = runner.run(line, refs("a", "b"), out, "jsonl", detector="d@1")
    next(first)
    with pytest.raises(OutputExistsError, match="another process is writing"):
        run(out, refs("a", "b"), resume=True)
    assert [r["image"] for r in first] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_refused_resume_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    run(out, refs("a"))
    with pytest.raises(UsageError, match="was begun by"):
        list(runner.run(line, refs("a"), out, "jsonl", detector="other@2", resume=True))
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("error", [UsageError("no such view"), OSError(5, "Input/output error", "weights.bin")])
@pytest.mark.parametrize("rows", [0, 1])
def test_an_error_that_is_not_the_output_s(error: Exception, rows: int, tmp_path: Path) -> None:
    """It comes as it is, and what it leaves are the rows that there are."""

    def broken(refs: Iterable[ImageRef | Failure]) -> Iterator[Row | Failure]:
        yield from list(line(refs))[:rows]
        raise error

    out = tmp_path / "x.jsonl"
    with pytest.raises(type(error)) as caught:
        list(runner.run(broken, refs("a", "b"), out, "jsonl", detector="d@1"))  # type: ignore[arg-type]
    assert caught.value is error
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl.partial"][:rows]
    assert run(out, refs("a", "b"), resume=bool(rows)) == ["a", "b"]


def test_a_place_that_takes_no_file_is_not_another_process(tmp_path: Path) -> None:
    with pytest.raises(UnivFDError, match=r"/proc/x\.jsonl cannot be written") as caught:
        run(Path("/proc/x.jsonl"), refs("a"))
    assert not isinstance(caught.value, OutputExistsError)


def test_an_output_among_the_inputs_is_not_remarked_upon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = runner.run(line, tmp_path, tmp_path / "x.csv", "csv", detector="d@1")  # type: ignore[arg-type]
    assert len(list(rows)) == 1
    assert not caplog.text
    list(runner.run(line, tmp_path, tmp_path / "y.csv", "csv", detector="d@1"))  # type: ignore[arg-type]
    assert "1 file in" in caplog.text  # a finished one is a file like any other


def test_an_empty_journal_of_another_run_is_left(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.partial").touch()
    with pytest.raises(OutputExistsError):
        run(tmp_path / "x.jsonl", refs("a"))
    assert (tmp_path / "x.jsonl.partial").exists()
