from __future__ import annotations

import hashlib
import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SPACE
from univfd.errors import FeatureSpaceError, FormatError
from univfd.remarks import Remark
from univfd.types import (
    DatasetRow,
    Embeddings,
    Failure,
    FeatureSpace,
    ImageRef,
    Label,
    Neighbor,
    ParquetCell,
    Sample,
    TarSpan,
    Timings,
    Verdict,
    data_digest,
    digest_of,
)


@pytest.mark.parametrize("text", ["real", "REAL", " Real ", "0", 0])
def test_labels_of_reals(text: str | int) -> None:
    assert Label.parse(text) is Label.REAL
    assert Label.parse(text).word == "real"


@pytest.mark.parametrize("text", ["fake", "FAKE\n", "1", 1])
def test_labels_of_fakes(text: str | int) -> None:
    assert Label.parse(text) is Label.FAKE
    assert Label.parse(text).word == "fake"
    assert Label.FAKE > Label.REAL  # higher = fake


@pytest.mark.parametrize("text", ["", "2", 2, "fakes", "true", "0.0", -1])
def test_a_label_is_never_guessed(text: str | int) -> None:
    with pytest.raises(FormatError, match="is not one of: real, fake, 0, 1"):
        Label.parse(text)


def test_a_sample_knows_nothing_that_it_was_not_told() -> None:
    one, other = (Sample(ImageRef("x", b""), Label.REAL) for _ in range(2))
    assert (one.generator, one.source, one.group, one.licence, one.family, one.split, one.subset) == ("",) * 7
    assert one.extra == {}
    assert one.extra is not other.extra


def test_a_reference_does_not_print_its_bytes() -> None:
    assert repr(ImageRef("name", b"secret")) == "ImageRef(name='name')"


def test_a_space_survives_json_and_says_what_is_wrong() -> None:
    assert FeatureSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE
    assert SPACE.to_dict()["taps"] == ["proj"]
    assert SPACE.normalised is False
    for bad in ({**SPACE.to_dict(), "colour": 1}, {k: v for k, v in SPACE.to_dict().items() if k != "dim"}, {}):
        with pytest.raises(FormatError, match="cannot be read"):
            FeatureSpace.from_dict(bad)


def test_the_digest_of_a_space_is_that_of_its_canonical_json() -> None:
    text = (
        '{"backbone":"toy","dim":8,"normalised":false,"preprocessing":"0000000000000000","taps":["proj"],'
        '"view":"native","weights":""}'
    )
    assert SPACE.digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    others = [replace(SPACE, **{name: value}) for name, value in [
        ("backbone", "x"), ("weights", "x"), ("taps", ("cls.1",)), ("view", "five"), ("preprocessing", "x"), ("dim", 9),
        ("normalised", True),
    ]]  # fmt: skip
    assert len({SPACE.digest, *(o.digest for o in others)}) == 8
    for other in others:
        with pytest.raises(FeatureSpaceError, match="the images: made in another feature space"):
            SPACE.require(other, "the images")
    SPACE.require(replace(SPACE), "the images")


def test_every_field_that_differs_is_named_and_no_other() -> None:
    with pytest.raises(FeatureSpaceError) as caught:
        SPACE.require(replace(SPACE, dim=9, view="five"), "the bank")
    assert "(view: 'five' instead of 'native'; dim: 9 instead of 8)" in str(caught.value)


