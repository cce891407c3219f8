"""A model in other formats: the same numbers without this project, or no file."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vae.generation.export
from vae.cli.main import main
from vae.generation.export import export_model, load_safetensors
from vae.models import build_model
from vae.runs.checkpoint import save_checkpoint
from vae.runs.compose import compose
from vae.runs.load import load_run
from vae.utils.errors import UserError

FILES = {
    "torch": ["encoder.pt2", "decoder.pt2"],
    "onnx": ["encoder.onnx", "decoder.onnx"],
    "safetensors": ["model.safetensors"],
}
PACKAGES = {"torch": "torch", "onnx": "onnxscript", "safetensors": "safetensors"}

# Where they are used there is no vae, and for ONNX no torch either.
USE = {
    "torch": """
import sys
sys.modules["vae"] = None
import numpy as np, torch
def use(name, values):
    program = torch.export.load(f"{folder}/{name}.pt2").module()
    found = program(torch.from_numpy(values))
    return [each.numpy() for each in ([found] if torch.is_tensor(found) else found)]
""",
    "onnx": """
import sys
sys.modules.update(dict.fromkeys(["vae", "torch", "onnx", "onnxscript"]))
import numpy as np, onnxruntime
def use(name, values):
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx")
    takes, gives = {"encoder": ("images", ["mean", "logvar"]),
                    "decoder": ("latents", ["images"])}[name]
    return session.run(gives, {takes: values})
""",
}
MAIN = """
folder = sys.argv[1]
found = {}
for key, values in np.load(folder + "/inputs.npz").items():
    for i, output in enumerate(use(key.split("-")[0], values)):
        found[f"{key}-{i}"] = output
np.savez(folder + "/outputs.npz", **found)
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


@pytest.fixture(scope="module")
def exports(saved):
    """`exports(format)` is (folder, what export_model returned), made once."""
    folder, _ = saved
    made = {}

    def export(format):
        pytest.importorskip(PACKAGES[format])
        if format not in made:
            run = load_run(folder)
            made[format] = export_model(
                run, format, folder / "export", step=run.step, epoch=run.epoch
            )
        return folder / "export", made[format]

    return export


def reference(model, name, values):
    """Compute a part's outputs from the bare network."""
    with torch.inference_mode():
        if name == "decoder":
            return [1 / (1 + torch.exp(-model.decoder(values)))]
        mean, logvar = model.encoder(values)
        return [mean, logvar.clamp(-30, 20)]


def some_inputs(seed):
    torch.manual_seed(seed)
    return {
        "encoder-1": torch.rand(1, 3, 16, 16),
        "encoder-7": torch.rand(7, 3, 16, 16).round(),
        "decoder-1": torch.randn(1, 3),
        "decoder-7": 4 * torch.randn(7, 3),
    }


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_exports_run_without_this_project(format, exports, saved, tmp_path):
    folder, _ = exports(format)
    for name in FILES[format]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    inputs = some_inputs(seed=2)
    np.savez(tmp_path / "inputs.npz", **{key: values.numpy() for key, values in inputs.items()})
    script = USE[format] + MAIN
    subprocess.run(
        [sys.executable, "-I", "-c", script, tmp_path], cwd=tmp_path, check=True, timeout=300
    )
    found = np.load(tmp_path / "outputs.npz")
    for key, values in inputs.items():
        expected = reference(saved[1], key.split("-")[0], values)
        assert len([name for name in found if name.startswith(key)]) == len(expected)
        for i, exact in enumerate(expected):
            torch.testing.assert_close(
                torch.from_numpy(found[f"{key}-{i}"]), exact, rtol=1e-5, atol=2e-6
            )
    logvar = found["encoder-7-1"]
    assert (logvar[:, 0] == 20).all()
    assert (logvar[:, 2] == -30).all()
    assert (abs(logvar[:, 1]) < 10).all()


def test_safetensors_restore_the_model_exactly(exports, saved):
    folder, made = exports("safetensors")
    model = load_safetensors(folder / "model.safetensors")
    assert not model.training
    for key, values in some_inputs(seed=3).items():
        name = key.split("-")[0]
        pairs = zip(reference(model, name, values), reference(saved[1], name, values), strict=True)
        assert all(torch.equal(again, exact) for again, exact in pairs)
    assert made[0].difference == 0
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_safetensors(str(folder / "model.safetensors"))
    assert torch.equal(torch.rand(1), expected)


