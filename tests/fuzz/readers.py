"""Readers of files, each called with a damaged file in a separate process.

Each returns where it works with the right content, and raises a UserError that names the file
where it does not; an AssertionError is a finding.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fuzz.damage import Edit, Swap, damaged
from tests.support.celeba_stand_in import make
from tests.support.data_sets import save_noise
from tests.support.fake_sweeps import make_sweep
from tests.support.train_command import TINY, call_train
from vae.data import open_data, verify
from vae.data.base import SPLITS
from vae.data.images import decode_square
from vae.data.partial_cache import partial_folder
from vae.generation.export import export_model, load_safetensors
from vae.runs.checkpoint import load_checkpoint, load_resume_state, save_checkpoint
from vae.runs.compose import compose, run_config
from vae.runs.config import RunConfig
from vae.runs.launch import prepare_run
from vae.runs.load import load_run
from vae.runs.overrides import expand_resume
from vae.runs.tracking import truncate_metrics
from vae.utils.errors import UserError

IMAGES = ("jpg", "png", "webp", "gif", "bmp", "tif", "pgm", "ppm")


def make_files(folder: Path) -> Path:
    """Make intact copies of all files in `whole/`, below the current folder."""
    whole = folder / "whole"
    for kind in IMAGES:
        save_noise(whole / "pictures" / f"picture.{kind}")
    for layout in ("official", "kaggle", "zip", "parquet"):
        make(whole / layout, layout, 12)
    make_sweep(whole / "sweep", [{"loss.beta": beta} for beta in (1e-5, 1e-4, 1e-3)])
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        capsys = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
        arguments = [*TINY, "trainer.max_steps=6", "hydra.run.dir=whole/run"]
        assert call_train(arguments, folder, patch, capsys)[0] == 0
    shutil.move(folder / "data", whole / "data")
    export_model(load_run(whole / "run"), "safetensors", whole / "run")
    (whole / "run" / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {folder}}}}}\n")
    return folder


def _copy(folder: Path, name: str) -> Path:
    """A new copy of something whole."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "whole" / name, copy / name)
    return copy / name


def _damage(file: Path, done: list[Edit]) -> bool:
    """Damage a file; return whether it changed."""
    before = file.read_bytes()
    file.write_bytes(damaged(before, done))
    return file.read_bytes() != before


def picture(folder: Path, kind: str, done: list[Edit]) -> None:
    """An image: of the right shape; what it shows, most formats cannot tell."""
    name = f"picture.{kind}"
    content = damaged((folder / "whole" / "pictures" / name).read_bytes(), done)
    try:
        found = decode_square(content, name, 16)
    except UserError as error:
        assert name in str(error), error
        raise
    assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)


def celeba(folder: Path, layout: str, name: str, done: list[Edit]) -> None:
    """CelebA: as many images as the lists say, those of an archive with a checksum the same."""
    path = _copy(folder, layout)
    (file,) = path.rglob(name)
    _damage(file, done)
    found = _opened(["data=celeba", f"data.path={path}", "data.root=copy"], name, "data.path")
    sizes = {split: len(found.images[split]) for split in SPLITS}
    for kind in found.label_names():
        for split in SPLITS:
            assert len(found._labels(split, kind).values) == sizes[split]
    if name.endswith(".zip"):
        root = f"data.root={folder / 'whole' / 'packed'}"
        right = _opened(["data=celeba", f"data.path={folder / 'whole' / layout}", root], "")
        for split in SPLITS:
            assert np.array_equal(found.images[split], right.images[split])


def _opened(overrides: list[str], *names: str) -> Any:
    overrides = [*overrides, "data.image_size=16", "data.batch_size=2", "data.num_workers=1"]
    try:
        return open_data(compose(["model.channels=[4]", *overrides]).data)
    except UserError as error:
        assert any(name in str(error) for name in names), error
        raise