def test_a_mapping_has_one_digest_whatever_its_order() -> None:
    assert digest_of({"b": 1, "a": [2]}) == digest_of({"a": [2], "b": 1})
    assert digest_of({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()


def test_a_collection_is_named_by_contents_and_labels() -> None:
    rows = [("aa", Label.REAL), ("bb", Label.FAKE)]
    assert data_digest(rows) == data_digest(rows[::-1]) == hashlib.sha256(b"aa real\nbb fake\n").hexdigest()
    assert data_digest(rows) != data_digest([("aa", Label.FAKE), ("bb", Label.FAKE)])


@pytest.mark.parametrize("shape", [(8,), (2, 7), (2, 9), (1, 2, 8), (8, 2)])
def test_vectors_must_fit_their_space(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match=r"expected \(N, 8\)"):
        Embeddings(np.zeros(shape, np.float32), SPACE)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_embeddings_count_rows(n: int) -> None:
    assert len(Embeddings(np.zeros((n, 8), np.float32), SPACE)) == n


def test_a_row_has_all_that_was_said_in_a_fixed_order() -> None:
    near = Neighbor(3, 0.25, Label.FAKE, "gan", "web", "ab")
    verdict = Verdict(
        image="a.png", verdict="unsure", score=0.5, probability=None, attribution="", nearest_fake=(near,),
        nearest_real=(), sha256="cd", width=2, height=1, format="PNG", view="native", detector="d@1", space="s",
        doubts=(Remark("between", "in words", {"x": 1.0}),), remarks=(Remark("first-frame", "of several"),),
        timings=Timings(1.0, 2.0, 3.0),
    )  # fmt: skip
    row = verdict.to_dict()
    assert list(row.items()) == [
        ("status", "ok"), ("image", "a.png"), ("verdict", "unsure"), ("score", 0.5), ("probability", None),
        ("attribution", ""),
        ("nearest_fake", [
            {"label": "fake", "distance": 0.25, "generator": "gan", "source": "web", "key": "ab", "row": 3}
        ]),
        ("nearest_real", []), ("sha256", "cd"), ("width", 2), ("height", 1), ("format", "PNG"), ("view", "native"),
        ("detector", "d@1"), ("space", "s"), ("reasons", ["in words"]),
        ("reason_codes", [{"code": "between", "figures": {"x": 1.0}}]), ("notes", ["of several"]),
        ("note_codes", [{"code": "first-frame", "figures": {}}]),
        ("timings", {"load": 1.0, "embed": 2.0, "decide": 3.0}),
    ]  # fmt: skip
    assert (verdict.reasons, verdict.notes) == (("in words",), ("of several",))


def test_a_failure_is_a_row() -> None:
    assert Failure("x", "empty", "why").to_dict() == {
        "status": "failed", "image": "x", "error": "empty", "message": "why",
    }  # fmt: skip


VALUES = [
    TarSpan(Path("a.tar"), 512, 9),
    ParquetCell(Path("a.parquet"), "image", 0, 1, 2),
    ImageRef("a", b""),
    Sample(ImageRef("a", b""), Label.REAL),
    SPACE,
    Embeddings(np.zeros((1, 8), np.float32), SPACE),
    Neighbor(0, 0.5, Label.FAKE, "g", "s", "k"),
    Timings(1.0, 2.0, 3.0),
    Failure("a", "empty", "why"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_never_change(value: Any) -> None:
    name = value.__slots__[0]
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)
    with pytest.raises((AttributeError, TypeError)):
        value.another = 1
    assert not hasattr(value, "__dict__")


def test_values_are_equal_by_what_they_hold() -> None:
    for value in (v for v in VALUES if not isinstance(v, Embeddings)):
        assert value == replace(value)
        assert value is not replace(value)
    assert TarSpan(Path("a.tar"), 512, 9) != TarSpan(Path("a.tar"), 512, 8)


def test_a_row_of_a_data_set_does_not_print_the_data_set() -> None:
    row = DatasetRow([1] * 10_000, "image", 3)
    assert repr(row) == "DatasetRow(column='image', row=3)"
    with pytest.raises(FrozenInstanceError):
        row.row = 4  # type: ignore[misc]


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": -1}, {"dim": 4.0}, {"view": 3}, {"taps": [1]}, {"taps": []}])
def test_a_feature_space_of_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    good = FeatureSpace("toy", "0" * 64, ("proj",), "native", "0" * 16, 1)
    assert FeatureSpace.from_dict(good.to_dict()) == good
    with pytest.raises(FormatError, match=r"expected texts, taps, and a dimension of 1 or more$"):
        FeatureSpace.from_dict(good.to_dict() | wrong)
    with pytest.raises(FormatError, match=r"expected true or false in 'normalised'$"):
        FeatureSpace.from_dict(good.to_dict() | {"normalised": 1})
