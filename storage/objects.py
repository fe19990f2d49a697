"""Folders on object storage, with the verbs of pathlib: a pipeline's folder where its root is an address.

    s3://bucket/prefix    gs://bucket/prefix    az://container/prefix

A folder is what the names of objects begin with: there are no empty ones, and none need be made. Nothing is ever half
written. Credentials, region and endpoint come from the usual environment variables, and stand in no error.
"""

import errno
import fnmatch
import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PosixPath
from typing import IO, Annotated, Any, BinaryIO, Self

from pydantic import AfterValidator

from pairloom.storage.asked_once import said
from pairloom.storage.object_client import ObjectStorageError, RefusedError, plain_endpoint, store, told

_ADDRESS = re.compile(r"(s3|gs|az):/+([^/].*)")
_SCHEMES = ("s3:", "gs:", "az:")
_FOLDER = "folder"
_WINDOW = 1 << 20
"""Least bytes that are read at once: a request takes about as long as reading a megabyte."""
_LARGEST_WINDOW = 16 << 20
_ATTEMPTS = 6
"""How often a record is put whose answer was lost and which is not there, and how often objects are deleted."""


def is_address(text: str) -> bool:
    """Whether this names a folder on object storage; `s3:/bucket`, as pathlib writes it, does, too."""
    return _ADDRESS.fullmatch(text) is not None


def path_at(place: Path | str) -> Path:
    """A folder of this machine, as it is, or one on object storage. Raises ValueError where that can't be used here."""
    if not is_address(str(place)):
        return Path(place)
    if find_spec("obstore") is None:
        raise ValueError(
            f"{ObjectPath(str(place))}: object storage needs one package more: pip install 'pairloom[cloud]'"
        )
    return ObjectPath(str(place))


def lance_options(path: Path) -> dict[str, str] | None:
    """What Lance must be told to open a table at `path`, beside what it reads in the environment."""
    return {"allow_http": "true"} if isinstance(path, ObjectPath) and plain_endpoint() else None


StoredPath = Annotated[Path, AfterValidator(path_at)]
"""Of a model's field: a folder of this machine or on object storage."""


