"""The arrays of .npy and .npz files: read whole, or left on the disk until they are used."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_invert.errors import FileError

Array = NDArray[Any]

MAGIC = b"\x93NUMPY"
"""The first bytes of an .npy file."""

LARGE = 1 << 26
"""Bytes from which on a file is mapped, where it may be: 64 MB."""


def load(path: Path, *, scratch: Path | None = None) -> dict[str, Array]:
    """The arrays of an .npy (under the name "") or .npz file; objects are never unpickled.

    With a `scratch` folder large arrays are mapped, for data larger than memory: they stay in the file, or, where an
    .npz holds them compressed, are unpacked into that folder, which has to stay until they are used.

    Raises:
        FileError: no such file, not a numpy file, objects inside, no room to unpack it.
    """
    if not path.is_file():
        raise FileError(f"There is no file {str(path)!r}.")
    try:
        arrays = _whole(path) if scratch is None else _mapped(path, scratch)
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, BadZipFile …
        why = "it is no .npy or .npz file, or was cut short"
        if "Object arrays" in str(error):
            why = "it holds Python objects, which are not loaded"
        elif isinstance(error, OSError) and error.strerror is not None:
            why = f"{error.strerror}{f' at {error.filename}' if error.filename else ''}"
        raise FileError(f"{str(path)!r} cannot be read: {why}.") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a .zip of something else
            raise FileError(f"{str(path)!r} cannot be read: {name!r} in it is no array.")
    return arrays


def _whole(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": np.asarray(loaded)}


def _mapped(path: Path, scratch: Path) -> dict[str, Array]:
    # By its beginning, as numpy does: an .npy may end with the bytes of a zip's directory.
    if _begins(path, MAGIC):
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)} if path.stat().st_size >= LARGE else _whole(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) < LARGE:
            return _whole(path)
        return {member.filename.removesuffix(".npy"): _member(path, archive, member, scratch) for member in members}


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Path) -> Array:
    """One array: small ones read, stored ones mapped where they lie, compressed ones unpacked first."""
    with archive.open(member) as file:
        if not member.filename.endswith(".npy"):
            return file.read()  # type: ignore[return-value]  # as numpy returns it: no array
        if member.file_size < LARGE:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        if member.compress_type != zipfile.ZIP_STORED:
            target = scratch / f"{len(list(scratch.iterdir()))}.npy"
            with target.open("wb") as unpacked:
                shutil.copyfileobj(file, unpacked, 1 << 20)
            return np.asanyarray(np.load(target, mmap_mode="r", allow_pickle=False))
    with path.open("rb") as raw:
        raw.seek(_start(raw, member))
        version = np.lib.format.read_magic(raw)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, turned, dtype = read(raw)
        if dtype.hasobject:
            raise ValueError("Object arrays are not loaded")
        order = "F" if turned else "C"
        return np.memmap(path, dtype, mode="r", offset=raw.tell(), shape=shape, order=order)  # type: ignore[call-overload,no-any-return]


def _start(raw: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the member's bytes begin: behind its own header, a name and a field of sizes that it states."""
    raw.seek(member.header_offset + 26)
    name, extra = (int.from_bytes(raw.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra
