"""Damage of files: truncation, flipped bits, lost, doubled or foreign parts."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.utils.files import verify_checksum, with_checksum

# Where a text is damaged by hand, or by another program: values that were others before.
TOKENS = """null NaN Infinity -1 0 1.5 1e999 -1e999 true [] {} "" "x" [1] {"a":1} [[[ { " ' : - , !!int
!!python/object/apply:os.getcwd ${nowhere} ${oc.env:HOME} ${ ??? %s &a *a 2026-11-23 ~ <<
val/bpd 0x1 1_0 é 😀""".split()
LONG = ["9" * 5000, "[" * 100_000, "{" * 100_000, "x" * 70]
TOKENS += [" ", "\n", "\t", "\0", "\r", "\u2028", *LONG]
BYTES = [*(token.encode() for token in TOKENS), b"\xff", b"\xff\xd9", b"\x80abc", b"\0" * 4096]
KINDS = ("cut", "flip", "flip", "insert", "remove", "zeros", "double", "swap")


class Edit(NamedTuple):
    """One edit of a file."""

    kind: str
    place: int  # modulo the file's length; negative: from its end
    count: int
    payload: bytes

    def __call__(self, file: Path) -> None:
        file.write_bytes(self.of(file.read_bytes()))

    def of(self, content: bytes) -> bytes:
        """Return a content after the edit."""
        place = self.place % (len(content) + 1)
        before, there, after = content[:place], content[place:][: self.count], content[place:]
        rest = after[self.count :]
        if self.kind == "flip" and after:
            after = bytes([after[0] ^ (1 << self.count % 8)]) + after[1:]
        edited = {
            "cut": b"",
            "flip": after,
            "insert": self.payload + after,
            "remove": rest,
            "zeros": bytes(len(there)) + rest,  # what a file system leaves after a loss of power
            "double": there + after,
            # the next word or number
            "swap": re.sub(rb"[\w.+/-]+", lambda _: self.payload, after, count=1),
        }
        return before + edited[self.kind]


def edits() -> st.SearchStrategy[list[Edit]]:
    """A strategy of a few edits, biased to the first and last bytes of a file."""
    place = st.integers(0, 1 << 22) | st.integers(0, 64) | st.integers(-64, -1)
    payload = st.sampled_from(BYTES) | st.binary(min_size=1, max_size=8)
    count = st.integers(1, 64) | st.integers(1, 1 << 16)
    edit = st.builds(Edit, st.sampled_from(KINDS), place, count, payload)
    return st.lists(edit, min_size=1, max_size=3)


# What somebody may put into a checkpoint by hand, as Python writes it; or nothing.
JUNK = """removed None True -1 0 1 2**31 2**63 10**30 1.5 float('nan') float('inf') '' 'x' '\\0' '../x'
b'x' [] [1] ['x'] {} {'name':'conv'} {1:2} () (1,2) [[4]] torch.empty(0) torch.full((3,),float('nan'))
torch.tensor(1.0) torch.ones(2,2,dtype=torch.float64) torch.ones(2,dtype=torch.complex64)
torch.eye(3).to_sparse() torch.empty(4,device='meta')""".split()


def put(
    inside: Any, path: Sequence[int | str], junk: str, convert: Callable[[Any], Any] = lambda x: x
) -> None:
    """Remove or replace the value at a path: keys, or numbers of values, modulo how many."""
    for depth, number in enumerate(path, start=1):
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key = keys[number % len(keys)] if isinstance(number, int) else number
        deeper: Any = inside[key]
        if depth == len(path) or not isinstance(deeper, (dict, list)) or not deeper:
            break
        inside = deeper
    if junk == "removed":
        del inside[key]
    else:
        inside[key] = convert(eval(junk, {"torch": torch}))


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, skipkeys=True))


# What somebody may put into an array or the text beside it, as Python writes it.
ARRAYS = """v[:0] v[:1] v[:,:1] v[::-1] v.T v[0] v*0 v+7 v.astype('f4') v.astype('f8') v.astype('O')
v.astype('U3') v.astype('c8') v.astype('>i2') v*np.nan v/0. v*2 np.array(3) np.asfortranarray(v)
np.repeat(v,3,0) np.repeat(v,2,-1) v[None] v.view('V1') v.astype('M8[s]') v.reshape(-1)
v.astype(bool)""".split()


class Forge(NamedTuple):
    """A value of a checkpoint, cache, directions or flow is replaced; checksums are as they should be."""

    path: list[int | str]  # keys of nested dicts, or numbers of their values, modulo how many
    junk: str  # of JUNK, for a checkpoint, index.json and the text in an .npz
    array: str = "v"  # of ARRAYS

    def __call__(self, file: Path) -> None:
        kinds = {".pt": self._checkpoint, ".npz": self._arrays, ".npy": self._array}
        with np.errstate(all="ignore"):
            kinds.get(file.suffix, self._index)(file)

    def _checkpoint(self, file: Path) -> None:
        state = load_checkpoint(file)
        put(state, self.path, self.junk)
        state.pop("format", None)
        save_checkpoint(file, state)

    def _index(self, file: Path) -> None:
        index = verify_checksum(file.read_text())
        put(index, self.path, self.junk, as_json)
        file.write_text(with_checksum(index))

    def _arrays(self, file: Path) -> None:
        with np.load(file, allow_pickle=True) as stored:  # an earlier forgery's objects
            arrays = dict(stored)
        about = json.loads(str(arrays.pop("about")))
        if self.path[0] % 2:
            put(about, self.path, self.junk, as_json)
        else:
            name = list(arrays)[self.path[0] // 2 % len(arrays)]
            arrays[name] = self._other(arrays[name])
        with file.open("wb") as opened:
            np.savez(opened, about=np.array(json.dumps(about)), **arrays)

    def _array(self, file: Path) -> None:
        np.save(file, self._other(np.load(file, allow_pickle=True)))
        index = verify_checksum((file.parent / "index.json").read_text())
        content = file.read_bytes()
        index["files"][file.name] = [[len(content), zlib.crc32(content)]]
        (file.parent / "index.json").write_text(with_checksum(index))

    def _other(self, values: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(eval(self.array, {"np": np, "v": values}))
        except (TypeError, ValueError, IndexError):
            return np.zeros(1)


def forgeries() -> st.SearchStrategy[list[Forge]]:
    path = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
    forge = st.builds(Forge, path, st.sampled_from(JUNK), st.sampled_from(ARRAYS))
    return st.lists(forge, min_size=1, max_size=2)
