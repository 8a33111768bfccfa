"""The files of a source: a folder, an archive, or one file."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from training.data.formats.base import File
from training.data.locales import normalised
from training.data.utterances import DatasetError

ROWS = (".jsonl", ".csv")  # files of these stand side by side with others that are not data
SUFFIXES = (*ROWS, ".json", ".tsv", ".parquet", ".arrow", ".yml", ".yaml", ".md", ".txt", ".conll", ".bio", ".iob")
SEQUENCES = ("seq.in", "seq.out", "label")
TAR = (".tar.gz", ".tgz", ".tar")
MAX_FILES = 50_000


@contextmanager
def files_of(source: str, locales: Sequence[str] | None) -> Iterator[list[File]]:
    """The files that may hold data, in order of their names; where files are named by locale, those of `locales`.

    Raises DatasetError: there is no such source, or no file in it that may hold data.
    """
    path = Path(source)
    try:
        if path.is_dir():
            yield _of_folder(path, locales)
        elif not path.is_file():
            kinds = "a folder, a .tar.gz or .zip, a file or hub:OWNER/NAME; files end in " + ", ".join(SUFFIXES)
            raise DatasetError(f"{path}: no such data; allowed: {kinds}")
        elif path.name.endswith(TAR):
            if not tarfile.is_tarfile(path):
                raise DatasetError(f"{path}: is no complete tar archive")
            with tarfile.open(path) as archive:
                yield _of_tar(path, archive, locales)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield _of_zip(path, packed, locales)
        else:
            files = {n: File(n, str(path.parent / n), (path.parent / n).read_bytes) for n in _beside(path)}
            yield [File(path.name, str(path), path.read_bytes, files)]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise DatasetError(f"{path}: is no complete archive ({error})") from error


def _beside(path: Path) -> list[str]:
    """The files that belong to one of word sequences."""
    names = [name for known in SEQUENCES for name in (known, f"{known}.gz")]
    return [name for name in names if path.name.startswith("seq.") and (path.parent / name).is_file()]


def _may_hold_data(name: str) -> bool:
    last = PurePosixPath(name).name
    bare = last.removesuffix(".gz")
    return not last.startswith(".") and (bare.endswith(SUFFIXES) or bare in SEQUENCES)


def _holds_rows(name: str) -> bool:
    return name.removesuffix(".gz").endswith(ROWS)


def _of_folder(path: Path, locales: Sequence[str] | None) -> list[File]:
    chosen, names = path, list[str]()
    for folder in (path / "1.1" / "data", path / "data", path):
        names = sorted(f.name for f in folder.glob("*") if _may_hold_data(f.name) and f.is_file())
        if names:
            chosen = folder
            break
    if not any(map(_holds_rows, names)):
        found = (f for f in chosen.rglob("*") if f.is_file() and _may_hold_data(f.name))
        names = sorted(str(PurePosixPath(f.relative_to(chosen))) for f in found)
    if not names:
        raise DatasetError(f"{path}: holds no data; allowed: *{', *'.join(SUFFIXES)} in it, data/ or 1.1/data/")
    if len(names) > MAX_FILES:
        raise DatasetError(f"{path}: holds {len(names)} files that may be data; allowed: at most {MAX_FILES}")
    siblings: dict[str, File] = {}
    for name in names:
        siblings[name] = File(name, str(chosen / name), (chosen / name).read_bytes, siblings)
    files = list(siblings.values())
    named = [f for f in files if f.name.split(".")[0] in (locales or ())]
    # where files are named by locale, those of other locales are not read
    return named if named and len(named) == len(set(locales or ())) else files


def _of_tar(path: Path, archive: tarfile.TarFile, locales: Sequence[str] | None) -> list[File]:
    siblings: dict[str, File] = {}
    for member in archive:
        if member.isfile() and _may_hold_data(member.name):

            def load(member: tarfile.TarInfo = member) -> bytes:
                stream = archive.extractfile(member)
                return _all_of(stream) if stream else b""

            siblings[member.name] = File(member.name, f"{path}!{member.name}", load, siblings)
    return _of_archive(path, siblings, locales)


def _all_of(stream: IO[bytes]) -> bytes:
    with stream:
        return stream.read()


def _of_zip(path: Path, archive: zipfile.ZipFile, locales: Sequence[str] | None) -> list[File]:
    siblings: dict[str, File] = {}
    for name in sorted(archive.namelist()):
        if _may_hold_data(name) and not name.startswith("__MACOSX/"):

            def load(name: str = name) -> bytes:
                return archive.read(name)

            siblings[name] = File(name, f"{path}!{name}", load, siblings)
    return _of_archive(path, siblings, locales)


def _of_archive(path: Path, siblings: dict[str, File], locales: Sequence[str] | None) -> list[File]:
    if not siblings:
        raise DatasetError(f"{path}: the archive holds no {' or '.join(SUFFIXES)}")
    files = list(siblings.values())
    rows = [file for file in files if _holds_rows(file.name)]
    files = rows or files
    if locales is None or len(files) == 1:
        return files
    return [file for file in files if not _is_of_another_locale(file.name, locales)]


def _is_of_another_locale(name: str, locales: Sequence[str]) -> bool:
    stem = PurePosixPath(name).name.split(".")[0]
    return stem not in locales and "-" in stem and normalised(stem) == stem
