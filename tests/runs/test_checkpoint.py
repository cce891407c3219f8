"""Checkpoints: atomic, checked, and free of code; of the settings they are resumed with."""

import errno
import hashlib
import io
import os
import pickle
import random
import struct
import zipfile
from copy import deepcopy
from unittest import mock

import pytest
import torch

from tests.support.run_files import identical
from vae.models.base import build_shapes
from vae.runs.checkpoint import config_changes, load_checkpoint, save_checkpoint
from vae.runs.checkpoint_schema import checkpoint_schema
from vae.runs.compose import compose, run_config
from vae.training.optim import state_of_a_step
from vae.utils.errors import UserError
from vae.utils.files import MAX_WEIGHTS


def test_round_trip(tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "step": 7, "config": {"loss": {"beta": 1e-4}}}
    path = tmp_path / "a" / "last.pt"
    save_checkpoint(path, state)
    assert list(path.parent.iterdir()) == [path]
    plain = torch.load(path, weights_only=True)  # without this project
    for loaded in (load_checkpoint(path), plain):
        assert identical(loaded, {"format": 1, **state})


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def sealed(content):
    """The content of a forged checkpoint with a valid checksum."""
    return content + hashlib.blake2b(content, digest_size=32).digest()


def test_opening_an_untrusted_checkpoint_runs_no_code(tmp_path):
    proof = tmp_path / "it-ran"
    torch.save({"format": 1, "model": Bomb(proof)}, tmp_path / "plain.pt")
    evil = (tmp_path / "plain.pt").read_bytes()
    (tmp_path / "evil.pt").write_bytes(sealed(evil))
    (tmp_path / "raw.pt").write_bytes(sealed(pickle.dumps(Bomb(proof))))
    for name in ("plain.pt", "evil.pt", "raw.pt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not proof.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # it would have run
    assert proof.exists()


def archive(pickled, records=(), compression=zipfile.ZIP_STORED):
    """The content of torch's archive, with a pickle of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, content in {"data.pkl": pickled, "version": "3\n", **dict(records)}.items():
            opened.writestr(f"archive/{name}", content)
    return file.getvalue()


def overlapping(content):
    """An archive in which a hundred names stand for the bytes of one record."""
    start, end = content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")
    entry = content[start:end]
    entries = b"".join(entry.replace(b"data/0000", b"data/%04d" % n) for n in range(100))
    directory = content.index(b"PK\1\2")
    head, tail = content[directory:start], bytearray(content[end:])
    count, size = 2 + 100, len(head) + len(entries)
    tail[8:16] = struct.pack("<HHI", count, count, size)
    return content[:start] + entries + bytes(tail)


def saved(value):
    """The content of a checkpoint with this value, as torch writes it."""
    file = io.BytesIO()
    torch.save({"format": 1, "a": value}, file)
    return file.getvalue()


MAPPING = b"\x80\x02}(X\x06\0\0\0formatK\x01X\x01\0\0\0a%su."  # {"format": 1, "a": ...}
ONE = MAPPING % b"K\x01"
CALL = MAPPING % b"cbuiltins\nbytearray\nK\x09\x85R"
TEXT = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
RECORD = {"data/0000": bytes(100_000)}
BOMBS = {
    "a call": archive(CALL),
    "in Python 2's name": archive(CALL.replace(b"builtins", b"__builtin__")),
    "a tensor without data": archive(MAPPING % b"ctorch\nTensor\nK\x09\x85R"),
    "a compressed record": archive(ONE, RECORD, zipfile.ZIP_DEFLATED),
    "a compressed pickle": archive(MAPPING % TEXT, (), zipfile.ZIP_DEFLATED),
    "records of bzip2": archive(
        ONE, {"data/0000": random.Random(0).randbytes(9000)}, zipfile.ZIP_BZIP2
    ),
    "records that overlap": overlapping(archive(ONE, RECORD)),
    "a pickle of another name": archive(ONE, {"DATA.PKL": CALL}),
    "a sparse tensor": saved(torch.zeros(2).to_sparse()),
    "a tensor on no device": saved(torch.empty(2, device="meta")),
    "no archive": pickle.dumps({"format": 1}),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_small_file_cannot_fill_the_memory(content, tmp_path):
    """Torch itself loads all but bzip2, which has no limit in zipfile, and the last."""
    path = tmp_path / "last.pt"
    path.write_bytes(sealed(archive(ONE)))
    assert load_checkpoint(path) == {"format": 1, "a": 1}
    if content not in (BOMBS["records of bzip2"], BOMBS["no archive"]):
        torch.load(io.BytesIO(content), weights_only=True)
    path.write_bytes(sealed(content))
    with pytest.raises(UserError, match=r"last\.pt: this is no checkpoint of tensors"):
        load_checkpoint(path)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "last.pt"
    path.touch()
    os.truncate(path, MAX_WEIGHTS + 1)
    size = f"{MAX_WEIGHTS / 1e6:,.0f}"
    with pytest.raises(UserError, match=rf"last\.pt: cannot be read \(too large: {size} MB of"):
        load_checkpoint(path)


def test_damage_is_detected_anywhere(tmp_path):
    """Torch itself reads other weights from many a file with a flipped bit."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.randn(50, 20)}, "step": 7})
    whole = path.read_bytes()
    for at in range(0, len(whole), 13):
        flipped = bytes([whole[at] ^ 1 << at % 8])
        for damaged in (whole[:at], whole[:at] + flipped + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=r"last\.pt: not a valid checkpoint"):
                load_checkpoint(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError, match=f"{path}: there is no such checkpoint"):
            load_checkpoint(path)
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, other)
    other.write_bytes(sealed(other.read_bytes()))
    with pytest.raises(UserError, match=r"other\.pt: .* of format None"):
        load_checkpoint(other)


