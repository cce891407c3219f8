"""Damage of files: truncation, flipped bits, lost, doubled or foreign parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

# Where a text is damaged by hand, or by another program: values that were others before.
TOKENS = """null NaN Infinity -1 0 1.5 1e999 -1e999 true [] {} "" "x" [1] {"a":1} [[[ { " ' : - , !!int
!!python/object/apply:os.getcwd ${nowhere} ${oc.env:HOME} ${ ??? %s &a *a 2026-11-23 ~ <<
val/bpd 0x1 1_0 é 😀""".split()
TOKENS += [
    " ",
    "\n",
    "\t",
    "\0",
    "\r",
    "\u2028",
    "9" * 5000,
    "[" * 100_000,
    "{" * 100_000,
    "x" * 70,
]
BYTES = [*(token.encode() for token in TOKENS), b"\xff", b"\xff\xd9", b"\x80abc", b"\0" * 4096]


class Edit(NamedTuple):
    """One edit of a file."""

    kind: str
    place: int  # modulo the file's length; negative: from its end
    count: int
    payload: bytes

    def __call__(self, content: bytes) -> bytes:
        place = self.place % (len(content) + 1)
        before, after = content[:place], content[place:]
        if self.kind == "cut":
            return before
        if self.kind == "flip" and after:
            return before + bytes([after[0] ^ (1 << self.count % 8)]) + after[1:]
        if self.kind == "insert":
            return before + self.payload + after
        if self.kind == "remove":
            return before + after[self.count :]
        if self.kind == "zeros":  # what a file system leaves after a loss of power
            return before + bytes(len(after[: self.count])) + after[self.count :]
        if self.kind == "double":
            return before + after[: self.count] + after
        if self.kind == "swap":  # the next word or number
            return before + re.sub(rb"[\w.+/-]+", lambda _: self.payload, after, count=1)
        return content


KINDS = ("cut", "flip", "flip", "insert", "remove", "zeros", "double", "swap")


def edits(most: int = 3) -> st.SearchStrategy[list[Edit]]:
    """A strategy of a few edits, biased to the first and last bytes of a file."""
    place = st.integers(0, 1 << 22) | st.integers(0, 64) | st.integers(-64, -1)
    payload = st.sampled_from(BYTES) | st.binary(min_size=1, max_size=8)
    count = st.integers(1, 64) | st.integers(1, 1 << 16)
    edit = st.builds(Edit, st.sampled_from(KINDS), place, count, payload)
    return st.lists(edit, min_size=1, max_size=most)


def damaged(content: bytes, done: list[Edit]) -> bytes:
    for edit in done:
        content = edit(content)
    return content


# What somebody may put into a checkpoint by hand: of a name, so that it can be drawn and sent.
JUNK: dict[str, Any] = {
    repr(value): value
    for value in (
        *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", "x"),
        *("\0", "../x", b"x", [], [1], ["x"], {}, {"name": "conv"}, {1: 2}, (), (1, 2), [[4]]),
    )
}
JUNK |= {
    "an empty tensor": torch.empty(0),
    "nan": torch.full((3,), float("nan")),
    "a number": torch.tensor(1.0),
    "64 bits": torch.ones(2, 2, dtype=torch.float64),
    "complex": torch.ones(2, dtype=torch.complex64),
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.empty(4, device="meta"),
}


class Swap(NamedTuple):
    """A value, anywhere in a nested one, that is taken out or replaced."""

    place: int
    junk: str  # of JUNK, or "removed"

    def __call__(self, values: Any) -> Any:
        places = sorted(_places(values), key=str)
        return _replaced(values, places[self.place % len(places)], self.junk)


def swaps() -> st.SearchStrategy[list[Swap]]:
    swap = st.builds(Swap, st.integers(0, 1 << 20), st.sampled_from(["removed", *JUNK]))
    return st.lists(swap, min_size=1, max_size=2)


def _places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all that is in nested dicts and lists."""
    if isinstance(values, Mapping):
        inside = list(values.items())
    else:
        inside = list(enumerate(values)) if isinstance(values, (list, tuple)) else []
    here = [path] if path else []
    return here + [place for key, value in inside for place in _places(value, (*path, key))]


def _replaced(values: Any, path: tuple[Any, ...], junk: str) -> Any:
    key, *rest = path
    if isinstance(values, Mapping):
        new: Any = dict(values)
    else:
        new = list(values)
    if rest:
        new[key] = _replaced(new[key], tuple(rest), junk)
    elif junk == "removed":
        del new[key]
    else:
        new[key] = JUNK[junk]
    return tuple(new) if isinstance(values, tuple) else new
