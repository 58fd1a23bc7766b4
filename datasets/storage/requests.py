"""Requests to an object store: where it is, how often it is asked, and its complaints in our words.

What a store answers may quote keys, so nothing of it is repeated but the error's code.
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

from ... import SteadyDancerError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

# Arrow's client tries 31 times, which takes 6 s when the store answers 503 at once, 100 s when it says nothing. A
# store that throttles is asked again after these pauses.
PAUSES_S = (2.0, 10.0)

_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_BUSY = {"SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "THROTTLING", "REQUEST_TIMEOUT"}
_DENIED = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "REQUEST_EXPIRED",
    "REQUEST_TIME_TOO_SKEWED",
}  # fmt: skip


class StorageError(SteadyDancerError, OSError):
    """A store does not do what is asked: `filename` says where, `strerror` why and what to do, without secrets."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class StoreBusyError(StorageError):
    """The store is overloaded or failing; the same may well succeed later."""


class Place(Protocol):
    """An address in a bucket."""

    @property
    def bucket(self) -> str:
        """Its bucket."""


def attempt(path: Place, call: Callable[[], T]) -> T:
    """The result of a call to the store; a busy store is asked again a few times.

    Raises:
        StorageError: in our words.
        FileNotFoundError: there is no such object.
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
    """Say in our words what goes wrong with a store in the block; the fault of a local disk passes as it is."""
    try:
        yield
    except (StorageError, FileExistsError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _in_words(path, str(error)) from None


def _in_words(path: Place, message: str) -> StorageError:
    found = _AWS_ERROR.search(message)
    code, status = (found[1], int(found[2] or 0)) if found else ("no reason given", 0)
    kind, where = StorageError, _endpoint()
    if code == "NO_SUCH_BUCKET":
        words = f"there is no bucket {path.bucket} at {where}: make it, or mend the path or AWS_ENDPOINT_URL"
    elif code in _DENIED or status in (401, 403):
        words = (
            f"{where} denies access ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what their owner "
            f"may do with bucket {path.bucket}"
        )
    elif code in _BUSY or status >= 500 or status == 429:
        kind = StoreBusyError
        words = f"{where} is overloaded or failing ({status or code}): the same command later goes on from here"
    elif code == "NETWORK_CONNECTION":
        words = f"{where} cannot be reached: check AWS_ENDPOINT_URL and the network; the same command goes on from here"
    else:
        words = f"{where} does not do it ({code}{f', HTTP status {status}' if status else ''})"
    return kind(errno.EIO, words, str(path))


def _endpoint() -> str:
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "the S3 of AWS (no AWS_ENDPOINT_URL is set)"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


@functools.lru_cache(maxsize=16)
def filesystem(bucket: str) -> "FileSystem":
    """Arrow's file system of a bucket, as the environment describes its store; one a process."""
    from pyarrow.fs import FileSystem

    try:
        opened, _ = FileSystem.from_uri(f"s3://{bucket}")
    except ValueError:  # Arrow's class for what it cannot parse
        words = "the store cannot be opened: check AWS_ENDPOINT_URL (http://HOST:PORT) and AWS_REGION"
        raise StorageError(errno.EINVAL, words, f"s3://{bucket}") from None
    return opened


@functools.lru_cache(maxsize=16)
def upload_filesystem(bucket: str) -> "FileSystem":
    """The same for writing: a small object is one PUT, and of a large one no more than a part is held in memory.

    Otherwise a small one takes three requests, and a large one is held whole where the disk is faster than the store.
    """
    # The environment's endpoint is honoured by `from_uri` alone, and the settings of writing by the class alone.
    pickled: Any = filesystem(bucket).__reduce__()
    make, (options,) = pickled
    return make({**options, "background_writes": False, "allow_delayed_open": True})
