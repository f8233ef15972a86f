"""Where a training stands, and its checkpoints on disk: safetensors beside JSON, whole after a kill at any moment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import FormatError, UsageError
from ..images import DEFAULT_MAX_PIXELS
from ..storage import cannot_write, read_arrays, read_json, replace_file, write_arrays, write_json
from ..types import Failure
from .schedule import Plateau

KIND, SCHEMA = "training", 1
_RUN, _STATE = "run.json", "state.json"
_NAME = re.compile(r"epoch-\d{1,9}\.safetensors")

_NOT_YET_KEPT = {"max_pixels": DEFAULT_MAX_PIXELS}
"""Settings that runs of earlier versions do not state, as they were then unless another value was given."""

Arrays = Mapping[str, NDArray[Any]]

PARTS = ("train", "validation")
Failures = Mapping[str, Mapping[int, Failure]]
"""Of each part the pictures that could not be read, by number."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What came of one epoch.

    Attributes:
        number: from 1.
        loss: mean over the training pictures.
        accuracy: on the validation part, mean of the two classes'.
        real: share of its reals called real.
        fake: share of its fakes called fake.
        lr: learning rate.
        seconds: wall time.
    """

    number: int
    loss: float
    accuracy: float
    real: float
    fake: float
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands.

    Attributes:
        plateau: the rule's state after the epochs.
        epochs: so far.
        failures: so far; None: not known, as in runs of earlier versions.
    """

    plateau: Plateau
    epochs: tuple[Epoch, ...] = ()
    failures: Failures | None = None

    @property
    def best(self) -> Epoch:
        """The epoch of the highest validation accuracy, the first of equals."""
        return max(self.epochs, key=lambda e: e.accuracy)


class Checkpoints:
    """The folder of an unfinished run.

    `state.json` names the files that belong together and is replaced by one rename, after they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Make the folder.

        Args:
            settings: all that decides the run's outcome, as plain JSON values.

        Raises:
            UnivFDError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._replace(_RUN, lambda path: write_json(path, KIND, SCHEMA, {"settings": dict(settings)}))

    @property
    def foreign(self) -> bool:
        """Whether the folder holds anything though no run has begun in it; half a beginning is nothing."""
        return self._folder.is_dir() and any(path.name != f".{_RUN}" for path in self._folder.iterdir())

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self._folder / _RUN).exists()

    @property
    def kept(self) -> bool:
        """Whether it has a whole epoch."""
        return (self._folder / _STATE).exists()

    def require(self, settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        """Check that this is the run of these settings.

        Args:
            settings: as for `begin`.
            before: what an earlier version would have kept of some of them, which will do too.

        Raises:
            UsageError: names what differs.
            FormatError: not such a folder.
        """
        mine = read_json(self._folder / _RUN, KIND, SCHEMA).get("settings", {})
        if not isinstance(mine, dict):
            raise FormatError(f"{self._folder / _RUN} holds no settings")
        theirs = json.loads(json.dumps(dict(settings)))
        mine = {name: value for name, value in _NOT_YET_KEPT.items() if name in theirs} | mine
        allowed = theirs | dict(before or {})
        differing = [_difference(k, theirs.get(k), mine.get(k)) for k in sorted({*mine, *theirs})
                     if mine.get(k) not in (theirs.get(k), allowed.get(k))]  # fmt: skip
        if differing:
            raise UsageError(f"{self._folder} is a run of other settings ({'; '.join(differing)}); it is not continued")

    def write(self, state: State, arrays: Arrays, *, best: bool) -> None:
        """Keep an epoch; of earlier ones only the best remains.

        Raises:
            UnivFDError: it cannot be written; the epochs before are what they were.
        """
        files = {"last": f"epoch-{len(state.epochs)}.safetensors"}
        before = self._files()
        files["best"] = files["last"] if best or not before else before["best"]
        self._replace(files["last"], lambda path: write_arrays(path, arrays))
        record = {"files": files, "plateau": asdict(state.plateau), "epochs": [asdict(e) for e in state.epochs]}
        if state.failures is not None:
            kept = {part: {i: asdict(f) for i, f in of_part.items()} for part, of_part in state.failures.items()}
            record["failures"] = kept
        self._replace(_STATE, lambda path: write_json(path, KIND, SCHEMA, record))
        for file in self._folder.glob("*.safetensors"):
            if file.name not in files.values():
                file.unlink()

    def read(self) -> State | None:
        """Where the run stands; None before the end of its first epoch.

        Raises:
            FormatError: damaged.
        """
        if not (self._folder / _STATE).exists():
            return None
        record = read_json(self._folder / _STATE, KIND, SCHEMA)
        try:
            told = [record["plateau"], *record["epochs"]]
            if not all(isinstance(value, int | float | None) for each in told for value in each.values()):
                raise TypeError("a text where a number is expected")
            return State(Plateau(**told[0]), tuple(Epoch(**e) for e in told[1:]), _failures(record.get("failures")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{self._folder / _STATE} cannot be read: {error}") from error

    def arrays(self, which: str) -> dict[str, NDArray[Any]]:
        """The arrays of the `last` or the `best` epoch.

        Raises:
            FormatError: missing or damaged.
        """
        files = self._files()
        if which not in files:
            raise FormatError(f"{self._folder / _STATE} names no file of the {which} epoch")
        return read_arrays(self._folder / files[which], {})

    def _files(self) -> dict[str, str]:
        if not (self._folder / _STATE).exists():
            return {}
        files = read_json(self._folder / _STATE, KIND, SCHEMA).get("files")
        if not isinstance(files, dict) or not all(_NAME.fullmatch(str(name)) for name in files.values()):
            raise FormatError(f"{self._folder / _STATE} names no files of this folder")
        return files

    def _replace(self, name: str, write: Any) -> None:
        scratch = self._folder / f".{name}"
        try:
            write(scratch)
            replace_file(scratch, self._folder / name)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise cannot_write(self._folder / name, error) from error


def _difference(name: str, theirs: Any, mine: Any) -> str:
    if name != "data" or not isinstance(theirs, dict):
        return f"{name}: {theirs!r} instead of {mine!r}"
    parts = [part for part in theirs if not isinstance(mine, dict) or mine.get(part) != theirs[part]]
    return f"data: images of {' and '.join(parts)} are others, by their labels, names or sizes"


def _failures(kept: Any) -> Failures | None:
    if kept is None:
        return None
    return {part: {int(i): Failure(**f) for i, f in kept[part].items()} for part in PARTS}
