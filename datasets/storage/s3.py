"""Objects of an S3 store, under the names and verbs that `pathlib` has for files.

What differs from a file system: there are no folders, only names with slashes; an object appears whole, by one PUT or
by the end of a multipart upload, or not at all; nothing is renamed. The endpoint and the credentials come from the
environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, …), never from a path.
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
from .requests import StorageError, attempt, filesystem, upload_filesystem

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

T = TypeVar("T")

SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,62}")
# What one request asks for or brings, where the whole is larger.
CHUNK_BYTES = 8 << 20
_SETTING = re.compile(r"\?[\w.-]+=")


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or what stands for a folder: all objects whose keys begin with `key` and a slash.

    Not an `os.PathLike`: what opens files by itself fails at once with it, and takes `storage.local_copy` instead.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "ObjectPath":
        """`s3://BUCKET/KEY`.

        Raises:
            SteadyDancerError: it is no such address, or carries credentials or settings; those are not repeated.
        """
        if not uri.startswith(SCHEME):
            raise SteadyDancerError(f"{uri.split('://')[0]}://…: the stores that can be read are {SCHEME} and folders")
        bucket, _, key = uri.removeprefix(SCHEME).partition("/")
        if "@" in bucket or ":" in bucket or _SETTING.search(uri):
            raise SteadyDancerError(
                f"{SCHEME}…: a path carries no credentials and no settings; they are read from the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION)"
            )
        if not _BUCKET.fullmatch(bucket):
            raise SteadyDancerError(f"{uri}: give {SCHEME}BUCKET/KEY; {bucket!r} is no name of a bucket")
        return cls(bucket, key.strip("/"))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    @property
    def place(self) -> str:
        """As Arrow's file system of the bucket names it."""
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's last dot and what follows it."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """What the object lies in."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> "ObjectPath":
        joined = posixpath.normpath(posixpath.join(self.key, name))
        if joined.startswith(("/", "../")) or joined == "..":
            raise SteadyDancerError(f"{self}/{name} leaves the bucket")
        return ObjectPath(self.bucket, "" if joined == "." else joined)

    def with_name(self, name: str) -> "ObjectPath":
        """Another object beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """The same name with another suffix."""
        return self.with_name(self.stem + suffix)

    def absolute(self) -> "ObjectPath":
        """Itself: an address is the same from everywhere."""
        return self

    def resolve(self) -> "ObjectPath":
        """Itself: an address is the same from everywhere."""
        return self

    def is_file(self) -> bool:
        """Whether there is an object; asked by HEAD, so that it sees what was written before."""
        return describe([self])[0].is_file

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        from pyarrow.fs import FileType

        return describe([self])[0].type == FileType.Directory

    def exists(self) -> bool:
        """Whether there is an object, or objects below."""
        from pyarrow.fs import FileType

        return describe([self])[0].type != FileType.NotFound

    def read_bytes(self) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: there is none.
        """

        def read(store: "FileSystem") -> bytes:
            file: Any
            with store.open_input_file(self.place) as file:  # a stream would ask piece by piece
                return bytes(file.read_at(file.size(), 0))

        return _ask(self, read)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole object as text.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.read_bytes().decode(encoding, errors)

    def open(self) -> Any:
        """The object as a `pyarrow.NativeFile` that reads only the ranges asked of it (`read_at(size, offset)`)."""
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
    """Return what the store of a path answers to a request, which is repeated and complained of as `attempt` does."""
    return attempt(path, lambda: request(filesystem(path.bucket)))


def describe(paths: list[ObjectPath]) -> list["FileInfo"]:
    """What is at each of these places of one bucket, asked side by side."""
    if not paths:
        return []
    return _ask(paths[0], lambda store: store.get_file_info([path.place for path in paths]))


def entry(info: "FileInfo") -> Entry:
    """The description of an object."""
    bucket, _, key = info.path.partition("/")
    return Entry(ObjectPath(bucket, key), info.size or 0, info.mtime_ns or 0)


def listing(folder: ObjectPath) -> list[Entry]:
    """All objects below, by name; none if there are none."""
    from pyarrow.fs import FileSelector

    selector = FileSelector(folder.place, recursive=True)
    try:
        infos = _ask(folder, lambda store: store.get_file_info(selector))
    except FileNotFoundError:  # `allow_not_found` would let a bucket that is not there pass, too
        return []
    return sorted((entry(info) for info in infos if info.is_file), key=lambda found: found.path)


def children(folder: ObjectPath) -> list[str]:
    """Names of the objects that lie in a folder itself."""
    return sorted(info.base_name for info in _inside(folder) if info.is_file)


def prefixes(folder: ObjectPath) -> list[ObjectPath]:
    """What stands for the folders in a folder itself."""
    return [ObjectPath(folder.bucket, info.path.partition("/")[2]) for info in _inside(folder) if not info.is_file]


def _inside(folder: ObjectPath) -> list["FileInfo"]:
    from pyarrow.fs import FileSelector

    selector = FileSelector(folder.place, recursive=False)
    try:
        return _ask(folder, lambda store: store.get_file_info(selector))
    except FileNotFoundError:
        return []


def put(source: Path, target: ObjectPath) -> None:
    """Make an object of a finished local file: one PUT, or for a large one a multipart upload; readers see all or none.

    Raises:
        StorageError: it could not be written; what was there before is still there.
    """
    attempt(target, lambda: _upload(source, target))
    size, wanted = describe([target])[0].size, source.stat().st_size
    if size != wanted:
        raise StorageError(errno.EIO, f"{wanted} bytes were written and {size} are there: write it again", str(target))


def _upload(source: Path, target: ObjectPath) -> None:
    stream = upload_filesystem(target.bucket).open_output_stream(target.place)
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)
        stream.close()
    except BaseException:
        # Arrow (26) completes an upload, without what failed, when its stream is closed after an error, be it by
        # `with`, by the garbage collector or within `copy_files`. One that is never let go of stays unfinished, which
        # nobody sees and the bucket's own rules clear away.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
        raise


def get(source: ObjectPath, target: Path) -> None:
    """Copy an object to a local file.

    Raises:
        FileNotFoundError: there is none.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    def copy(store: "FileSystem") -> None:
        copy_files(source.place, str(target), store, LocalFileSystem(), chunk_size=CHUNK_BYTES)

    _ask(source, copy)


def copy(source: ObjectPath, target: ObjectPath) -> None:
    """Make an object of another one, by the store itself."""
    _ask(target, lambda store: store.copy_file(source.place, target.place))
