"""Objects of an S3 store, with the interface of `pathlib`.

Unlike a file system, a store has keys with slashes instead of folders, and no rename. An object appears atomically, by
one PUT or at the end of a multipart upload. The endpoint and the credentials come from the environment
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, …), never from a path.
"""

import ctypes
import errno
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ... import SteadyDancerError
from .requests import StorageError, call_with_retries, filesystem, upload_filesystem

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

T = TypeVar("T")

SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,62}")
# Size of one request when reading or writing a large object.
CHUNK_BYTES = 8 << 20
_SETTING = re.compile(r"\?[\w.-]+=")


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or a folder: all objects whose keys start with `key` and a slash.

    It is not an `os.PathLike`, so libraries that open files reject it immediately; give them a `storage.local_copy`.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "ObjectPath":
        """Parse `s3://BUCKET/KEY`.

        Raises:
            SteadyDancerError: `uri` has another form, or contains credentials or settings, which are not repeated.
        """
        if not uri.startswith(SCHEME):
            scheme = uri.split("://")[0]
            raise SteadyDancerError(f"{scheme}://… is not supported: pass a local path or {SCHEME}BUCKET/KEY")
        bucket, _, key = uri.removeprefix(SCHEME).partition("/")
        if "@" in bucket or ":" in bucket or _SETTING.search(uri):
            raise SteadyDancerError(
                f"{SCHEME}…: an address must not contain credentials or settings; set them in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION)"
            )
        if not _BUCKET.fullmatch(bucket):
            raise SteadyDancerError(f"{uri}: {bucket!r} is not a valid bucket name; use {SCHEME}BUCKET/KEY")
        return cls(bucket, key.strip("/"))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    @property
    def place(self) -> str:
        """Path in Arrow's file system: `BUCKET/KEY`."""
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """Last component of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix of the name, including the dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """Folder that contains the object."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> "ObjectPath":
        joined = posixpath.normpath(posixpath.join(self.key, name))
        if joined.startswith(("/", "../")) or joined == "..":
            raise SteadyDancerError(f"{self}/{name} is outside the bucket: use fewer `..`")
        return ObjectPath(self.bucket, "" if joined == "." else joined)

    def with_name(self, name: str) -> "ObjectPath":
        """Return the path of another object in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """Return the path with another suffix."""
        return self.with_name(self.stem + suffix)

    def absolute(self) -> "ObjectPath":
        """Return the path itself: an address is always absolute."""
        return self

    def resolve(self) -> "ObjectPath":
        """Return the path itself: a store has no links."""
        return self

    def is_file(self) -> bool:
        """Check by a HEAD request, which sees earlier writes, whether the object exists."""
        return describe([self])[0].is_file

    def is_dir(self) -> bool:
        """Check whether there are objects below this key."""
        from pyarrow.fs import FileType

        return describe([self])[0].type == FileType.Directory

    def exists(self) -> bool:
        """Check whether the object exists, or objects below its key."""
        from pyarrow.fs import FileType

        return describe([self])[0].type != FileType.NotFound

    def read_bytes(self) -> bytes:
        """Read the whole object.

        Raises:
            FileNotFoundError: the object does not exist.
        """

        def read(store: "FileSystem") -> bytes:
            file: Any
            with store.open_input_file(self.place) as file:  # a stream would send a request per chunk
                return bytes(file.read_at(file.size(), 0))

        return _ask(self, read)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Read the whole object as text.

        Raises:
            FileNotFoundError: the object does not exist.
        """
        return self.read_bytes().decode(encoding, errors)

    def open(self) -> Any:
        """Open the object as a `pyarrow.NativeFile`; `read_at(size, offset)` fetches only that range."""
        return _ask(self, lambda store: store.open_input_file(self.place))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            _ask(self, lambda store: store.delete_file(self.place))
        except FileNotFoundError:
            if not missing_ok:
                raise


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    path: ObjectPath
    size: int
    modified_ns: int


def _ask(path: ObjectPath, request: "Callable[[FileSystem], T]") -> T:
    """Send a request to the store of a path; retries and errors are those of `attempt`."""
    return call_with_retries(path, lambda: request(filesystem(path.bucket)))


def describe(paths: list[ObjectPath]) -> list["FileInfo"]:
    """Return Arrow's description of each of these paths of one bucket, requested in parallel."""
    if not paths:
        return []
    return _ask(paths[0], lambda store: store.get_file_info([path.place for path in paths]))


def entry(info: "FileInfo") -> Entry:
    """Convert Arrow's description of an object to an `Entry`."""
    bucket, _, key = info.path.partition("/")
    return Entry(ObjectPath(bucket, key), info.size or 0, info.mtime_ns or 0)


def listing(folder: ObjectPath) -> list[Entry]:
    """List all objects below a folder, sorted by path; empty if it does not exist."""
    from pyarrow.fs import FileSelector

    selector = FileSelector(folder.place, recursive=True)
    try:
        infos = _ask(folder, lambda store: store.get_file_info(selector))
    except FileNotFoundError:  # `allow_not_found` would also accept a missing bucket
        return []
    return sorted((entry(info) for info in infos if info.is_file), key=lambda found: found.path)


def children(folder: ObjectPath) -> list[str]:
    """List the names of a folder's direct objects."""
    return sorted(info.base_name for info in _inside(folder) if info.is_file)


def prefixes(folder: ObjectPath) -> list[ObjectPath]:
    """List a folder's direct subfolders (key prefixes)."""
    return [ObjectPath(folder.bucket, info.path.partition("/")[2]) for info in _inside(folder) if not info.is_file]


def _inside(folder: ObjectPath) -> list["FileInfo"]:
    from pyarrow.fs import FileSelector

    selector = FileSelector(folder.place, recursive=False)
    try:
        return _ask(folder, lambda store: store.get_file_info(selector))
    except FileNotFoundError:
        return []


def upload_file(source: Path, target: ObjectPath) -> None:
    """Upload a finished local file atomically: by one PUT, or by a multipart upload if it is large.

    Raises:
        StorageError: the upload failed; an earlier object of that name is unchanged.
    """
    call_with_retries(target, lambda: _upload(source, target))
    size, wanted = describe([target])[0].size, source.stat().st_size
    if size != wanted:
        raise StorageError(errno.EIO, f"uploaded {wanted} bytes but found {size}: run the command again", str(target))


def _upload(source: Path, target: ObjectPath) -> None:
    stream = upload_filesystem(target.bucket).open_output_stream(target.place)
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)
        stream.close()
    except BaseException:
        # Arrow (26) completes an upload without the failed part when its stream is closed after an error: by `with`,
        # by the garbage collector or within `copy_files`. Leaking the stream leaves the upload incomplete: no reader
        # sees it, and the bucket's lifecycle rules remove it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
        raise


def download_file(source: ObjectPath, target: Path) -> None:
    """Download an object to a local file.

    Raises:
        FileNotFoundError: the object does not exist.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    def copy(store: "FileSystem") -> None:
        copy_files(source.place, str(target), store, LocalFileSystem(), chunk_size=CHUNK_BYTES)

    _ask(source, copy)


def copy(source: ObjectPath, target: ObjectPath) -> None:
    """Copy an object within the store (server-side)."""
    _ask(target, lambda store: store.copy_file(source.place, target.place))
