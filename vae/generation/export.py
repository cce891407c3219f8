"""Export a model for use elsewhere: torch.export, ONNX, safetensors."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.evaluation import TrainedModel
from vae.generation.export_formats import (
    ExportedFunctions,
    Function,
    Part,
    export_onnx,
    export_torch,
    quiet,
    split_encoder_decoder,
)
from vae.models import VAE, build_model
from vae.models.base import build_shapes
from vae.utils.errors import UserError, require
from vae.utils.files import MAX_WEIGHTS, open_regular, write_atomically
from vae.utils.registry import choices

REQUIRED_PACKAGES = {  # by format: packages needed beside torch
    "torch": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
}
# Relative to the largest number that goes in or comes out. Two correct programs differ by
# float32's rounding, a tenth of this at most; a model is as far from its own float64 twin.
# A grey level is 4e-3, and a layer that is wrong is off by more.
TOLERANCE = 1e-5
METADATA_KEY = "minifaceapp"  # the only key in safetensors' metadata: several have no fixed order


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    file: Path
    size: int  # bytes
    difference: float  # the largest |file's - model's| over means, logvars and pixels


def export_model(
    trained: TrainedModel, format: str, folder: Path | str, seed: int = 0, **about: Any
) -> list[Exported]:
    """Write a model in another format, after comparing its outputs with the file's.

    The weights are copied to the CPU; the model itself stays where and as it is. The same
    model gives the same bytes, by the same versions of torch and of the exporter.

    Args:
        trained: the model to export.
        format: `torch` (encoder.pt2, decoder.pt2: `torch.export.load(file).module()`), `onnx`
            (encoder.onnx, decoder.onnx) or `safetensors` (model.safetensors: the weights, and
            what `load_safetensors` rebuilds the model from).
        folder: where the files go.
        seed: of the images and latents that they are compared on.
        about: further values for the file's metadata, such as the step; JSON's types.

    Raises:
        UserError: something is not installed, or a file differs from the model by more than
            rounding. Then none is written.
    """
    require(format in REQUIRED_PACKAGES, "format", format, f"one of {', '.join(REQUIRED_PACKAGES)}")
    _require_installed(format)
    model = copy.deepcopy(trained.model).cpu()
    config, image_size = trained.model_config, trained.data_config.image_size
    about = {
        "model": asdict(config),
        "image_size": image_size,
        "latent_dim": config.latent_dim,
        **about,
    }
    draft = {"torch": export_torch, "onnx": export_onnx, "safetensors": _export_safetensors}[format]
    parts = split_encoder_decoder(model, image_size)
    exported = []
    with tempfile.TemporaryDirectory() as staging:
        with quiet():
            drafts = draft(model, about, Path(staging))
        differences = {file: _check(file, drafts[file], parts, seed) for file in drafts}
        for file, difference in differences.items():
            target = Path(folder) / file.name
            write_atomically(target, partial(shutil.copyfile, file))
            exported.append(Exported(target, target.stat().st_size, difference))
    return exported


def load_safetensors(path: Path | str) -> VAE:
    """Load a `model.safetensors`, on the CPU, in evaluation mode.

    The file's metadata selects one of this project's models; no code in the file is run.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """
    _require_installed("safetensors")
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        open_regular(Path(path), MAX_WEIGHTS).close()
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return _rebuilt(about, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{path}: this is no model that `vae export` wrote, or a damaged one ({reason})."
        ) from error


def _rebuilt(about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> VAE:
    """Build the model that a file describes and load its weights."""
    name, size = about["model"]["name"], about["image_size"]
    models = choices("model")
    require(name in models, "model.name", name, f"one of {', '.join(models)} in this version")
    require(size >= 1, "image_size", size, "an int >= 1")
    config = models[name](**about["model"])
    expected = build_shapes(config, size).state_dict()  # no number in a file can fill the memory
    if _kinds(weights) != _kinds(expected):
        raise UserError("the weights in it are not those of the model that it describes.")
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, size)
    model.load_state_dict(weights)
    return model.eval()


def _kinds(weights: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (weight.shape, weight.dtype) for key, weight in weights.items()}


def _export_safetensors(model: VAE, about: Mapping[str, Any], folder: Path) -> ExportedFunctions:
    """Write model.safetensors, with `about` as JSON in its metadata."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    weights = {key: weight.contiguous() for key, weight in model.state_dict().items()}
    save_file(weights, file, {METADATA_KEY: json.dumps(about)})
    return {file: split_encoder_decoder(load_safetensors(file), about["image_size"])}


def _check(
    file: Path, functions: Mapping[str, Function], parts: Mapping[str, Part], seed: int
) -> float:
    """Return the largest difference between the outputs of a file and of the model.

    Raises:
        UserError: it is more than TOLERANCE allows, or no number.
    """
    largest = 0.0
    for name, function in functions.items():
        for values in _probes(parts[name], seed):
            with torch.inference_mode():
                expected, found = _listed(parts[name](values)), _listed(function(values))
            for output, exact, value in zip(parts[name].gives, expected, found, strict=True):
                difference = (value - exact).abs().max().item()
                scale = max(1.0, values.abs().max().item(), exact.abs().max().item())
                if not difference <= TOLERANCE * scale:  # nan too
                    raise UserError(
                        f"{file.name}: not written, as {output} of it differs from the model's by "
                        f"{difference:.2g} (rounding: {TOLERANCE * scale:.2g}). Try another format."
                    )
                largest = max(largest, difference)
    return largest


def _probes(part: Part, seed: int) -> list[Tensor]:
    """Return test inputs of a part: batches of 1, 2 and 5, the second of extremes."""
    generator = torch.Generator().manual_seed(seed)
    if part.takes == "images":
        extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, *part.shape)
        draw = torch.rand
    else:
        extremes = 10 * torch.randn(2, *part.shape, generator=generator)
        draw = torch.randn
    one, five = (draw(count, *part.shape, generator=generator) for count in (1, 5))
    return [one, extremes, five]


def _listed(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _require_installed(format: str) -> None:
    """Raise a UserError that names the extra unless the format's packages are there."""
    for package in REQUIRED_PACKAGES[format]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f'--format {format} needs {package} ({error}): pip install -e ".[export]"'
            ) from error
