"""Readers of files, each called with a damaged file in a separate process.

Each returns where it works with the right content, and raises a UserError that names the file
where it does not; an AssertionError is a finding. The current folder has all files in `whole/`,
and in `copy/` copies of those in the file's folder.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.celeba_stand_in import make
from tests.support.data_sets import save_noise
from tests.support.fake_sweeps import make_sweep
from tests.support.train_command import TINY, call_train
from vae.data import open_data, verify
from vae.data.base import SPLITS
from vae.data.images import decode_square
from vae.data.partial_cache import partial_folder
from vae.evaluation.attributes import learn_directions
from vae.evaluation.directions import METHODS
from vae.evaluation.metrics_report import Report
from vae.evaluation.priors import Prior, fit_prior
from vae.generation.export import export_model, load_safetensors
from vae.runs.checkpoint import load_checkpoint, load_resume_state
from vae.runs.compose import compose, run_config
from vae.runs.config import RunConfig
from vae.runs.launch import prepare_run
from vae.runs.load import SavedRun, load_run, write_metrics
from vae.runs.overrides import expand_resume
from vae.runs.run_dir import read_summary, record_failure
from vae.runs.tracking import truncate_metrics
from vae.sweeps.comparison import read_sweep, rows
from vae.sweeps.report import overview, report_markdown
from vae.utils.errors import UserError
from vae.utils.tables import write_csv

IMAGES = ("jpg", "png", "webp", "gif", "bmp", "tif", "pgm", "ppm")
DAMAGED = "loss.beta=0.0001"  # the run of a sweep whose files are damaged
REPORT = Report("val", 0, {"val/x": {"value": 1.0}}, [0.1])


def make_files() -> None:
    """Make intact files of all kinds in `whole/`."""
    whole = Path.cwd() / "whole"
    for number in range(40):
        save_noise(whole / "pictures" / f"{number}.png", seed=number)
    for kind in IMAGES:
        save_noise(whole / "picture" / f"picture.{kind}")
    for layout in ("official", "kaggle", "zip", "parquet"):
        make(whole / layout, layout, 30)
    make_sweep(whole / "sweep", [{"loss.beta": beta} for beta in (1e-5, 1e-4, 1e-3)])
    (whole / "sweep" / DAMAGED / "metrics.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        capsys = SimpleNamespace(readouterr=lambda: SimpleNamespace(out="", err=""))
        arguments = [*TINY, "trainer.max_steps=6", "hydra.run.dir=whole/run"]
        assert call_train(arguments, Path.cwd(), patch, capsys)[0] == 0
    shutil.copytree("data", whole / "data")
    run = load_run(whole / "run")
    export_model(run, "safetensors", whole / "run")
    write_metrics(run, REPORT, whole / "run" / "metrics.json")
    learn_directions(run, whole / "run" / "directions" / "last.npz")
    fit_quickly(run, whole / "run" / "priors" / "last.npz")
    settings = f"hydra: {{runtime: {{cwd: {Path.cwd()}}}}}\n"
    (whole / "run" / ".hydra" / "hydra.yaml").write_text(settings)


def read(reader: Callable[[Path], None], name: str, damages: list[Callable[[Path], None]]) -> None:
    """Call a reader on a copy of what is whole, in which the file of a name is damaged.

    Args:
        reader: of this module.
        name: in `whole/`, in full or as a pattern for one file.
        damages: what is done to the file.
    """
    folder, _, pattern = name.partition("/")
    shutil.rmtree("copy", ignore_errors=True)
    copy = Path(shutil.copytree(Path("whole", folder), Path("copy", folder))).resolve()
    (file,) = copy.glob(pattern)
    try:
        for damage in damages:
            damage(file)
        reader(file)
    except UserError as error:
        resume = "resume: "
        key = {celeba: "data.path", checkpoint: resume, untrusted_resumed: resume}.get(reader)
        assert file.name in str(error) or (key and key in str(error)), error
        raise


def _is_whole(file: Path) -> bool:
    whole = Path.cwd() / "whole" / file.relative_to(Path.cwd() / "copy")
    return file.read_bytes() == whole.read_bytes()


def picture(file: Path) -> None:
    """An image: of the right shape; what it shows, most formats cannot tell."""
    found = decode_square(file.read_bytes(), file.name, 16)
    assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)


def celeba(file: Path) -> None:
    """CelebA: as many images as the lists say, those of an archive with a checksum the same."""
    layout = file.relative_to(Path.cwd() / "copy").parts[0]
    found = _open_celeba(f"copy/{layout}", "copy")
    for split in SPLITS:
        for kind in found.label_names():
            assert len(found._labels(split, kind).values) == len(found.images[split])
        if file.suffix == ".zip":
            right = _open_celeba(f"whole/{layout}", "whole/packed").images[split]
            assert np.array_equal(found.images[split], right)


def _open_celeba(path: str, root: str) -> Any:
    overrides = ["data=celeba", f"data.path={path}", f"data.root={root}", "data.num_workers=1"]
    overrides += ["data.image_size=16", "data.batch_size=2", "model.channels=[4]"]
    return open_data(compose(overrides).data)


def cache(file: Path) -> None:
    """A packed cache: `--verify` says what is other; opened, it is packed again as it was."""
    config = _config("copy/data").data
    try:
        verify(config.source(), config)
        assert _is_whole(file) or file.suffix != ".npy"
    except UserError as error:
        assert file.name in str(error), error
    _require_same_data(config)


def forged_cache(file: Path) -> None:
    """A cache by somebody else: each array has the shape, type and names of the right one."""
    config = _config("copy/data").data
    found, right = open_data(config), open_data(_config("whole/data").data)
    for split in SPLITS:
        assert found.images[split].shape == right.images[split].shape
        for kind in found.label_names():
            assert kind in right.label_names()
            labels = found._labels(split, kind)
            assert labels.values.shape == (len(found.images[split]), len(labels.names))
            assert labels.values.dtype == right._labels(split, kind).values.dtype


def directions(file: Path) -> None:
    """Directions by somebody else: they are of the right form, and finite."""
    run = load_run(file.parents[1], overrides=[f"data.root={Path.cwd() / 'whole' / 'data'}"])
    found = learn_directions(run, file)
    for name in ("means", "normal", "weights", "middles"):
        values = getattr(found.directions, name)
        assert values.shape == (len(found.directions.names), run.model.latent_dim)
        assert values.isfinite().all()
    both = (len(METHODS), len(found.directions.names))
    assert found.directions.places.shape == (*both, run.model.latent_dim)
    assert found.directions.limits.shape == (*both, 2)
    assert found.directions.places.isfinite().all()
    assert (found.directions.limits.diff() >= 0).all()
    assert found.accuracy.keys() == set(found.directions.names)


def forged_directions(file: Path) -> None:
    directions(file)


def fit_quickly(run: SavedRun, file: Path) -> Prior:
    """Return the flow in a file, of one layer where it has to be made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae.evaluation.flow.LAYERS", 1)
        return fit_prior(run, "flow", flow_file=file)