class ObjectPath(PosixPath):
    """The path of an object, or of all objects below it. What needs a file of this machine raises TypeError.

    What comes out of a listing knows what that said of it, like an `os.DirEntry`.
    """

    _listed: Any = None

    def __str__(self) -> str:
        scheme, *names = self.parts or ("",)
        return f"{scheme}//{'/'.join(names)}" if scheme in _SCHEMES else "/".join(self.parts)

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no file of this machine")

    @property
    def bucket(self) -> str:
        """Scheme and bucket, as an address."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """What the bucket knows it by."""
        return "/".join(self.parts[2:])

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002  # pathlib's signature
        return self

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002  # pathlib's signature
        """Size, time of the last change, and as the inode a number that is another one for other contents."""
        if self._listed == _FOLDER:
            return os.stat_result((stat.S_IFDIR | 0o755, *[0] * 9), {f"st_{kind}time_ns": 0 for kind in "amc"})
        found = self._listed or self._asked()
        changed = found["last_modified"].timestamp()
        content = int(hashlib.sha256(str(found["e_tag"]).encode()).hexdigest()[:15], 16)
        return os.stat_result(
            (stat.S_IFREG | 0o644, content, 0, 1, 0, 0, found["size"], changed, changed, changed),
            {f"st_{kind}time_ns": int(changed * 1e9) for kind in "amc"},
        )

    def lstat(self) -> os.stat_result:
        return self.stat()

    def is_file(self) -> bool:
        if self._listed is not None:
            return bool(self._listed != _FOLDER)
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        if self._listed is not None:
            return bool(self._listed == _FOLDER)
        return said.any_below(str(self)) or next(self._below(), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Generator[Self, None, None]:
        if (whole := _whole.get()) and self.is_relative_to(whole.folder):
            start = len(f"{self.key}/")
            for name in dict.fromkeys(path.key[start:].partition("/")[0] for path in self._below()):
                path = self / name
                yield self._named(path.key, whole.objects.get(path.key, _FOLDER))
            return
        with told(self.bucket, self.key):
            found = store(self.bucket).list_with_delimiter(self.key or None)
        for prefix in found["common_prefixes"]:
            yield self._named(prefix, _FOLDER)
        for each in found["objects"]:
            yield self._named(each["path"], each)

    def glob(self, pattern: str) -> Iterator[Self]:  # type: ignore[override]  # later Pythons add options
        first, _, rest = pattern.partition("/")
        if any(sign in first for sign in "*?["):
            found = [each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, first)]
        else:
            found = [self / first] if rest or (self / first).exists() else []
        for each in found:
            if not rest:
                yield each
            elif each._listed in (None, _FOLDER):
                yield from each.glob(rest)

    def rglob(self, pattern: str) -> Iterator[Self]:  # type: ignore[override]  # later Pythons add options
        """The files among those below; there are no folders of their own."""
        yield from (each for each in self._below() if fnmatch.fnmatchcase(each.name, pattern))

    def open(self, mode: str = "r", *_: Any, encoding: str | None = None, **__: Any) -> IO[Any]:  # type: ignore[override]
        """To be read: `rb` or `r`. What is written is written aside (`storage.files`)."""
        if mode == "rb":
            return _Reader(self)  # type: ignore[return-value]  # it is all that is read of one
        if mode == "r":
            return io.StringIO(self.read_text(encoding))
        raise ValueError(f"{self} can't be opened as {mode!r}: objects are put whole")

    def read_bytes(self) -> bytes:
        with told(self.bucket, self.key):
            return bytes(store(self.bucket).get(self.key).bytes())

    def read_unless_same(self) -> bytes:
        """Its contents, which aren't read again where a listing of this stage says that they are those read before."""
        if known := said.content(str(self)):
            return known[0]
        with told(self.bucket, self.key):
            found = store(self.bucket).get(self.key)
            content = bytes(found.bytes())
        said.read(str(self), found.meta, content)
        return content

    def read_range(self, start: int, length: int) -> bytes:
        """So many bytes of it from `start` on."""
        with told(self.bucket, self.key):
            return bytes(store(self.bucket).get_range(self.key, start=start, length=length))

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:  # noqa: ARG002  # pathlib's signature
        """Make it young again. An object can't be copied onto itself."""
        self.put(self.read_bytes())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """There is nothing to be done."""

    def rmdir(self) -> None:
        """There is nothing to be done: a folder goes with its last object."""

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: ARG002  # storage doesn't tell
        self._delete([self.key])

    def replace(self, target: str | os.PathLike[str]) -> Self:
        """Move one object. A kill in between leaves it at both places."""
        assert isinstance(target, ObjectPath), f"{target} is elsewhere"
        with told(self.bucket, self.key):
            store(self.bucket).copy(self.key, target.key)
        said.forget(str(target))
        self.unlink()
        return type(self)(target)

    rename = replace

    def put(self, content: bytes | Path) -> None:
        """Write it, or the content of a file of this machine, over what there is, whole."""
        with told(self.bucket, self.key):
            store(self.bucket).put(self.key, content)
        said.forget(str(self))

    def put_if_absent(self, content: bytes) -> bool:
        """Write it where nothing is; False where something else is.

        Where the answer was lost, or says that something is there, what is read there tells whether this put it.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with told(self.bucket, self.key):
                    store(self.bucket).put(self.key, content, mode="create")
                return True
            except (FileExistsError, ObjectStorageError) as error:
                try:
                    return self.read_bytes() == content
                except FileNotFoundError:
                    if attempt == _ATTEMPTS - 1 or isinstance(error, RefusedError):
                        raise error from None
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("every attempt returns or raises")

    def delete_below(self) -> None:
        """Delete all objects below: what says that others are whole goes first."""
        keys = [each.key for each in self._below()]
        for first in (True, False):
            if some := [key for key in keys if first is ("/_versions/" in key)]:
                self._delete(some)

    def there(self, names: Iterable[str]) -> dict[str, Self]:
        """Those of some files below that there are, in few requests: one for all that are in one folder or below one
        of its folders."""
        found: dict[str, Self] = {}
        by_folder: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            by_folder.setdefault(tuple(name.split("/")[:-1][:2]), []).append(name)
        for folder, own in by_folder.items():
            below = self.joinpath(*folder)
            known = [self / name for name in own if said.of(str(self / name))]
            if len(known) == len(own):
                paths: Iterable[Self] = (self._named(path.key, said.of(str(path))) for path in known)
            elif len(own) == 1:
                paths = (self / own[0])._alone()
            else:
                paths = below.rglob("*") if len(folder) > 1 else below.iterdir()
            found |= {path.relative_to(self).as_posix(): path for path in paths if path.is_file()}
        return {name: found[name] for name in names if name in found}

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            said.forget(f"{self.bucket}/{key}")
        # Of several at once, which is a POST, obstore repeats no request whose answer doesn't come.
        for attempt in range(_ATTEMPTS):
            try:
                with told(self.bucket, self.key):
                    store(self.bucket).delete(keys)
                return
            except FileNotFoundError:
                # Amazon's storage doesn't tell; where another's does, the rest of several may still be there.
                if len(keys) > 1:
                    for key in keys:
                        self._delete([key])
                return
            except ObjectStorageError as error:
                if attempt == _ATTEMPTS - 1 or isinstance(error, RefusedError):
                    raise
            time.sleep(0.1 * 2**attempt)

    def _asked(self) -> Any:
        """What the storage says of it now, or said in `listed_whole`. Raises FileNotFoundError where it isn't there."""
        if (whole := _whole.get()) and self.is_relative_to(whole.folder):
            if self.key not in whole.objects:
                raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self))
            return whole.objects[self.key]
        with told(self.bucket, self.key):
            return store(self.bucket).head(self.key)

    def _alone(self) -> Iterator[Self]:
        """It itself, knowing what the storage said of it, where it is there."""
        with suppress(FileNotFoundError):
            yield self._named(self.key, self._asked())

    def _below(self) -> Iterator[Self]:
        if (whole := _whole.get()) and self.is_relative_to(whole.folder):
            inside = f"{self.key}/"
            yield from (self._named(key, each) for key, each in whole.objects.items() if key.startswith(inside))
            return
        with told(self.bucket, self.key):
            for chunk in store(self.bucket).list(self.key or None, chunk_size=1000):
                for each in chunk:
                    yield self._named(each["path"], each)

    def _named(self, key: str, listed: Any) -> Self:
        found = type(self)(f"{self.bucket}/{key}")
        found._listed = listed
        if listed != _FOLDER:
            said.hear(str(found), listed)
        return found


