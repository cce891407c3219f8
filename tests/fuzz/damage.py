"""Damage of files: truncation, flipped bits, lost, doubled or foreign parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

from vae.runs.checkpoint import load_checkpoint, save_checkpoint

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
        content = file.read_bytes()
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
        file.write_bytes(before + edited[self.kind])


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


class Swap(NamedTuple):
    """A value anywhere in a checkpoint that is removed or replaced; the seal is as it should be."""

    path: list[int | str]  # keys of nested dicts, or numbers of their values, modulo how many
    junk: str  # of JUNK

    def __call__(self, file: Path) -> None:
        state = inside = load_checkpoint(file)
        for depth, number in enumerate(self.path, start=1):
            keys = list(inside) if isinstance(inside, dict) else range(len(inside))
            key = keys[number % len(keys)] if isinstance(number, int) else number
            deeper: Any = inside[key]
            if depth == len(self.path) or not isinstance(deeper, (dict, list)) or not deeper:
                break
            inside = deeper
        if self.junk == "removed":
            del inside[key]
        else:
            inside[key] = eval(self.junk, {"torch": torch})
        state.pop("format", None)
        save_checkpoint(file, state)


def swaps() -> st.SearchStrategy[list[Swap]]:
    path = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
    swap = st.builds(Swap, path, st.sampled_from(JUNK))
    return st.lists(swap, min_size=1, max_size=2)
