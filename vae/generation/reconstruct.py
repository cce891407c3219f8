"""Reconstructions of faces by a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.evaluation import TrainedModel
from vae.generation import figures
from vae.generation.figures import COLUMNS
from vae.generation.photos import load_faces
from vae.training.metrics import EVALUATION_BATCH, psnr, ssim

DEFAULT_FACES = 16  # faces of the split, where none are given
MAX_SHOWN = 256  # faces on the sheet


@dataclass(frozen=True)
class ReconstructionResult:
    """The result of `reconstruct`."""

    images: Tensor  # (faces, 3, size, size) in [0, 1], from the posteriors' means
    labels: list[str]
    metrics: list[dict[str, float]]  # mse, psnr in dB and ssim of each
    sheet: Path

    @property
    def mean(self) -> dict[str, float]:
        """Each metric's mean over the faces."""
        return {
            name: sum(face[name] for face in self.metrics) / len(self.metrics)
            for name in self.metrics[0]
        }


@torch.inference_mode()
def reconstruct(
    trained: TrainedModel,
    faces: Sequence[str] = (),
    split: str = "val",
    crop: str = "auto",
    *,
    folder: Path,
) -> ReconstructionResult:
    """Encode faces to their posterior's mean and decode it.

    Args:
        trained: computes on its device.
        faces, split, crop: as `load_faces`; without any, the first of the split.
        folder: the file is figures/reconstruct.png below it, with the first MAX_SHOWN faces.
    """
    originals, labels = load_faces(faces or first_faces(trained, split), trained, split, crop)
    batches = torch.split(originals, EVALUATION_BATCH)
    made = [_through(trained, batch) for batch in batches]
    metrics = [row for pair in zip(batches, made, strict=True) for row in _measure(*pair)]
    images = torch.cat(made)
    sheet = folder / "figures" / "reconstruct.png"
    figures.write_reconstructions(_whole_rows(originals), _whole_rows(images), sheet)
    return ReconstructionResult(images, labels, metrics, sheet)


def first_faces(trained: TrainedModel, split: str, count: int = DEFAULT_FACES) -> list[str]:
    """Return the numbers of the first faces of a split."""
    return [str(number) for number in range(min(count, len(trained.data.images[split])))]


def _whole_rows(images: Tensor) -> Tensor:
    """Pad the images of a sheet with blank ones to whole rows."""
    shown = images[:MAX_SHOWN]
    missing = -len(shown) % min(COLUMNS, len(shown))
    return torch.cat([shown, shown.new_ones(missing, *shown.shape[1:])])


def _through(trained: TrainedModel, images: Tensor) -> Tensor:
    """Encode and decode a batch on the model's device; the result is on the CPU."""
    posterior = trained.model.encode(images.to(trained.device))
    return trained.model.decode(posterior.mode).cpu()


def _measure(originals: Tensor, images: Tensor) -> list[dict[str, float]]:
    """Return mse, psnr and ssim of each reconstruction in a batch."""
    mse = F.mse_loss(images, originals, reduction="none").flatten(1).mean(1)
    columns = {"mse": mse, "psnr": psnr(originals, images), "ssim": ssim(originals, images)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
