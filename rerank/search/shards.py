"""Images by the million lie in shards: tar files, as WebDataset has them, Parquet files, folders.

A shard is what is read at once and kept as one file: a whole tar, one row group of a Parquet file,
a few hundred files of a folder. Nothing is unpacked, no address is fetched.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rerank.extras import load_extra
from rerank.images import is_image, list_images

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
PATH_COLUMNS = ("file_name", "file", "path")  # of text, where no column holds images
LONGEST = 512 * 2**20  # bytes of an image in a tar or a Parquet file
FILES = 512  # of a folder in one shard, on average
ROWS = 64  # of a Parquet file in memory

# What to call an image; where or what it is, or an exception that says why it is not there.
Item = tuple[bytes, Path | bytes | Exception]


@dataclass(frozen=True)
class FilesShard:
    """Some files of a folder."""

    source: Path
    state: str  # changes whenever the content does
    files: tuple[Path, ...]

    def items(self) -> Iterator[Item]:
        """Yield the files, by their paths."""
        for file in self.files:
            yield os.fsencode(file), file


@dataclass(frozen=True)
class TarShard:
    """A tar, compressed or not."""

    source: Path
    state: str

    def items(self) -> Iterator[Item]:
        """Yield what has the name of an image; a tar that is damaged ends with an exception."""
        try:
            with tarfile.open(self.source, "r|*") as opened:  # read once, from front to back
                for member in opened:
                    if not member.isfile() or not is_image(PurePosixPath(member.name)):
                        continue
                    name = os.fsencode(self.source / member.name)
                    if member.size > LONGEST:
                        yield name, ValueError(f"{member.size} bytes are more than {LONGEST}")
                    elif (content := opened.extractfile(member)) is not None:
                        yield name, content.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            yield os.fsencode(self.source), ValueError(f"damaged from here on ({error})")


@dataclass(frozen=True)
class ParquetShard:
    """One row group of a Parquet file, whose `column` has images or their paths."""

    source: Path
    state: str

    column: str
    group: int

    def items(self) -> Iterator[Item]:
        """Yield a row each: bytes, `{"bytes", "path"}` as data sets have them, or a path."""
        first = 0
        with _parquet(self.source) as file:
            for number in range(self.group):
                first += file.metadata.row_group(number).num_rows
            batches = file.iter_batches(ROWS, row_groups=[self.group], columns=[self.column])
            for batch in batches:
                for row, value in enumerate(batch.column(0), start=first):
                    yield os.fsencode(self.source / str(row)), self._image(value.as_py())
                first += len(batch)

    def _image(self, value: Any) -> Path | bytes | Exception:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value if len(value) <= LONGEST else ValueError("more bytes than an image has")
        if not value:
            return ValueError("no image in this row")
        if "://" in str(value):
            return ValueError("an address, which is not fetched")
        return self.source.parent / str(value)


Shard = FilesShard | TarShard | ParquetShard


def list_shards(sources: Sequence[Path], column: str | None = None) -> list[Shard]:
    """Return the shards of tars, Parquet files, and folders, with the shards in these.

    `column` of Parquet files is told by its type where it is not given. Raises ValueError for what
    is none of these, for one without images, and for a Parquet file that cannot be read or has no
    such column; MissingExtraError without pyarrow.
    """
    shards: list[Shard] = []
    for source in dict.fromkeys(Path(os.path.abspath(source)) for source in sources):
        if source.is_dir():
            shards += _of_folder(source, column)
        elif _is_packed(source):
            shards += _of_file(source, column)
        else:
            kinds = ", ".join((*TAR_SUFFIXES, *PARQUET_SUFFIXES))
            what = "neither a folder nor one of" if source.exists() else "no such file or folder;"
            raise ValueError(f"{source}: {what} {kinds}")
    return shards


def has_packed(folder: Path) -> bool:
    """Return whether tars or Parquet files lie directly in a folder."""
    return any(map(_is_packed, folder.iterdir())) if folder.is_dir() else _is_packed(folder)


def _of_folder(folder: Path, column: str | None) -> list[Shard]:
    packed = sorted(filter(_is_packed, folder.iterdir()))
    shards = [shard for file in packed for shard in _of_file(file, column)]
    try:
        files = list_images(folder, deep=True)
    except ValueError:
        if packed:
            return shards
        raise
    # Where one ends follows from its last name alone: a new file changes one shard, not all after.
    part: list[Path] = []
    for file in files:
        part.append(file)
        if int.from_bytes(_digest(os.fsencode(file))[:8]) % FILES == 0 or file is files[-1]:
            shards.append(FilesShard(folder, _state(part), tuple(part)))
            part = []
    return shards


def _of_file(file: Path, column: str | None) -> list[Shard]:
    state = _state([file])
    if file.name.lower().endswith(TAR_SUFFIXES):
        return [TarShard(file, state)]
    with _parquet(file) as opened:
        chosen = _column(file, opened.schema_arrow, column)
        groups = range(opened.metadata.num_row_groups)
    return [ParquetShard(file, f"{state} {group}", chosen, group) for group in groups]


def _column(file: Path, schema: Any, asked: str | None) -> str:
    """Return the name of the column with images. Raises ValueError."""
    import pyarrow as pa

    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
    is_text = (pa.types.is_string, pa.types.is_large_string)
    images = [f.name for f in schema if any(is_kind(f.type) for is_kind in is_bytes)]
    texts = [f.name for f in schema if any(is_kind(f.type) for is_kind in is_text)]
    if asked is not None:
        if asked in images + texts:
            return asked
        raise ValueError(f"{file}: no column {asked!r} of bytes or text; it has: {schema.names}")
    found = images or [name for name in PATH_COLUMNS if name in texts][:1]
    if len(found) == 1:
        return found[0]
    several = f"several may be: {', '.join(found)}" if found else f"none in {schema.names}"
    raise ValueError(f"{file}: say by --column which column has the images; {several}")


def _parquet(file: Path) -> Any:
    parquet = load_extra("pyarrow.parquet", "pyarrow", "search")
    try:
        return parquet.ParquetFile(file)
    except (ValueError, OSError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(f"{file}: not a Parquet file that can be read ({error})") from error


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith((*TAR_SUFFIXES, *PARQUET_SUFFIXES)) and path.is_file()


def _state(files: Sequence[Path]) -> str:
    """Return what changes when one of these files does; one that is gone has a state as well."""
    lines = []
    for file in files:
        try:
            state = file.stat()
            lines.append(os.fsencode(file) + f" {state.st_size} {state.st_mtime_ns}".encode())
        except OSError:
            lines.append(os.fsencode(file))
    return _digest(b"\0".join(lines)).hex()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