ELSEWHERE = """
import logging, sys
from vae.cli.main import main
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
sys.exit(main(["export", "moved", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_and_only_json(exports, saved, tmp_path):
    """Of the run somewhere else; sets and symbols differ from process to process."""
    folder, _ = saved
    for format in FILES:
        exports(format)
    (tmp_path / "moved" / "checkpoints").mkdir(parents=True)
    (tmp_path / "moved" / "checkpoints" / "last.pt").write_bytes(
        (folder / "checkpoints" / "last.pt").read_bytes()
    )
    words = ["--json", "--device", "cpu", "--seed", "9", "--out", "."]
    words += [word for format in FILES for word in ("--format", format)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words],
        cwd=tmp_path,
        env={**os.environ, **path},
        check=True,
        capture_output=True,
        timeout=300,
    )
    names = [name for files in FILES.values() for name in files]
    assert json.loads(done.stdout)["files"] == names
    assert done.stderr == b""
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / "export" / name).read_bytes()


@pytest.mark.parametrize("format", FILES)
def test_exports_contain_no_path_and_no_source(format, exports):
    folder, _ = exports(format)
    for name in FILES[format]:
        content = (folder / name).read_bytes()
        for word in (b"secret-place", b"stack_trace", b"def forward", b".py", b"site-packages"):
            assert word not in content


def test_onnx_graphs_are_standard_and_described(exports):
    folder, _ = exports("onnx")
    import onnx

    made = {name: onnx.load(folder / f"{name}.onnx") for name in ("encoder", "decoder")}
    for name, model in made.items():
        onnx.checker.check_model(model, full_check=True)
        about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
        assert (about["image_size"], about["latent_dim"], about["step"]) == (16, 3, 7)
        assert about["model"]["channels"] == [8, 32], name
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for model in made.values()
        for value in (*model.graph.input, *model.graph.output)
        if value.name != "images"
    }
    assert sizes == {name: ["batch", 3] for name in ("mean", "logvar", "latents")}
    # Kernels are folded and BatchNorm is in the weights, whatever their size
    assert [node.op_type for node in made["decoder"].graph.node] == [
        *("Gemm", "Reshape", "ConvTranspose", "LeakyRelu", "ConvTranspose", "Sigmoid")
    ]
    assert "BatchNormalization" not in [node.op_type for node in made["encoder"].graph.node]
    assert sorted(file.name for file in folder.glob("*onnx*")) == ["decoder.onnx", "encoder.onnx"]


def test_programs_hold_only_their_half_and_a_description(exports, saved):
    folder, _ = exports("torch")
    for name, half in (("encoder", saved[1].encoder), ("decoder", saved[1].decoder)):
        extra = {"about.json": ""}
        program = torch.export.load(folder / f"{name}.pt2", extra_files=extra)
        about = json.loads(extra["about.json"])
        assert (about["image_size"], about["latent_dim"], about["step"]) == (16, 3, 7)
        numbers = sum(weight.numel() for weight in program.state_dict.values())
        assert numbers == sum(weight.numel() for weight in half.state_dict().values())


def test_export_leaves_the_model_unchanged(saved, tmp_path):
    pytest.importorskip("safetensors")
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


@pytest.mark.parametrize(
    ("name", "off", "words"),
    [("encoder", 0.002, "logvar"), ("decoder", 0.002, "images"), ("decoder", torch.nan, "images")],
)
def test_exports_with_different_outputs_are_not_written(
    name, off, words, saved, tmp_path, monkeypatch
):
    """A half of another model, its other half right: neither is kept."""

    def broken(model, about, folder):
        other = copy.deepcopy(model)
        with torch.no_grad():
            bias = other.encoder.logvar.bias if name == "encoder" else other.decoder.blocks[-1].bias
            bias[1] += off  # in pixels, an eighth of a grey level
        drafts = vae.generation.export.split_encoder_decoder(other, about["image_size"])
        for part in drafts:
            (folder / f"{part}.pt2").touch()
        return {folder / f"{part}.pt2": {part: function} for part, function in drafts.items()}

    monkeypatch.setattr(vae.generation.export, "export_torch", broken)
    with pytest.raises(UserError, match=rf"{name}\.pt2: not written, as {words} .* differs"):
        export_model(load_run(saved[0]), "torch", tmp_path / "export")
    assert not list(tmp_path.rglob("*.*"))


def test_the_largest_difference_is_returned(saved, tmp_path, monkeypatch):
    def rounded(model, about, folder):
        exact = vae.generation.export.split_encoder_decoder(model, about["image_size"])["encoder"]
        (folder / "encoder.pt2").touch()

        def off(images):  # in the first output of the first batch only
            mean, logvar = exact(images)
            return mean + (2**-18 if len(images) == 1 else 0), logvar

        return {folder / "encoder.pt2": {"encoder": off}}

    monkeypatch.setattr(vae.generation.export, "export_torch", rounded)
    made = export_model(load_run(saved[0]), "torch", tmp_path)
    assert made[0].difference == pytest.approx(2**-18, rel=0.1)


def rewritten(source, target, edit):
    """A copy of a model.safetensors with its description or weights changed by `edit`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        metadata = {"about": json.loads(file.metadata()["minifaceapp"])}
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    edit(metadata["about"], weights)
    save_file(weights, target, {"minifaceapp": json.dumps(metadata["about"])})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda about, _: about["model"].update(name="os.system"), "model.name: got 'os.system'"),
        (lambda about, _: about["model"].update(_target_="os.system"), "_target_"),
        (lambda about, _: about["model"].update(latent_dim=0), "model.latent_dim: got 0"),
        (lambda about, _: about["model"].update(latent_dim=10**9), "are not those of the model"),
        (lambda about, _: about.update(model=["conv"]), "no model"),
        (lambda about, _: about.update(image_size=-16), "image_size: got -16"),
        (lambda about, _: about.update(image_size=18), "data.image_size: got 18"),
        (lambda _, weights: weights.update(more=torch.ones(1)), "are not those of the model"),
        (
            lambda _, w: w.update({"encoder.mean.bias": w["encoder.mean.bias"].half()}),
            "are not those of the model",
        ),
    ],
)
def test_safetensors_of_another_kind_are_refused(edit, words, exports, tmp_path):
    folder, _ = exports("safetensors")
    file = tmp_path / "changed.safetensors"
    rewritten(folder / "model.safetensors", file, edit)
    with pytest.raises(UserError) as refusal:
        load_safetensors(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_safetensors_are_refused(exports, tmp_path):
    folder, _ = exports("safetensors")
    from safetensors.torch import save_file

    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    save_file({"weight": torch.ones(3)}, tmp_path / "other")
    save_file({"weight": torch.ones(3)}, tmp_path / "no json", {"minifaceapp": "{"})
    for name in ("cut", "other", "no json"):
        with pytest.raises(UserError, match=f"{name}: this is no model that"):
            load_safetensors(tmp_path / name)
    with pytest.raises(UserError, match="there is no such file"):
        load_safetensors(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("safetensors",) * 2],
)
def test_a_missing_package_is_named_with_its_extra(format, package, saved, tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
        there = None if name == package else SimpleNamespace()
        monkeypatch.setitem(sys.modules, name, there)
    with pytest.raises(UserError, match=rf"--format {format} needs {package} .*\.\[export\]"):
        export_model(load_run(saved[0]), format, tmp_path)
    if format == "safetensors":
        with pytest.raises(UserError, match="needs safetensors"):
            load_safetensors(tmp_path / "x")


@pytest.mark.parametrize("words", [[], ["--json", "--out", "out", "--format", "safetensors"]])
def test_the_command_prints_what_it_writes(words, saved, exports, tmp_path, monkeypatch, capfd):
    format = "safetensors" if words else "torch"
    before = [(exports(format)[0] / name).read_bytes() for name in FILES[format]]
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert main(["export", str(saved[0]), "--device", "cpu", *words]) == 0
    out, err = capfd.readouterr()
    files = [(Path("out") if words else saved[0] / "export") / name for name in FILES[format]]
    assert [file.read_bytes() for file in files] == before
    assert err == ""
    if words:
        about = {
            "run": str(saved[0]),
            "checkpoint": "last",
            "step": 7,
            "largest_differences": [0.0],
        }
        sizes = [file.stat().st_size for file in files]
        assert json.loads(out) == {**about, "files": [*map(str, files)], "bytes": sizes}
    else:
        rows = [line.split() for line in out.splitlines()]
        assert [row[0] for row in rows] == ["file", *map(str, files)]
        assert all(row[2] == "MB" and 0 <= float(row[3]) < 1e-4 for row in rows[1:])
        assert all(not file.name.startswith(".") for file in files[0].parent.iterdir())
