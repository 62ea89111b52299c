"""safetensors files, read and written one tensor at a time: a model is never in memory as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cluster.errors import RunError, UserError
from cluster.places import sync_folder

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BLOCK = 1 << 24


class Entry(NamedTuple):
    """A tensor in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


class TensorFiles:
    """All tensors of some safetensors files, opened by name. UserError where a file is missing or damaged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import safetensors

        self.entries: dict[str, Entry] = {}
        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                file = safetensors.safe_open(path, framework="pt")
            except FileNotFoundError:
                raise UserError(f"{path}: missing") from None
            except (OSError, safetensors.SafetensorError) as error:
                raise UserError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                code = part.get_dtype()
                if name in self.entries:
                    raise UserError(f"{path}: has {name}, which stands in another file, too")
                # Whole numbers are no weights; they are looked at by name alone.
                self.entries[name] = Entry(name, tuple(part.get_shape()), DTYPES.get(code, torch.int64))
                self._files[name] = file

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def open_folder(folder: Path) -> TensorFiles:
    """The weights of a folder of Hugging Face's. UserError where they are not there as safetensors."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: damaged: {error}") from None
        if strange := [name for name in names if Path(name).name != name]:
            raise UserError(f"{index}: names files outside of the folder: {sorted(strange)[0]}")
        return TensorFiles([folder / name for name in sorted(names)])
    if (folder / ONE_FILE).is_file():
        return TensorFiles([folder / ONE_FILE])
    pickled = [
        path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
    ]
    if pickled:
        raise UserError(
            f"{folder}: only {', '.join(pickled[:3])}, and a pickle runs code when it is read: with the "
            "transformers library, `AutoModel....from_pretrained(FOLDER).save_pretrained(FOLDER, "
            "safe_serialization=True)` writes the safetensors that are read here"
        )
    raise UserError(f"{folder}: no weights here ({ONE_FILE} or {INDEX} with its files)")


def write_file(path: Path, entries: Sequence[Entry], read: Callable[[str], Tensor]) -> str:
    """Write the tensors that `read` gives for their names; returns the SHA-256 of the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": _CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": [at, at + entry.size]
        }  # fmt: skip
        at += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        put(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            tensor = read(entry.name)
            if tuple(tensor.shape) != entry.shape:
                raise RunError(f"{entry.name}: is {list(tensor.shape)}, should be {list(entry.shape)}")
            flat = tensor.to(entry.dtype).contiguous().flatten()
            put(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_shards(
    folder: Path, entries: Sequence[Entry], read: Callable[[str], Tensor], shard_size: int
) -> list[str]:
    """Write model.safetensors, or as many files as `shard_size` bytes ask for with their index."""
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(other.size for other in shards[-1]) + entry.size > shard_size:
            shards.append([])
        shards[-1].append(entry)
    count = len(shards)
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    names = [ONE_FILE] if count == 1 else names
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, read)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(entry.size for entry in entries)},
            "weight_map": {entry.name: name for name, shard in zip(names, shards) for entry in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return names