def flow(file: Path) -> None:
    """A flow by somebody else: its samples are of the right form, and finite."""
    run = load_run(file.parents[1], overrides=[f"data.root={Path.cwd() / 'whole' / 'data'}"])
    samples = fit_quickly(run, file).sample(4, torch.Generator().manual_seed(0))
    assert samples.shape == (4, run.model.latent_dim)
    assert samples.isfinite().all()


def forged_flow(file: Path) -> None:
    flow(file)


def partial(file: Path) -> None:
    """An interrupted packing: it is resumed, and the cache has the same images."""
    cut = partial_folder(file.parent)
    file.parent.rename(cut)
    (cut / "done").mkdir()
    for split, stop in (("train", 64), ("val", 8)):
        whole = next(Path("whole/data/cache").rglob(f"{split}.npy"))
        checksum = zlib.crc32(np.load(whole)[:stop].tobytes())
        (cut / "done" / f"{split}-0-{checksum:08x}").touch()
    _require_same_data(_config("copy/data").data)


def _require_same_data(config: Any) -> None:
    found, right = open_data(config), open_data(_config("whole/data").data)
    for split in SPLITS:
        assert np.array_equal(found.images[split], right.images[split]), split
        for kind in right.label_names():
            ours, theirs = (packed._labels(split, kind) for packed in (found, right))
            assert np.array_equal(ours.values, theirs.values), kind
            assert ours.names == theirs.names, kind


