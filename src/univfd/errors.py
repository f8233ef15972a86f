"""The errors that this package raises on purpose.

Every one derives from `UnivFDError`, carries a stable short `code` (used in failure rows) and says what was got,
what was expected and what to do::

    UnivFDError                     error
    ├── InputError                  input            one input image cannot be used; in a batch it becomes a row
    │   ├── FileAccessError         access           missing, no permission, link loop, not a regular file
    │   ├── EmptyFileError          empty            zero bytes
    │   ├── NotAnImageError         not-an-image     the bytes are no image format that is read here
    │   ├── TruncatedImageError     truncated        the image data end early or are damaged
    │   ├── UnsupportedImageError   unsupported      an image whose pixels have no defined conversion to RGB
    │   └── TooManyPixelsError      too-many-pixels  over the pixel limit
    ├── UsageError                  usage            the call itself is wrong
    │   ├── UnknownNameError        unknown-name     no such backbone, classifier, view ...
    │   ├── MissingExtraError       missing-extra    an optional dependency is not installed
    │   └── OutputExistsError       output-exists    refuses to overwrite a result
    ├── WeightsError                weights          weights are missing, wrong or cannot be stored
    │   ├── OfflineError            offline          not in the cache and the network is switched off
    │   ├── DownloadError           download         no source could deliver the file
    │   ├── ChecksumError           checksum         a file is not the one that the catalogue names
    │   └── CacheError              cache            the cache folder cannot be written (read-only, full)
    ├── FormatError                 format           a bank, detector or catalogue file that cannot be read
    ├── StaleIndexError             stale-index      an index was built for other rows than the bank has now
    ├── FeatureSpaceError           feature-space    two different feature spaces were mixed
    ├── DataError                   data             a data set that does not fit what was asked of it
    └── ConflictError               conflict         another process changed a bank store meanwhile: run it again
"""

from __future__ import annotations

from typing import ClassVar


class UnivFDError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "error"


class InputError(UnivFDError):
    """One input image cannot be used. In a batch it becomes a `Failure` row."""

    code = "input"


class FileAccessError(InputError):
    """The file is missing, unreadable, a link loop or not a regular file."""

    code = "access"


class EmptyFileError(InputError):
    """The input has zero bytes."""

    code = "empty"


class NotAnImageError(InputError):
    """The bytes are no image format that is read here."""

    code = "not-an-image"


class TruncatedImageError(InputError):
    """The image data end early or are damaged. A partial picture is never judged."""

    code = "truncated"


class UnsupportedImageError(InputError):
    """An image whose pixel values have no defined conversion to 8-bit RGB."""

    code = "unsupported"


class TooManyPixelsError(InputError):
    """The image is larger than the pixel limit."""

    code = "too-many-pixels"


class UsageError(UnivFDError):
    """The call itself is wrong."""

    code = "usage"


class UnknownNameError(UsageError):
    """No backbone, classifier, view, perturbation, detector ... of that name."""

    code = "unknown-name"


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    code = "missing-extra"


class OutputExistsError(UsageError):
    """The output is there already; results are never overwritten."""

    code = "output-exists"


class WeightsError(UnivFDError):
    """Weights are missing, wrong or cannot be stored."""

    code = "weights"


class OfflineError(WeightsError):
    """The weights are not in the cache and `UNIVFD_OFFLINE=1` forbids to fetch them."""

    code = "offline"


class DownloadError(WeightsError):
    """No source could deliver the file."""

    code = "download"


class ChecksumError(WeightsError):
    """A file is not the one that the catalogue names."""

    code = "checksum"


class CacheError(WeightsError):
    """The cache folder cannot be written: read-only, no permission, disk full."""

    code = "cache"


class FormatError(UnivFDError):
    """A bank, detector or catalogue file that cannot be read."""

    code = "format"


class StaleIndexError(UnivFDError):
    """An index was built for other rows than the bank has now."""

    code = "stale-index"


class FeatureSpaceError(UnivFDError):
    """Embeddings of two different feature spaces were about to be mixed."""

    code = "feature-space"


class DataError(UnivFDError):
    """A data set that does not fit what was asked of it."""

    code = "data"


class ConflictError(UnivFDError):
    """Another process changed a bank store meanwhile, again and again; nothing was changed, run it again."""

    code = "conflict"
