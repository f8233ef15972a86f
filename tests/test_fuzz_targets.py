"""The fuzz targets without atheris: each on its seeds and on damaged copies of them."""

from __future__ import annotations

import logging
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.insert(0, str(FUZZ))
import harness  # noqa: E402  -- of the folder above

COUNTS = dict.fromkeys(harness.names(), 150) | {
    "tar": 60,
    "decode": 100,
    "containers": 60,
    "parquet": 50,
    "detector": 60,
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda **_: ()
    )  # looking for plug-ins takes most of the time
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)


@pytest.mark.parametrize("name", harness.names())
def test_damaged_inputs_are_taken_or_refused(name: str) -> None:
    """Whatever is no error of the project's own tree fails this, as it would be found by the fuzzer."""
    target = harness.target(name)
    seeds = target.seeds()
    harness.outcomes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            target.one(seed)
        if name not in NOTHING_REFUSED:
            assert harness.outcomes["taken"] > 0, "no seed is whole: the fuzzer would not get past the first check"
        for data in harness.mutated(seeds, COUNTS[name], seed=7):
            try:
                target.one(data)
            except BaseException as error:
                raise AssertionError(f"{name}: {error!r} on {data[:2000]!r}") from error
    if name not in NOTHING_REFUSED:
        assert harness.outcomes["refused"] > 0


@pytest.mark.parametrize("name", [path.stem for path in sorted((FUZZ / "corpus").glob("*.zip"))])
def test_what_the_fuzzer_reached_is_taken_or_refused(name: str) -> None:
    target = harness.target(name)
    with zipfile.ZipFile(FUZZ / "corpus" / f"{name}.zip") as kept, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kept.namelist()
        for entry in kept.namelist():
            try:
                target.one(kept.read(entry))
            except BaseException as error:
                raise AssertionError(f"{name}: {error!r} on {entry}") from error


NOTHING_REFUSED = {"blocks", "credentials"}
"""What they find damaged becomes a finding."""


def test_seeds_are_small_and_the_same_each_time() -> None:
    for name in harness.names():
        target = harness.target(name)
        assert target.seeds() == target.seeds()
        assert sum(map(len, target.seeds())) < 100_000