@dataclass(frozen=True)
class _Whole:
    """All objects below a folder, by their keys."""

    folder: ObjectPath
    objects: dict[str, Any]


_whole: ContextVar[_Whole | None] = ContextVar("whole", default=None)


@contextmanager
def listed_whole(folder: Path) -> Iterator[None]:
    """What is asked inside of a folder on object storage, but for contents, is answered by one listing made now.

    For who looks at all of it, and writes nothing. Elsewhere nothing is listed.
    """
    if not isinstance(folder, ObjectPath):
        yield
        return
    before = _whole.set(_Whole(folder, {path.key: path._listed for path in folder.rglob("*")}))
    try:
        yield
    finally:
        _whole.reset(before)


def readable(path: Path) -> Path | BinaryIO:
    """What libraries are given that read a file by its path, or an open one; of an object it may give what was read of
    it before."""
    return _Reader(path, remembers=True) if isinstance(path, ObjectPath) else path  # type: ignore[return-value]  # all that is asked


class _Reader(io.RawIOBase):
    """One object, read from anywhere: who begins at its start gets all of it as it comes, others parts of it."""

    def __init__(self, path: ObjectPath, *, remembers: bool = False) -> None:
        self._path = path
        self._remembers = remembers
        self._at = 0
        self._size: int | None = None
        self._end = self._block = (0, b"")
        """Where they start, and bytes: the last ones, which Parquet asks for again and again, and those read last."""
        self._window = _WINDOW
        self._stream: Iterator[Any] | None = None
        self._streamed = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._whole_size() if whence == os.SEEK_END else 0)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill all of a buffer, but at the end of the object."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (piece := self._piece(len(view) - done)):
            view[done : done + len(piece)] = piece
            done, self._at = done + len(piece), self._at + len(piece)
        return done

    def _piece(self, wanted: int) -> memoryview:
        """At most as many bytes from here on; none at the end."""
        if self._at == self._streamed and (self._stream or self._size is None):
            self._block = (self._streamed, self._next())
            self._streamed += len(self._block[1])
        for start, content in (self._end, self._block):
            if start <= self._at < start + len(content):
                return memoryview(content)[self._at - start :][:wanted]
        if self._at >= (size := self._whole_size()):
            return memoryview(b"")
        # Who reads on gets ever more at once.
        reads_on = self._at == self._block[0] + len(self._block[1])
        self._window = min(2 * self._window, _LARGEST_WINDOW) if reads_on else _WINDOW
        self._block = self._get((self._at, min(self._at + max(wanted, self._window), size)))
        return self._piece(wanted)

    def _next(self) -> bytes:
        with told(self._path.bucket, self._path.key):
            if self._stream is None:
                found = store(self._path.bucket).get(self._path.key)
                self._size, self._stream = found.meta["size"], iter(found.stream(_WINDOW))
            return bytes(next(self._stream, b""))

    def _whole_size(self) -> int:
        if self._size is None and self._remembers and (known := said.content(str(self._path))):
            last, self._size = known
            self._end = (self._size - len(last), last)
        if self._size is None:
            try:
                self._end = self._get({"suffix": _WINDOW})
            except ObjectStorageError:
                # Nothing has no last bytes, and Azure doesn't tell them.
                self._size = self._path.stat().st_size
        assert self._size is not None
        return self._size

    def _get(self, wanted: Any) -> tuple[int, bytes]:
        with told(self._path.bucket, self._path.key):
            found = store(self._path.bucket).get(self._path.key, options={"range": wanted})
            self._size = found.meta["size"]
            content = bytes(found.bytes())
        if self._remembers and "suffix" in wanted:
            said.read(str(self._path), found.meta, content)
        return found.range[0], content
