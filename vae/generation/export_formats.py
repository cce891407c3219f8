"""Encoder and decoder as torch.export and ONNX programs."""

from __future__ import annotations

import copy
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vae.models import VAE
from vae.models.layers import UpsampleConv

Function: TypeAlias = Callable[[Tensor], Any]
ExportedFunctions: TypeAlias = dict[Path, Mapping[str, Function]]  # a file's function, by part


class ExportedEncoder(nn.Module):
    """images (batch, 3, size, size) in [0, 1] -> mean, logvar, each (batch, latent_dim)."""

    takes, gives = "images", ["mean", "logvar"]

    def __init__(self, model: VAE, image_size: int) -> None:
        super().__init__()
        self.vae = VAE(model.encoder, nn.Identity(), model.latent_dim)  # no weights but its own
        self.shape: tuple[int, ...] = (3, image_size, image_size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images)
        return posterior.mean, posterior.logvar


class ExportedDecoder(nn.Module):
    """latents (batch, latent_dim) -> images (batch, 3, size, size) in [0, 1]."""

    takes, gives = "latents", ["images"]

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.vae = VAE(nn.Identity(), model.decoder, model.latent_dim)
        self.shape: tuple[int, ...] = (model.latent_dim,)

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


Part: TypeAlias = ExportedEncoder | ExportedDecoder


def split_encoder_decoder(model: VAE, image_size: int) -> dict[str, Part]:
    """Return encoder and decoder in evaluation mode, by the names of their files."""
    return {
        "encoder": ExportedEncoder(model, image_size).eval(),
        "decoder": ExportedDecoder(model).eval(),
    }


def export_torch(model: VAE, about: Mapping[str, Any], folder: Path) -> ExportedFunctions:
    """Write encoder.pt2 and decoder.pt2, with `about.json` among their extra files."""
    drafts: ExportedFunctions = {}
    for name, part in _plain_parts(model, about["image_size"]).items():
        file = folder / f"{name}.pt2"
        extra = {"about.json": json.dumps(about)}
        torch.export.save(_program(part), file, extra_files=extra)
        drafts[file] = {name: torch.export.load(file).module()}
    return drafts


def export_onnx(model: VAE, about: Mapping[str, Any], folder: Path) -> ExportedFunctions:
    """Write encoder.onnx and decoder.onnx; metadata_props have each value of `about` as JSON.

    What depends on weights alone is computed here. The exporter does that up to some size;
    above, `UpsampleConv` would fold its kernels anew in each runtime, and a convolution
    whose kernel is no constant is more than some of them can do.
    """
    import onnx
    import onnxscript.optimizer

    drafts: ExportedFunctions = {}
    any_size = 2**62
    for name, part in _plain_parts(model, about["image_size"]).items():
        exported = torch.onnx.export(
            _program(part),
            input_names=[part.takes],
            output_names=part.gives,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        assert exported is not None  # it is where no file is given
        onnxscript.optimizer.optimize(
            exported.model, input_size_limit=any_size, output_size_limit=any_size
        )
        graph = _without_traces(exported.model_proto)
        onnx.helper.set_model_props(graph, {key: json.dumps(about[key]) for key in about})
        file = folder / f"{name}.onnx"
        file.write_bytes(graph.SerializeToString(deterministic=True))
        drafts[file] = {name: _onnx_function(file, part.takes)}
    return drafts


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings, logs and prints."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _plain_parts(model: VAE, image_size: int) -> dict[str, Part]:
    """Return encoder and decoder of a copy in contiguous memory format, as .pt2 needs.

    Its upsampling convolutions are one operation each, as runtimes know it.
    """
    plain = copy.deepcopy(model).requires_grad_(False)
    for module in plain.modules():
        if isinstance(module, UpsampleConv):
            module.form = "transposed"
    return split_encoder_decoder(plain.to(memory_format=torch.contiguous_format), image_size)


def _program(part: Part) -> ExportedProgram:
    """Export a part as a graph of torch operations, for any batch size >= 1."""
    example = torch.zeros(2, *part.shape)  # a batch of 1 would be taken for a constant
    program = torch.export.export(part, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    # Code under autocast becomes a separate graph.
    graphs = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.graph.nodes):
        node.meta.pop("stack_trace", None)  # it has the paths of this machine
    return program


def _without_traces(model: Any) -> Any:
    """Remove traces of the source code from an onnx.ModelProto; name its free axis "batch"."""
    graph = model.graph
    del graph.value_info[:]
    for thing in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del thing.metadata_props[:]
        thing.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _onnx_function(file: Path, takes: str) -> Function:
    """Return a function that runs an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # enough, and no complaints where threads cannot be pinned
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda values: [
        torch.from_numpy(found) for found in session.run(None, {takes: values.numpy()})
    ]