def _config(root: str) -> RunConfig:
    """The run's configuration, resumed in `copy/`, with its data in a folder."""
    settings = load_checkpoint(Path("whole/run/checkpoints/last.pt"))["config"]
    settings["data"]["root"] = str(Path.cwd() / root)
    return run_config({**settings, "resume": "copy/run"})


def checkpoint(file: Path) -> None:
    """A checkpoint: no other weights than were saved; of the last, the one before is taken."""
    run, is_whole = file.parents[1], _is_whole(file)
    if file.stem == "last":
        state = load_resume_state(_config("whole/data"), run)
        assert state is not None
        assert state["step"] == (6 if is_whole else 4)
    found = load_run(run, file.stem)
    assert file.stem == "last" or is_whole
    right = Path("whole/run/checkpoints", file.name if is_whole else "previous.pt")
    for key, weight in load_checkpoint(right)["model"].items():
        assert torch.equal(found.model.state_dict()[key], weight), key


def untrusted(file: Path) -> None:
    """A whole checkpoint with other things in it: it is refused, or it is a model."""
    found = load_run(file.parents[1])
    with torch.inference_mode():
        found.model.decode(torch.zeros(2, found.config.model.latent_dim))


def untrusted_resumed(file: Path) -> None:
    """The same, and the run goes on from it."""
    config = _config("whole/data")
    config.trainer.max_steps = 7
    metrics = prepare_run(config, file.parents[1]).train()
    assert all(map(math.isfinite, metrics.values()))


def metrics(file: Path) -> None:
    """metrics.jsonl: cut at a step, what was whole of it is kept."""
    whole = Path("whole/run/metrics.jsonl").read_text().splitlines()
    torn = set(file.read_text(errors="replace").split("\n"))
    truncate_metrics(file, 4)
    kept = file.read_text(encoding="utf-8").splitlines()
    expected = [line for line in whole if json.loads(line)["step"] <= 4 and line in torn]
    found = dict.fromkeys(line for line in kept if line in whole)  # some may have been doubled
    assert list(found) == expected
    assert all(json.loads(line)["step"] <= 4 for line in kept)


def sweep(file: Path) -> None:
    """A sweep with a damaged file: it is compared, the other runs as they are."""
    copy = Path.cwd() / "copy" / "sweep"
    whole = {row["run"]: row for row in rows(read_sweep(Path("whole/sweep")))}
    comparison = read_sweep(copy)
    write_csv(rows(comparison), copy / "comparison.csv")
    overview(comparison)
    report_markdown(comparison, copy)
    json.dumps(rows(comparison), allow_nan=False)
    for row in rows(comparison):
        if row["run"] != DAMAGED:
            same = {key: value for key, value in row.items() if key in ("status", "val/bpd")}
            assert same.items() <= whole[row["run"]].items()


def hydra(file: Path) -> None:
    """What Hydra noted of a run: it is resumed by its overrides, opened with its data, or not."""
    run = file.parents[1]
    assert load_run(run).config.model.latent_dim == 4
    try:
        arguments = expand_resume([f"resume={run}", "trainer.epochs=3"])
        assert arguments[-3].startswith("trainer.epochs"), arguments
    except UserError as error:
        assert file.name in str(error), error
    load_run(run, overrides=[f"data.root={Path.cwd() / 'whole' / 'data'}"]).data.images["val"]
    load_run(run).data.images["val"]


def safetensors(file: Path) -> None:
    """An exported model: it has no checksum, so a number may be another, but it is a model."""
    model = load_safetensors(file)
    with torch.inference_mode():
        model.decode(torch.zeros(2, model.latent_dim))


def summary(file: Path) -> None:
    """summary.json and metrics.json of a run: read, or taken for none, and written anew."""
    run = file.parent
    read_summary(run)
    record_failure(run, "because")
    write_metrics(load_run(run), REPORT, run / "metrics.json")
    assert read_summary(run)["error"] == "because"
