"""Files on disk: written whole or not at all, read with an error that names them."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from sapo.core.errors import RecordError

T = TypeVar("T")

# Names of what is being written begin with it; a process that is killed leaves it behind.
SCRATCH = ".sapo-"


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cache_directory(kind: str) -> Path:
    """Return where files of a kind are kept for later runs; it may be deleted at any time, at the price of its work."""
    return user_cache_path("sapo") / kind


def folder_name(parts: Sequence[str], joint: str, longest: int) -> str:
    """Return a name for a folder, of at most so many bytes; one that is cut ends in a hash of all parts."""
    name = joint.join(part.replace("/", "-") for part in parts)
    whole = name.encode("utf-8", "replace")
    if len(whole) <= longest:
        return name
    return f"{whole[: longest - 9].decode(errors='ignore')}-{fingerprint(list(parts))[:8]}"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RecordError: if the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="surrogatepass", dir=path.parent, prefix=SCRATCH, delete=False
        ) as scratch:
            try:
                scratch.write(text)
                scratch.flush()
                os.fsync(scratch.fileno())
                os.chmod(scratch.name, 0o644)
                os.replace(scratch.name, path)
            except BaseException:
                os.unlink(scratch.name)
                raise
    except OSError as error:
        raise RecordError(unwritable(path, error.strerror or str(error))) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does; NaN and infinity are refused."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    except ValueError as error:
        raise RecordError(f"{path} is not written: it would hold a number that is not finite") from error
    write_text(path, text + "\n")


@contextmanager
def undamaged(path: Path, advice: str) -> Iterator[None]:
    """Run a block that takes a file's content apart; what does not fit is a RecordError about the file."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        # Of pydantic's many lines, the first three name the first thing that does not fit.
        why = ", ".join(line.strip() for line in str(error).splitlines()[:3])
        raise RecordError(f"{path} is damaged ({type(error).__name__}: {why}). {advice}") from error


def read_json(path: Path, advice: str = "Delete it to compute this step again.") -> Any:
    """Return a file's JSON.

    Raises:
        RecordError: if it cannot be read, followed by ``advice``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read ({error}). {advice}") from error


# How a kind of value becomes JSON values and is read back, made once.
adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class Stored:
    """A frozen value that becomes JSON values and back; floats survive exactly."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON values."""
        values: dict[str, Any] = adapter(type(self)).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return what `to_json` took apart.

        Raises:
            ValueError: if it is something else.
        """
        found: Self = adapter(cls).validate_python(values)
        return found


def parsed(data: Any, known: int, parse: Callable[[Any], T], what: str) -> T:
    """Return what pydantic makes of values of the ``known`` format; those that do not say theirs are taken to have it.

    Raises:
        RecordError: if a newer version wrote them.
        ValueError: if they are something else, with the first thing that is wrong; ``what`` names them as a whole.
    """
    found = data.get("format", known) if isinstance(data, Mapping) else known
    if isinstance(found, int) and found > known:
        raise RecordError(f"it has format {found}, and this version of sapo reads {known}: use a newer one")
    if found != known:
        raise ValueError(f"it has format {found!r}, but this version of sapo reads {known} only")
    try:
        return parse(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or what
        raise ValueError(f"{where}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Lines(Generic[T]):
    """JSONL files of one kind of record, read with errors that name the line, added to line by line.

    Attributes:
        parse: returns the record of a line; a ValueError is a damaged line.
        dump: returns a record as JSON values.
        key: tells records apart; of several with one key the last one counts.
        advice: what to do about a damaged line.
    """

    parse: Callable[[Any], T]
    dump: Callable[[T], Any]
    key: Callable[[T], Any]
    advice: str

    def read(self, path: Path, note: Callable[[str], None] = lambda text: None) -> tuple[T, ...]:
        """Return the records of a file in its order.

        A last line without its end is what a crash or a copy cut off: it is ignored, and ``note`` is told.

        Raises:
            RecordError: if the file cannot be read, or a line is damaged, naming both; or what ``parse`` says that is
                no damage.
        """
        try:
            # Some editors put a mark before the first line.
            *lines, last = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
        found = dict[Any, T]()
        for number, line in enumerate([*lines, last], start=1):
            if not line.strip():
                continue
            try:
                data = json.loads(line.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError) as error:
                if number > len(lines):
                    note(f"{path}: the last line was cut off while it was written, and is dropped")
                    break
                raise RecordError(f"{path}, line {number} is damaged ({error}). {self.advice}") from error
            try:
                record = self.parse(data)
            except RecordError as error:
                raise RecordError(f"{path}, line {number}: {error}") from error
            except ValueError as error:
                raise RecordError(f"{path}, line {number} is damaged ({error}). {self.advice}") from error
            found[self.key(record)] = record
        return tuple(found.values())

    def append(self, path: Path, record: T) -> None:
        """Add a line at the end of a file; it is on the disk when this returns. One process at a time may do this.

        A last line that was cut off makes room for it.

        Raises:
            RecordError: if the file cannot be written; it then holds what it held before.
        """
        values = json.dumps(self.dump(record), ensure_ascii=False, allow_nan=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:
                whole, line = _end(file)
                line += values.encode("utf-8", "surrogatepass") + b"\n"
                try:
                    file.truncate(whole)
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())
                except BaseException:
                    file.truncate(whole)
                    raise
        except OSError as error:
            raise RecordError(unwritable(path, error.strerror or str(error))) from error


def _end(file: FileIO) -> tuple[int, bytes]:
    """Return how many bytes of a file of JSON lines are not cut off, and what their last line lacks."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0, b""
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return size, b""
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:].removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return start, b""
    return size, b"\n"


def unwritable(path: Path, why: str) -> str:
    """Return the message for a path that the disk refused."""
    return f"{path} cannot be written: {why}. What was finished is kept."
