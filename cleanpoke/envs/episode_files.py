"""Episodes in `.npz` files, one in each: what those of all worlds have in common. No pickle anywhere.

`meta`, JSON text in the file, says how an episode came about. Some of its entries are settings: episodes of
one folder must agree in them.
"""

import contextlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from cleanpoke.errors import DISK_FULL, CleanPokeError
from cleanpoke.run import atomic_file


def write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes these arrays, complete or not at all. Raises CleanPokeError if the disk refuses it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez_compressed(file, **columns)
    except OSError as error:
        problem = "the disk is full" if error.errno in DISK_FULL else error.strerror
        raise CleanPokeError(f"cannot write {path}: {problem}; nothing else was lost") from error


def read_npz(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file, all or `only` these, as far as they are no pickles. Raises CleanPokeError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {}
            for name in file.files if only is None else sorted(set(only) & set(file.files)):
                # Lists of dictionaries of other programs are pickled: not needed, and not to be trusted.
                with contextlib.suppress(ValueError):
                    columns[name] = file[name]
                if name not in columns and name == "infos":
                    columns[name] = np.array("[]")
            return columns
    except OSError as error:
        raise CleanPokeError(f"cannot read {path} ({error.strerror or error}): check the path") from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise CleanPokeError(f"{path} is damaged or no episode: delete it, or record it again") from error


def json_of(path: Path, columns: dict[str, np.ndarray], name: str, default: Any) -> Any:
    """What the JSON in a column says; `default` if there is no such text. Raises CleanPokeError."""
    if name not in columns or columns[name].dtype.kind != "U":
        return default
    try:
        return json.loads(str(columns[name]))
    except ValueError as error:
        raise CleanPokeError(f"{path}: {name} is no JSON; record it again") from error


def read_meta(path: Path) -> dict[str, Any]:
    """`meta` of a file, without reading the rest; {} if it has none. Raises CleanPokeError."""
    meta = json_of(path, read_npz(path, only=("meta",)), "meta", {})
    if not isinstance(meta, dict):
        raise CleanPokeError(f"{path}: meta is no dictionary; record it again")
    return meta


def episodes_in(folder: str | Path, collect: str = "tools/collect_expert_data.py") -> list[Path]:
    """The episodes of a folder, by name. Raises CleanPokeError if there are none.

    collect: the command that records some, for the message.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise CleanPokeError(
            f"{folder} holds no episodes (*.npz): record some with {collect} --output {folder}"
        )
    return files


def open_folder(folder: Path, settings: dict[str, Any]) -> list[Path]:
    """Makes a folder ready to record into; returns the episodes that are there.

    Raises CleanPokeError if it cannot be written, and if something there was recorded with other settings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CleanPokeError(
            f"cannot write into {folder} ({error.strerror}): choose another --output"
        ) from error
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.demo")]):
        check_settings(path, read_meta(path), settings)
    return sorted(folder.glob("*.npz"))


def check_settings(path: Path, meta: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises CleanPokeError if an episode was recorded with other settings than these."""
    for name in settings:
        if name in meta and meta[name] != settings[name]:
            raise CleanPokeError(
                f"{path} was recorded with {name} {meta[name]}, not {settings[name]}: keep such episodes in "
                "another folder"
            )
