"""A detector's folder: where it lies, what its manifest says, and which paths out of it are followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from . import registry
from .bank import FeatureBank
from .errors import FormatError, UnknownNameError, UsageError
from .storage import read_json
from .types import FeatureSpace

KIND, SCHEMA = "detector", 2  # 2: its bank has only the first of its taps; without that it is 1
MANIFEST, ARRAYS, BANK, CARD = "detector.json", "classifier.safetensors", "bank", "MODEL_CARD.md"
BACKBONE = "backbone"
DEFAULT = "default"
BANK_OF_DEFAULT = f"../{DEFAULT}/{BANK}"
"""What the manifest states where the bank is that of the detector called `default` beside the folder."""


def shipped() -> list[str]:
    """Names of the detectors that come with the package."""
    folders = Path(str(resources.files("univfd") / "detectors")).iterdir()
    return sorted(f.name for f in folders if (f / MANIFEST).is_file())


def locate(detector: str | Path) -> Path:
    """The folder of a detector, by shipped name or path.

    Raises:
        UnknownNameError: neither.
    """
    if str(detector) in shipped():
        return Path(str(resources.files("univfd") / "detectors")) / str(detector)
    if Path(detector).is_dir():
        return Path(detector)
    error = registry.unknown("detector", str(detector), shipped())
    raise UnknownNameError(f"{error} Or give the folder of one")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a detector's folder.

    Raises:
        FormatError: not a detector, damaged, or of a newer schema.
    """
    manifest = read_json(folder / MANIFEST, KIND, SCHEMA)
    wanted = {"name": str, "space": dict, "classifier": dict, "calibration": dict, "bank": str}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise FormatError(f"{folder / MANIFEST} lacks {key!r}")
    for key in ("bank", "backbone_folder", "backbone_name"):
        value = manifest.get(key, "")
        if not isinstance(value, str) or "\0" in value:
            raise FormatError(f"{folder / MANIFEST}: {key!r} is {value!r:.80}; expected a text")
    about = manifest["classifier"]
    if not isinstance(about.get("params"), dict) or not isinstance(about.get("name"), str):
        raise FormatError(f"{folder / MANIFEST}: 'classifier' needs a name and params")
    whole, held = FeatureSpace.from_dict(manifest["space"]), bank_space(manifest)
    if replace(whole, taps=whole.taps[: len(held.taps)], dim=held.dim) != held or held.dim > whole.dim:
        raise FormatError(
            f"{folder / MANIFEST}: the bank's space ({'+'.join(held.taps)}, {held.dim} values) is not that of the "
            f"first of the detector's layers ({'+'.join(whole.taps)}, {whole.dim} values)"
        )
    return manifest


def bank_space(manifest: Mapping[str, Any]) -> FeatureSpace:
    """What a detector's bank has: its own space, or that of the first of its layers.

    Raises:
        FormatError: it cannot be read.
    """
    return FeatureSpace.from_dict(manifest.get("bank_space", manifest["space"]))


def load_bank(folder: Path, manifest: Mapping[str, Any]) -> FeatureBank:
    """The bank of a detector; of a shared one that has more layers, those that the detector takes.

    Args:
        folder: the detector's.
        manifest: of the folder.

    Raises:
        FormatError: it cannot be read, or lies where it may not.
        FeatureSpaceError: it is of another space than the detector.
    """
    bank = FeatureBank.load(_bank_place(folder, manifest["bank"]))
    return bank.in_space(bank_space(manifest), f"the bank of detector {manifest['name']}")


def _bank_place(folder: Path, stated: str) -> Path:
    """The folder of a detector's bank: in the detector's own, or, as shipped ones share theirs, in one beside it.

    Raises:
        FormatError: it lies elsewhere. A stranger's detector must not read what is not its own.
    """
    place = (folder / stated).resolve()
    if place.is_relative_to(folder.resolve()) or (folder / stated).resolve() == shared_bank(folder):
        return folder / stated
    raise FormatError(f"{folder / MANIFEST}: 'bank' is {stated!r}, which leads out of the detector's folder")


def shared_bank(folder: Path) -> Path | None:
    """The bank of the detector called `default` beside this one; None where there is no such detector."""
    beside = folder.resolve().parent / DEFAULT
    return beside / BANK if (beside / MANIFEST).is_file() else None


def require_bank_beside(folder: Path, bank: FeatureBank, name: str) -> None:
    """Refuse to take the bank of the detector called `default` beside a folder for another one.

    Args:
        folder: of the detector that is to have it.
        bank: the bank that it has.
        name: the detector's.

    Raises:
        UsageError: there is none, or it is another bank.
        FeatureSpaceError: nor is it in that one's space.
    """
    place = shared_bank(folder)
    if place is None:
        raise UsageError(f"there is no detector {folder.parent / DEFAULT} whose bank {folder} could share")
    if (theirs := FeatureBank.load(place).in_space(bank.space, str(place)).digest) != bank.digest:
        raise UsageError(f"{place} is another bank ({theirs[:12]}) than that of {name} ({bank.digest[:12]})")


def encoder_of(folder: Path, manifest: Mapping[str, Any]) -> str | Path:
    """What `open_backbone` takes to open the encoder of a detector.

    Args:
        folder: the detector's.
        manifest: of the folder.

    Raises:
        FormatError: it lies where it may not.
    """
    if manifest.get("backbone_name"):
        return str(manifest["backbone_name"])
    own = str(manifest.get("backbone_folder", ""))
    if not own:
        return str(manifest["space"]["backbone"])
    if Path(own).is_absolute() or (folder / own).resolve().is_relative_to(folder.resolve()):
        return folder / own
    raise FormatError(
        f"{folder / MANIFEST}: 'backbone_folder' is {own!r}, which leads out of the detector's folder; an encoder "
        "elsewhere is named by its whole path"
    )
