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
    │   │   └── NoProvenanceError   no-provenance    that which reads what a file says of its origin
    │   └── OutputExistsError       output-exists    refuses to overwrite a result
    ├── WeightsError                weights          weights are missing, wrong or cannot be stored
    │   ├── OfflineError            offline          not in the cache and the network is switched off
    │   ├── DownloadError           download         no source could deliver the file
    │   ├── ChecksumError           checksum         a file is not the one that the catalogue names
    │   ├── CacheError              cache            the cache folder cannot be written (read-only, full)
    │   └── EngineError             engine           what computes the encoder does not start here, or is wrong
    ├── FormatError                 format           a bank, detector or catalogue file that cannot be read
    ├── StaleIndexError             stale-index      an index was built for other rows than the bank has now
    ├── FeatureSpaceError           feature-space    two different feature spaces were mixed
    ├── DataError                   data             a data set that does not fit what was asked of it
    ├── ConflictError               conflict         another process changed a bank store meanwhile: run it again
    └── ServiceError                service          a service (`univfd serve`) that refused, or did not answer
        ├── RequestError            request          it does not understand the request
        ├── UnauthorizedError       unauthorized     no key, or one that it does not know
        ├── ForbiddenError          forbidden        asked by another site's page, or for what is switched off
        ├── TooLargeError           too-large        more bytes than it takes
        ├── SlowUploadError         slow-upload      the bytes came too slowly
        ├── RateLimitedError        rate-limited     more images a minute than this caller may send
        ├── BusyError               busy             all its places are taken
        ├── NotReadyError           not-ready        it is starting, or its weights are not there
        ├── DeadlineError           deadline         not done within its time for one image
        └── UnreachableError        unreachable      nothing answers at the address
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


class NoProvenanceError(MissingExtraError):
    """What reads the provenance of files is not installed, whatever the file."""

    code = "no-provenance"


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


class EngineError(WeightsError):
    """What computes the encoder does not start on this machine, or gives wrong vectors."""

    code = "engine"


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


class ServiceError(UnivFDError):
    """A service refused a request, or did not answer it."""

    code = "service"


class RequestError(ServiceError):
    """The service does not understand the request."""

    code = "request"


class UnauthorizedError(ServiceError):
    """No key, or one that the service does not know."""

    code = "unauthorized"


class ForbiddenError(ServiceError):
    """Asked by a page of another site, under a host name that is not served, or for what is switched off."""

    code = "forbidden"


class TooLargeError(ServiceError):
    """More bytes, or more images, than the service takes in one request."""

    code = "too-large"


class SlowUploadError(ServiceError):
    """The bytes of the request came too slowly."""

    code = "slow-upload"


class RateLimitedError(ServiceError):
    """This caller sent more images a minute than it may.

    Attributes:
        seconds: until it may send the next one; 0 where that is not known.
    """

    code = "rate-limited"

    def __init__(self, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class BusyError(ServiceError):
    """All places of the service are taken."""

    code = "busy"


class NotReadyError(ServiceError):
    """The service is starting, or its weights are not there."""

    code = "not-ready"


class DeadlineError(ServiceError):
    """Not done within the time that the service gives one image."""

    code = "deadline"


class UnreachableError(ServiceError):
    """Nothing answers at the address of the service."""

    code = "unreachable"
