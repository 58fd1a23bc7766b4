"""Requests to an object store: endpoint, retries, and translation of errors.

A store's error text may quote keys, so only its error code is repeated.
"""

import contextlib
import errno
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from ... import SteadyDancerError, TemporaryError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

# Arrow's client tries 31 times, which takes 6 s if the store answers 503 at once and 100 s if it does not answer. A
# store that throttles is tried again after these pauses.
PAUSES_S = (2.0, 10.0)

_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_BUSY = {"SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "THROTTLING", "REQUEST_TIMEOUT"}
_DENIED = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "REQUEST_EXPIRED",
    "REQUEST_TIME_TOO_SKEWED",
}  # fmt: skip


class StorageError(SteadyDancerError, OSError):
    """A request to a store failed: `filename` is the address, `strerror` the cause and remedy, without secrets."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class StoreUnavailableError(StorageError, TemporaryError):
    """The store cannot be reached, is overloaded or failing; the same request may succeed later."""


class StoreBusyError(StoreUnavailableError):
    """The store answered that it is overloaded or failing."""


class Place(Protocol):
    """An address in a bucket."""

    @property
    def bucket(self) -> str:
        """Name of the bucket."""


def call_with_retries(path: Place, call: Callable[[], T]) -> T:
    """Call a store and return the result; if the store is busy, retry a few times.

    Raises:
        StorageError: the request failed; see `translated_errors`.
        FileNotFoundError: the object does not exist.
    """
    for pause_s in PAUSES_S:
        try:
            with translated_errors(path):
                return call()
        except StoreBusyError:
            time.sleep(pause_s)
    with translated_errors(path):
        return call()


@contextlib.contextmanager
def translated_errors(path: Place) -> Iterator[None]:
    """Translate errors of a store in the block to `StorageError`; errors of the local disk are not changed."""
    try:
        yield
    except (StorageError, FileExistsError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _as_storage_error(path, str(error)) from None


def _as_storage_error(path: Place, message: str) -> StorageError:
    found = _AWS_ERROR.search(message)
    code, status = (found[1], int(found[2] or 0)) if found else ("no reason given", 0)
    kind, where = StorageError, _endpoint()
    if code == "NO_SUCH_BUCKET":
        words = f"bucket {path.bucket} does not exist at {where}: create it, or correct the path or AWS_ENDPOINT_URL"
    elif code in _DENIED or status in (401, 403):
        words = (
            f"{where} denies access ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the permissions for "
            f"bucket {path.bucket}"
        )
    elif code in _BUSY or status >= 500 or status == 429:
        kind = StoreBusyError
        words = f"{where} is overloaded or failing ({status or code}): run the same command later to resume"
    elif code == "NETWORK_CONNECTION":
        kind = StoreUnavailableError
        words = f"{where} cannot be reached: check AWS_ENDPOINT_URL and the network; run the same command to resume"
    else:
        words = f"{where} rejected the request ({code}{f', HTTP {status}' if status else ''})"
    return kind(errno.EIO, words, str(path))


def _endpoint_variable() -> tuple[str, str]:
    """Return the variable that names the endpoint, and its value; empty if none does."""
    name = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), "")
    return name, os.environ.get(name, "")


def _endpoint() -> str:
    _, url = _endpoint_variable()
    if not url:
        return "AWS S3 (AWS_ENDPOINT_URL is not set)"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


@functools.lru_cache(maxsize=16)
def filesystem(bucket: str) -> "FileSystem":
    """Return Arrow's file system for a bucket, configured by the environment; one per process."""
    from pyarrow.fs import FileSystem

    name, url = _endpoint_variable()
    if url and not re.match(r"https?://[^/]", url):  # not repeated: it may contain a secret
        words = f"{name} does not begin with http:// or https:// and a host: set it to http(s)://HOST:PORT"
        raise StorageError(errno.EINVAL, words, f"s3://{bucket}")
    try:
        opened, _ = FileSystem.from_uri(f"s3://{bucket}")
    except ValueError:  # Arrow raises it for settings that it cannot parse
        words = "cannot open the store: check AWS_ENDPOINT_URL (http://HOST:PORT) and AWS_REGION"
        raise StorageError(errno.EINVAL, words, f"s3://{bucket}") from None
    return opened


@functools.lru_cache(maxsize=16)
def upload_filesystem(bucket: str) -> "FileSystem":
    """Return the file system for writing: a small object is one PUT, and a large one buffers one part at a time.

    By default a small object takes three requests, and a large one is buffered whole if the disk outruns the store.
    """
    # Only `from_uri` reads the endpoint from the environment, and only the class accepts the write settings.
    pickled: Any = filesystem(bucket).__reduce__()
    make, (options,) = pickled
    return make({**options, "background_writes": False, "allow_delayed_open": True})
