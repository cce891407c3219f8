"""FID's Inception v3, by torch-fidelity."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from vae.utils.errors import UserError
from vae.utils.files import open_regular, stored_records

MAX_BYTES = 1 << 28  # of FID's Inception, which has 91 MB
DIMENSIONS = 2048
DOWNLOAD = "download"
SHA256_PREFIX = "6726825d"  # of the file that is downloaded; its name says so too


class Inception(nn.Module):
    """Images (n, 3, height, width) RGB in [0, 1] -> features (n, 2048).

    Args:
        extractor: torch-fidelity's, which takes bytes and does the resizing.
    """

    def __init__(self, extractor: Callable[[Tensor], tuple[Tensor]]) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        # FID is defined on files of 8 bits a value; a model's output is rounded as in a PNG.
        return self.extractor((images * 255).round().to(torch.uint8))[0]


def load_inception(weights: str) -> Inception:
    """Load the network with its weights, on the CPU, in evaluation mode.

    Args:
        weights: a file of the weights in torch-fidelity's format, or "download": from the
            cache of torch.hub, into which they are downloaded the first time (91 MB).

    Raises:
        UserError: torch-fidelity is not installed, the download fails, or the file is not
            there or holds something else.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError as error:
        raise UserError('torch-fidelity is not installed: pip install -e ".[fid]"') from error
    file = Path(weights).expanduser()
    if weights == DOWNLOAD:
        url = fidelity.URL_INCEPTION_V3
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        try:
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), hash_prefix=SHA256_PREFIX)
        except (OSError, RuntimeError) as error:  # no network, no space; another file came
            raise UserError(
                "the weights of FID's Inception are not here and could not be downloaded "
                f"({error}); give a file by metrics.inception_weights=FILE."
            ) from error
    try:
        opened = open_regular(file, MAX_BYTES)
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror}"
        raise UserError(f"metrics.inception_weights: {what}.") from error
    try:
        with opened:
            if zipfile.is_zipfile(opened):
                with zipfile.ZipFile(opened) as archive:
                    stored_records(archive, os.fstat(opened.fileno()).st_size)
        # Opened here first, in the way that runs no code: the one below would run any.
        torch.load(file, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            extractor = fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat",
                [str(DIMENSIONS)],
                feature_extractor_weights_path=str(file),
            )
    except Exception as error:  # reading a damaged file can fail in nearly any way
        raise UserError(
            f"{file}: is damaged, or does not hold the weights of FID's Inception in "
            f"torch-fidelity's format ({type(error).__name__})."
        ) from error
    return Inception(extractor).eval()