def cache(folder: Path, name: str, done: list[Edit]) -> None:
    """A packed cache: `--verify` says what is other; opened, it is packed again as it was."""
    _copy(folder, "data")
    (file,) = (folder / "copy" / "data" / "cache").rglob(name)
    config = _run_config(folder, "copy/data").data
    changed = _damage(file, done)
    try:
        verify(config.source(), config)
        if name.endswith(".npy"):
            assert not changed
    except UserError as error:
        assert name in str(error), error
    _require_same(open_data(config), folder)


def partial(folder: Path, name: str, done: list[Edit]) -> None:
    """An interrupted packing: it is resumed, and the cache has the same images."""
    data = _copy(folder, "data")
    (there,) = (path for path in (data / "cache").iterdir() if path.is_dir())
    config = _run_config(folder, "copy/data").data
    cut = partial_folder(there)
    there.rename(cut)
    (cut / "done").mkdir()
    for split, stop in (("train", 64), ("val", 8)):
        checksum = zlib.crc32(np.load(cut / f"{split}.npy")[:stop].tobytes())
        (cut / "done" / f"{split}-0-{checksum:08x}").touch()
    _damage(cut / name, done)
    _require_same(open_data(config), folder)


def _require_same(found: Any, folder: Path) -> None:
    right = open_data(_run_config(folder, "whole/data").data)
    for split in SPLITS:
        assert np.array_equal(found.images[split], right.images[split]), split
        for kind in right.label_names():
            ours, theirs = (packed._labels(split, kind) for packed in (found, right))
            assert np.array_equal(ours.values, theirs.values), kind
            assert ours.names == theirs.names, kind


def _run_config(folder: Path, root: str) -> RunConfig:
    settings = load_checkpoint(folder / "whole" / "run" / "checkpoints" / "last.pt")["config"]
    settings["data"]["root"] = str(folder / root)
    return run_config(settings)


def checkpoint(folder: Path, name: str, done: list[Edit]) -> None:
    """A checkpoint: no other weights than were saved; of the last, the one before is taken."""
    run = _copy(folder, "run")
    changed = _damage(run / "checkpoints" / f"{name}.pt", done)
    if name == "last":
        state = load_resume_state(_config(folder), run)
        assert state is not None
        assert state["step"] == (4 if changed else 6)
    try:
        found = load_run(run, name)
    except UserError as error:
        assert f"{name}.pt" in str(error), error
        raise
    assert name == "last" or not changed
    _require_weights(found.model, folder, "previous" if changed else name)


def _config(folder: Path) -> RunConfig:
    settings = load_checkpoint(folder / "whole" / "run" / "checkpoints" / "last.pt")["config"]
    return run_config({**settings, "resume": "copy/run"})


def _require_weights(model: Any, folder: Path, name: str) -> None:
    path = folder / "whole" / "run" / "checkpoints" / f"{name}.pt"
    for key, weight in load_checkpoint(path)["model"].items():
        assert torch.equal(model.state_dict()[key], weight), key


def _put_together(folder: Path, done: list[Swap]) -> Path:
    """A run whose last checkpoint has other values here and there, sealed as it should be."""
    run = _copy(folder, "run")
    path = run / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    for swap in done:
        state = swap(state)
    state.pop("format", None)
    save_checkpoint(path, state)
    return run


def stranger(folder: Path, done: list[Swap]) -> None:
    """A whole checkpoint with other things in it: it is refused, or it is a model."""
    run = _put_together(folder, done)
    try:
        found = load_run(run)
    except UserError as error:
        assert "last.pt" in str(error), error
        raise
    with torch.inference_mode():
        found.model.decode(torch.zeros(2, found.config.model.latent_dim))


def stranger_resumed(folder: Path, done: list[Swap]) -> None:
    """The same, and the run goes on from it."""
    run = _put_together(folder, done)
    config = _config(folder)
    config.data.root = str(folder / "whole" / "data")
    config.trainer.max_steps = 7
    metrics = prepare_run(config, run).train()
    assert all(map(math.isfinite, metrics.values()))


