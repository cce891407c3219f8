"""A model in other formats: the same numbers without this project, or no file."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from itertools import chain

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import vae.generation.export
from tests.support.train_command import ROOT
from vae.cli.main import main
from vae.generation.export import export_model, load_safetensors
from vae.generation.export_formats import split_encoder_decoder
from vae.models import build_model
from vae.runs.checkpoint import save_checkpoint
from vae.runs.compose import compose
from vae.runs.load import load_run
from vae.utils.errors import UserError
from vae.utils.files import MAX_WEIGHTS

FILES = {
    "torch": ["encoder.pt2", "decoder.pt2"],
    "onnx": ["encoder.onnx", "decoder.onnx"],
    "safetensors": ["model.safetensors"],
}

USE = """
import sys
sys.modules["vae"] = None  # vae is not installed where exports are used
import numpy as np, onnxruntime, torch
found = {}
for key, values in np.load("inputs.npz").items():
    name = key.split("-")[0]
    outputs = torch.export.load(f"{name}.pt2").module()(torch.from_numpy(values))
    gives = {"encoder": ["mean", "logvar"], "decoder": ["images"]}[name]
    session = onnxruntime.InferenceSession(f"{name}.onnx")
    found[f"torch-{key}"] = np.stack([outputs] if torch.is_tensor(outputs) else outputs)
    takes = {"encoder": "images", "decoder": "latents"}[name]
    found[f"onnx-{key}"] = np.stack(session.run(gives, {takes: values}))
np.savez("outputs.npz", **found)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's folder, and the model whose weights are in it: no layer of it does nothing."""
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    config = compose(["data.image_size=16", "model.channels=[8,32]", "model.latent_dim=3"])
    torch.manual_seed(5)
    model = build_model(config.model, 16)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    for _ in range(5):
        model(torch.rand(8, 3, 16, 16), 2 * torch.randn(8, 3))
    with torch.no_grad():
        model.encoder.logvar.bias += torch.tensor([60.0, 0.0, -60.0])  # to be clamped
    state = {"model": model.state_dict(), "config": asdict(config), "step": 7, "epoch": 0.5}
    save_checkpoint(folder / "checkpoints" / "last.pt", {**state, "final": {}})
    return folder, model.eval()


@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize(
    "settings",
    [
        ["model.latent_shape=map", "model.last_layer=subpixel", "model.activation=silu"],
        ["model=residual", "model.norm=batch", "model.last_layer=subpixel"],
    ],
    ids=" ".join,
)
def test_every_kind_of_model_is_exported(settings, format, tmp_path):
    """`export_model` compares the outputs of batches of several sizes."""
    sizes = ["data.image_size=16", "model.channels=[8,32]", "model.latent_dim=32"]
    config = compose([*sizes, *settings])
    model = build_model(config.model, 16, seed=0)
    state = {"model": model.state_dict(), "config": asdict(config), "step": 7, "epoch": 0.5}
    save_checkpoint(tmp_path / "run/checkpoints/last.pt", {**state, "final": {}})
    export_model(load_run(tmp_path / "run"), format, tmp_path / "export", step=7, epoch=0.5)
    written = {path.name for path in (tmp_path / "export").iterdir()}
    assert set(FILES[format]) <= written


@pytest.fixture(scope="module")
def exports(saved):
    """What export_model returned, by format; the files are in the run's folder `export`."""
    run = load_run(saved[0])
    about = {"step": run.step, "epoch": run.epoch}
    return {format: export_model(run, format, run.folder / "export", **about) for format in FILES}


def test_exports_run_without_this_project(exports, saved, tmp_path):
    folder, model = saved
    for name in (*FILES["torch"], *FILES["onnx"]):
        (tmp_path / name).write_bytes((folder / "export" / name).read_bytes())
    torch.manual_seed(2)
    inputs = {
        "encoder-1": torch.rand(1, 3, 16, 16),
        "encoder-7": torch.rand(7, 3, 16, 16).round(),
        "decoder-1": torch.randn(1, 3),
        "decoder-7": 4 * torch.randn(7, 3),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    subprocess.run([sys.executable, "-I", "-c", USE], cwd=tmp_path, check=True, timeout=300)
    found = np.load(tmp_path / "outputs.npz")
    with torch.inference_mode():  # from the bare network
        for key, values in inputs.items():
            if key.startswith("decoder"):
                expected = 1 / (1 + torch.exp(-model.decoder(values)))[None]
            else:
                mean, logvar = model.encoder(values)
                expected = torch.stack([mean, logvar.clamp(-30, 20)])
            for format in ("torch", "onnx"):
                outputs = torch.from_numpy(found[f"{format}-{key}"])
                torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-6)
    logvar = found["onnx-encoder-7"][1]
    assert (logvar[:, [0, 2]] == [20, -30]).all()
    assert (abs(logvar[:, 1]) < 10).all()


