"""Images inside of a file by the name that they have in results: `shard.tar/member`, `shard.parquet/row`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ..errors import FileAccessError
from ..types import Failure, ImageRef
from ._names import display_name, failed
from ._parquet import is_parquet, parquet_images
from ._tar import is_tar, tar_images


def part_of(path: Path) -> ImageRef | Failure | None:
    """The image that a path names inside of a tar or a Parquet file above it; None where there is no such file.

    Args:
        path: of nothing on the disk.
    """
    for above in path.parents:
        try:
            if not above.is_file():
                continue
            state = above.stat()
        except (OSError, ValueError):
            continue
        if not is_tar(above) and not is_parquet(above):
            return None
        found = _by_name(above, (state.st_mtime_ns, state.st_size)).get(str(path))
        missing = FileAccessError(f"{display_name(above)} holds no image of this name; give the file for all of them")
        return found or failed(display_name(path), missing)
    return None


@lru_cache(maxsize=2)
def _by_name(file: Path, state: tuple[int, int]) -> dict[str, ImageRef]:
    """The images of a file by name, of several of one name the first; a list of results names many of the same file."""
    found: dict[str, ImageRef] = {}
    for ref in tar_images(file) if is_tar(file) else parquet_images(file):
        if isinstance(ref, ImageRef):
            found.setdefault(str(Path(ref.name)), ref)
    return found