def metrics(folder: Path, done: list[Edit]) -> None:
    """metrics.jsonl: cut at a step, what was whole of it is kept."""
    run = _copy(folder, "run")
    file = run / "metrics.jsonl"
    whole = file.read_text().splitlines()
    _damage(file, done)
    torn = set(file.read_text(errors="replace").split("\n"))
    truncate_metrics(file, 4)
    kept = file.read_text(encoding="utf-8").splitlines()
    expected = [line for line in whole if json.loads(line)["step"] <= 4 and line in torn]
    found = dict.fromkeys(line for line in kept if line in whole)  # some may have been doubled
    assert list(found) == expected
    assert all(json.loads(line)["step"] <= 4 for line in kept)


def sweep(folder: Path, name: str, done: list[Edit], pictures: bool = False) -> None:
    """A sweep with a damaged file: it is compared, the other runs as they are."""
    from vae.sweeps.comparison import read_sweep, rows
    from vae.sweeps.report import overview, report_markdown, write_report
    from vae.utils.tables import write_csv

    whole = {row["run"]: row for row in rows(read_sweep(folder / "whole" / "sweep"))}
    copy = _copy(folder, "sweep")
    (copy / "loss.beta=0.0001" / "metrics.json").write_text("{}")
    file = next(path for path in copy.rglob(name) if path.parent == copy or "0.0001" in str(path))
    _damage(file, done)
    comparison = write_report(copy) if pictures else read_sweep(copy)
    write_csv(rows(comparison), copy / "comparison.csv")
    overview(comparison)
    report_markdown(comparison, copy)
    json.dumps(rows(comparison), allow_nan=False)
    for row in rows(comparison):
        if row["run"] != "loss.beta=0.0001":
            same = {key: value for key, value in row.items() if key in ("status", "val/bpd")}
            assert same.items() <= whole[row["run"]].items()


def hydra(folder: Path, name: str, done: list[Edit]) -> None:
    """What Hydra noted of a run: it is resumed by its overrides, opened with its data, or not."""
    run = _copy(folder, "run")
    _damage(run / ".hydra" / name, done)
    config = load_run(run).config
    assert config.model.latent_dim == 4
    try:
        arguments = expand_resume([f"resume={run}", "trainer.epochs=3"])
        assert arguments[-3].startswith("trainer.epochs"), arguments
    except UserError as error:
        assert name in str(error), error
    load_run(run, overrides=[f"data.root={folder / 'whole' / 'data'}"]).data.images["val"]
    shutil.copytree(folder / "whole" / "data", folder / "data", dirs_exist_ok=True)
    load_run(run).data.images["val"]


def safetensors(folder: Path, done: list[Edit]) -> None:
    """An exported model: it has no checksum, so a number may be another, but it is a model."""
    run = _copy(folder, "run")
    _damage(run / "model.safetensors", done)
    try:
        model = load_safetensors(run / "model.safetensors")
    except UserError as error:
        assert "model.safetensors" in str(error), error
        raise
    with torch.inference_mode():
        model.decode(torch.zeros(2, model.latent_dim))


def summary(folder: Path, name: str, done: list[Edit]) -> None:
    """summary.json and metrics.json of a run: read, or taken for none, and written anew."""
    from vae.evaluation.evaluate import Report
    from vae.runs.load import write_metrics
    from vae.runs.run_dir import read_summary, record_failure

    run = _copy(folder, "run")
    found = load_run(run)
    report = Report("val", 0, {"val/x": {"value": 1.0}}, [0.1])
    write_metrics(found, report, run / "metrics.json")
    _damage(run / name, done)
    read_summary(run)
    record_failure(run, "because")
    write_metrics(found, report, run / "metrics.json")
    assert read_summary(run)["error"] == "because"