def test_the_previous_checkpoint_is_kept(tmp_path):
    path, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        save_checkpoint(path, {"step": step}, "previous.pt")
    assert [load_checkpoint(file)["step"] for file in (path, previous)] == [2, 1]
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("os.fsync", side_effect=full), pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 3}, "previous.pt")
    with pytest.raises(Exception, match=r"(?i)pickle|local object"):
        save_checkpoint(path, {"step": 3, "bad": lambda: None}, "previous.pt")
    assert [load_checkpoint(file)["step"] for file in (path, previous)] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def settings(*overrides):
    return compose(list(overrides)).as_dict()


def test_changed_keys_are_named():
    before = settings()
    elsewhere = settings("wandb.mode=offline", "trainer.epochs=9", "data.root=elsewhere")
    assert config_changes(before, elsewhere) == []
    assert config_changes(before, settings("seed=5", "model=residual", "loss/schedule=warmup")) == [
        ("seed", 0, 5),
        ("model.name", "conv", "residual"),
        ("model.norm", "batch", "group"),
        ("model.activation", "leaky_relu", "silu"),
        ("loss.schedule.name", "constant", "warmup"),
    ]


def test_missing_keys_have_their_defaults():
    now = settings()
    older = deepcopy(now)
    del older["loss"]["schedule"], older["loss"]["regularizer"], older["model"]["norm"]
    assert run_config(older).as_dict() == now


def test_a_parameter_without_a_gradient_has_no_moments():
    config = compose(["data.image_size=16", "model.channels=[4]", "model.latent_dim=2"])
    shapes = [weight.shape for weight in build_shapes(config.model, 16).parameters()]
    moments = state_of_a_step(config.optimizer, shapes)
    is_valid = checkpoint_schema(config)["optimizer"]
    assert all(is_valid({"state": state}) for state in (moments, {1: moments[1]}, {}))
    for state in ({0: moments[1]}, {len(shapes): moments[1]}, {1: {}}, None):
        assert not is_valid({"state": state})
