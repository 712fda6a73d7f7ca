"""Weight files as NumPy arrays: .safetensors, .npz, and PyTorch's .pth without PyTorch.

A PyTorch file is a pickle beside raw storages, and a pickle is a program. `torch.load(weights_only=True)` runs it
safely, but needs PyTorch, 200 MB and more for whoever only wants to start from a file, and its safety is that of the
installed version (CVE-2025-32434 was a hole in it). What a state dict needs of it is so little that the machine in
`segjax.convert.pickles` runs just that. Arrays are read-only views of the file's bytes, each checked to lie within its
storage, so none is allocated; those of a compressed .npz file are, and may be MAX_RATIO times as large as the file.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from segjax.convert.pickles import Machine, Tensor

PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which checkpoints keep the state dict beside other things."""

MAX_RATIO = 16
"""How much larger than an .npz file its arrays may be; trained weights compress hardly at all."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of `read_weights`."""
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of a weight file by name, and a sentence for each thing that was taken off around them.

    Checkpoints with more than the weights keep them under one of CONTAINERS; DataParallel puts `module.` before
    each name. Entries of a state dict that are no arrays (`_extra_state`) are left out. Arrays may be read-only views
    of one buffer; bfloat16 is that of ml_dtypes.

    Raises:
      FileNotFoundError; ValueError: not such a file, damaged, or with anything in it but tensors, numbers and text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights must be a file or a workdir of segjax; {path} is neither")
    if path.suffix not in (".safetensors", ".npz", *PYTORCH_SUFFIXES):
        suffixes = ", ".join((".safetensors", ".npz", *PYTORCH_SUFFIXES))
        raise ValueError(f"a weight file's name must end in one of {suffixes}; received {path.name}")
    try:
        if path.suffix == ".safetensors":
            content, array = load_file(path), _as_it_is
        elif path.suffix == ".npz":
            content, array = _read_npz(path.read_bytes()), _as_it_is
        else:
            data = path.read_bytes()
            content, array = _read_zip(data) if data[:4] == b"PK\x03\x04" else _read_legacy(data)
        content, notes = _unwrapped(content)
        return {key: array(value) for key, value in content.items()}, notes
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    # A damaged file can break anywhere in the parsers, and which exception that gives says nothing.
    except Exception as error:
        raise ValueError(f"{path} can't be read: it is damaged ({type(error).__name__}: {error})") from error


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def _unwrapped(content: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(arrays or tensors by name, sentences about what was taken off)."""
    notes = []
    for _ in range(2):
        inner = [name for name in CONTAINERS if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
        if inner:
            notes.append(f"the weights are those under {inner[0]!r}; {len(content) - 1} other entries are not used")
            content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise ValueError(f"it must hold arrays by name; it holds a {type(content).__name__.strip('_').lower()}")
    arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray | Tensor)}
    if not arrays:
        raise ValueError(
            f"it must hold arrays by name; it holds {', '.join(ascii(key)[:40] for key in [*content][:10])}"
        )
    for key in arrays:
        if not isinstance(key, str) or not key.isprintable():
            raise ValueError(f"the names of arrays must be printable text; received {ascii(key)[:80]}")
    if len(content) > len(arrays):
        notes.append(f"{len(content) - len(arrays)} entries are no arrays and are not used")
    if all(key.startswith("module.") for key in arrays):
        arrays = {key.removeprefix("module."): array for key, array in arrays.items()}
        notes.append("the prefix 'module.' of each name is taken off")
    return arrays, tuple(notes)


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > MAX_RATIO * len(data):
            raise ValueError(
                f"its arrays must be at most {MAX_RATIO} times as large as the file; they are {total} bytes"
            )
        for entry in entries:
            with archive.open(entry) as file:
                # Not more than is announced, however much the compressed stream holds.
                content = io.BytesIO(file.read(entry.file_size))
            version = np.lib.format.read_magic(content)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in header:
                raise ValueError(f"{entry.filename} must be of .npy version 1 or 2; received {version}")
            shape, fortran, dtype = header[version](content)
            if dtype.kind not in "fiubc":
                raise ValueError(f"{entry.filename} must hold numbers; it holds {dtype}, which is not read")
            array = np.ndarray(shape, dtype, content.getvalue(), content.tell(), order="F" if fortran else "C")
            arrays[entry.filename.removesuffix(".npy")] = array
    return arrays


def _read_zip(data: bytes) -> tuple[Any, Callable[[Tensor], np.ndarray]]:
    """The format of `torch.save` since 1.6: an uncompressed zip of NAME/data.pkl and NAME/data/0, /1, ..."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise ValueError("each name in its archive must be there once")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("it must be a PyTorch file, a zip archive with one data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and bytes(_stored(data, entries[f"{folder}byteorder"])) != b"little":
        raise ValueError("its storages must be little-endian")
    content = Machine().run(io.BytesIO(_stored(data, entries[pickles[0]])))
    buffers: dict[str, memoryview] = {}

    def buffer(key: str) -> memoryview:
        if key not in buffers:
            name = f"{folder}data/{key}"
            if name not in entries:
                raise ValueError(f"its archive must have {name[:80]!r}")
            buffers[key] = _stored(data, entries[name])
        return buffers[key]

    return content, lambda tensor: _array(tensor, buffer(tensor.storage.key))


def _stored(data: bytes, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of an entry, in place."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise ValueError(f"{entry.filename[:80]!r} must be stored as it is, as torch.save does; it is compressed")
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    view = memoryview(data)[start : start + entry.file_size]
    if len(view) != entry.file_size or zlib.crc32(view) != entry.CRC:
        raise ValueError(f"{entry.filename[:80]!r} in it is damaged")
    return view


def _read_legacy(data: bytes) -> tuple[Any, Callable[[Tensor], np.ndarray]]:
    """The format before that: pickles of a magic number, version, machine, content, storage keys; then storages."""
    file = io.BytesIO(data)
    if data[:1] != b"\x80" or Machine().run(file) != LEGACY_MAGIC:
        raise ValueError("it is not a file of torch.save")
    if Machine().run(file) != LEGACY_PROTOCOL:
        raise ValueError(f"its version must be {LEGACY_PROTOCOL}")
    if Machine().run(file).get("little_endian") is not True:
        raise ValueError("its storages must be little-endian")
    machine = Machine()
    content = machine.run(file)
    keys = Machine().run(file)
    buffers = {}
    for key in keys:
        if key not in machine.storages:
            raise ValueError("its list of storages must be that of its tensors")
        (count,) = struct.unpack_from("<q", data, file.tell())
        storage, start = machine.storages[key], file.tell() + 8
        end = start + storage.count * storage.dtype.itemsize
        if count != storage.count or end > len(data):
            raise ValueError(f"storage {key[:40]!r} must have {storage.count} values; the file is cut or damaged")
        buffers[key] = memoryview(data)[start:end]
        file.seek(end)
    return content, lambda tensor: _array(tensor, buffers[tensor.storage.key])


def _array(tensor: Tensor, buffer: memoryview) -> np.ndarray:
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    sized = type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 32
    if not sized or not all(type(n) is int and 0 <= n < 2**62 for n in (storage.count, offset, *shape, *strides)):
        raise ValueError("a tensor's offset, sizes and strides must be whole numbers of 0 or more, one stride a size")
    if storage.count * size > len(buffer):
        raise ValueError(f"a storage of {storage.count} {storage.dtype.name} is larger than its {len(buffer)} bytes")
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count, last = count * length, last + max(length - 1, 0) * stride
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(
            f"a tensor must lie within its storage and be no larger; received sizes {shape}, strides {strides},"
            f" offset {offset} in {storage.count} values"
        )
    if not count:
        return np.zeros(shape, storage.dtype)
    # NumPy checks the bounds once more.
    return np.ndarray(shape, storage.dtype, buffer.toreadonly(), offset * size, [stride * size for stride in strides])