def test_safetensors_restore_the_model_exactly(exports, saved):
    file = saved[0] / "export" / "model.safetensors"
    random = torch.get_rng_state()
    model = load_safetensors(file)
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    pairs = zip(model.state_dict().items(), saved[1].state_dict().items(), strict=True)
    for (name, again), (key, weight) in pairs:
        assert name == key
        assert torch.equal(again, weight)
    assert exports["safetensors"][0].difference == 0


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_and_only_json(exports, saved, tmp_path):
    """Of the run somewhere else; sets and symbols differ from process to process."""
    shutil.copytree(saved[0] / "checkpoints", tmp_path / "moved" / "checkpoints")
    words = ["export", "moved", "--json", "--device", "cpu", "--seed", "9", "--out", "."]
    words += [word for format in FILES for word in ("--format", format)]
    done = subprocess.run(
        [sys.executable, "-m", "vae.cli.main", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    names = [name for files in FILES.values() for name in files]
    assert json.loads(done.stdout)["files"] == names
    assert done.stderr == b""
    for name in names:
        assert (tmp_path / name).read_bytes() == (saved[0] / "export" / name).read_bytes()


def test_exports_contain_no_path_and_no_source(exports):
    for made in chain(*exports.values()):
        content = made.file.read_bytes()
        for word in (b"secret-place", b"stack_trace", b"def forward", b".py", b"site-packages"):
            assert word not in content, made.file
        assert made.size == len(content)


def test_onnx_graphs_are_standard_and_described(exports):
    import onnx

    sizes, operations = {}, {}
    for made in exports["onnx"]:
        model = onnx.load(made.file)
        onnx.checker.check_model(model, full_check=True)
        about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
        assert (about["image_size"], about["latent_dim"], about["step"]) == (16, 3, 7)
        assert about["model"]["channels"] == [8, 32]
        for value in (*model.graph.input, *model.graph.output):
            shape = value.type.tensor_type.shape.dim
            sizes[value.name] = [dim.dim_param or dim.dim_value for dim in shape]
        operations[made.file.stem] = [node.op_type for node in model.graph.node]
    images, latents = ["batch", 3, 16, 16], ["batch", 3]
    assert sizes == {"images": images, "mean": latents, "logvar": latents, "latents": latents}
    # Kernels are folded and BatchNorm is in the weights, whatever their size
    assert operations["decoder"] == [
        *("Gemm", "Reshape", "ConvTranspose", "LeakyRelu", "ConvTranspose", "Sigmoid")
    ]
    assert "BatchNormalization" not in operations["encoder"]


def test_programs_hold_only_their_half_and_a_description(exports, saved):
    for made, half in zip(exports["torch"], (saved[1].encoder, saved[1].decoder), strict=True):
        extra = {"about.json": ""}
        program = torch.export.load(made.file, extra_files=extra)
        about = json.loads(extra["about.json"])
        assert (about["image_size"], about["latent_dim"], about["step"]) == (16, 3, 7)
        numbers = sum(weight.numel() for weight in program.state_dict.values())
        assert numbers == sum(weight.numel() for weight in half.state_dict().values())


def test_export_leaves_the_model_unchanged(saved, tmp_path):
    run = load_run(saved[0])
    run.model.train()
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(UserError, match="format: got 'h5', but it takes one of torch, onnx, saf"):
        export_model(run, "h5", tmp_path)
    export_model(run, "safetensors", tmp_path)
    assert all(module.training for module in run.model.modules())
    assert all(weight.requires_grad for weight in run.model.parameters())
    for key, weight in run.model.state_dict().items():
        assert torch.equal(weight, before[key])
        assert weight.stride() == before[key].stride()


BIAS = "encoder.mean.bias"
OUTPUTS = {"mean": ("encoder", 0), "logvar": ("encoder", 1), "images": ("decoder", 0)}


def export_altered(run, output, batch, off, folder, monkeypatch):
    """Export a run as torch would, but with one output of the files off for one batch."""
    name, place = OUTPUTS[output]

    def draft(model, about, staging):
        def altered(values):
            found = list(parts[name](values)) if name == "encoder" else [parts[name](values)]
            found[place] = found[place] + off * (len(values) == batch)
            return found

        parts = split_encoder_decoder(model, about["image_size"])
        files = {part: staging / f"{part}.pt2" for part in parts}
        for file in files.values():
            file.touch()
        return {files[part]: {part: altered if part == name else parts[part]} for part in parts}

    monkeypatch.setattr(vae.generation.export, "export_torch", draft)
    return export_model(load_run(run), "torch", folder)


@pytest.mark.parametrize("batch", [1, 2, 5])  # of those that are compared
@pytest.mark.parametrize(
    ("output", "off"),
    [("mean", 0.002), ("logvar", 0.002), ("images", 0.0005), ("images", torch.nan)],
)
def test_exports_with_different_outputs_are_not_written(
    output, batch, off, saved, tmp_path, monkeypatch
):
    says = rf"{OUTPUTS[output][0]}\.pt2: not written, as {output} .* differs"
    with pytest.raises(UserError, match=says):
        export_altered(saved[0], output, batch, off, tmp_path / "export", monkeypatch)
    assert not list(tmp_path.rglob("*.*"))  # nor is the file of the other half


def test_the_largest_difference_is_returned(saved, tmp_path, monkeypatch):
    encoder, decoder = export_altered(saved[0], "mean", 1, 2**-18, tmp_path, monkeypatch)
    assert encoder.difference == pytest.approx(2**-18, rel=0.1)
    assert decoder.difference == 0


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda about, _: about["model"].update(name="os.system"), "model.name: got 'os.system'"),
        (lambda about, _: about["model"].update(_target_="os.system"), "_target_"),
        (lambda about, _: about["model"].update(latent_dim=0), "model.latent_dim: got 0"),
        (lambda about, _: about["model"].update(latent_dim=10**9), "model.latent_dim: got 10"),
        (lambda about, _: about["model"].update(latent_dim=65536), "are not those of the model"),
        (lambda about, _: about.update(model=["conv"]), "no model"),
        (lambda about, _: about.update(image_size=-16), "image_size: got -16"),
        (lambda about, _: about.update(image_size=18), "data.image_size: got 18"),
        (lambda _, weights: weights.update(more=torch.ones(1)), "are not those of the model"),
        (lambda _, weights: weights.update({BIAS: weights[BIAS].half()}), "are not those of the"),
    ],
)
def test_safetensors_of_another_kind_are_refused(edit, words, exports, tmp_path):
    with safe_open(exports["safetensors"][0].file, framework="pt") as source:
        about = json.loads(source.metadata()["minifaceapp"])
        weights = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    edit(about, weights)
    file = tmp_path / "changed.safetensors"
    save_file(weights, file, {"minifaceapp": json.dumps(about)})
    with pytest.raises(UserError) as refusal:
        load_safetensors(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_safetensors_are_refused(exports, tmp_path):
    (tmp_path / "cut").write_bytes(exports["safetensors"][0].file.read_bytes()[:-10])
    save_file({"weight": torch.ones(3)}, tmp_path / "other")
    save_file({"weight": torch.ones(3)}, tmp_path / "no json", {"minifaceapp": "{"})
    shutil.copyfile(exports["safetensors"][0].file, tmp_path / "large")
    os.truncate(tmp_path / "large", MAX_WEIGHTS + 1)
    for name in ("cut", "other", "no json", "large"):
        with pytest.raises(UserError, match=f"{name}: this is no model that"):
            load_safetensors(tmp_path / name)
    with pytest.raises(UserError, match="there is no such file"):
        load_safetensors(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("safetensors",) * 2],
)
def test_a_missing_package_is_named_with_its_extra(format, package, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"--format {format} needs {package} .*\.\[export\]"):
        export_model(load_run(saved[0]), format, tmp_path)
    if format == "safetensors":
        with pytest.raises(UserError, match="needs safetensors"):
            load_safetensors(tmp_path / "x")


def test_the_command_prints_what_it_writes(exports, saved, tmp_path, capfd):
    command = ["export", str(saved[0]), "--device", "cpu"]
    assert main([*command, "--format", "safetensors", "--out", str(tmp_path), "--json"]) == 0
    file = tmp_path / "model.safetensors"
    assert file.read_bytes() == exports["safetensors"][0].file.read_bytes()
    assert json.loads(capfd.readouterr().out) == {
        "run": str(saved[0]),
        "checkpoint": "last",
        "step": 7,
        "files": [str(file)],
        "bytes": [file.stat().st_size],
        "largest_differences": [0.0],
    }

    before = [made.file.read_bytes() for made in exports["torch"]]
    assert main(command) == 0  # torch, into the run's folder
    out, err = capfd.readouterr()
    head, *rows = (line.split() for line in out.splitlines())
    assert (head[0], err) == ("file", "")
    assert [row[0] for row in rows] == [str(made.file) for made in exports["torch"]]
    assert all(row[2] == "MB" and 0 <= float(row[3]) < 1e-4 for row in rows)
    assert [made.file.read_bytes() for made in exports["torch"]] == before
    names = {file.name for file in (saved[0] / "export").iterdir()}
    assert names == {*chain(*FILES.values())}  # no temporary file
