"""Source: drawn faces, with known factors and attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING

from vae.data.base import SPLITS, Box, DataConfig, Labels
from vae.data.synthetic.faces import (
    DRAW_AT_ONCE,
    FACTOR_NAMES,
    PRESETS,
    attributes,
    draw,
    sample_factors,
)
from vae.utils.errors import require, require_ranges
from vae.utils.registry import register

# Part of every cache's address. Raise it by one whenever a module of this package changes
# what is drawn, sampled or labelled: old caches would be served otherwise.
DRAWING_VERSION = 2

# Default pairs of correlated factors. Both presets vary them.
CORRELATED = (("smile", "mouth_open"), ("skin", "hair_dark"), ("glasses", "beard"))


@register("data", "synthetic")
@dataclass
class SyntheticConfig(DataConfig):
    """Settings of the drawn faces (`conf/data/synthetic.yaml` holds the values)."""

    preset: str = MISSING  # core (12 large, independent, uniform factors) or rich (all of them)
    seed: int = MISSING  # which faces are drawn (not of the training); int from 0 to 2**63 - 1
    # Defaults for runs of older versions, which lack these settings.
    correlation: float = 0.0  # of training faces, between the factors of a pair; from 0 to 0.9
    correlated: list[list[str]] = field(default_factory=lambda: [*map(list, CORRELATED)])

    images = "drawn faces"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_images is not None,
            "data.num_images",
            self.num_images,
            "an int >= 10 (drawn faces have no natural end)",
        )
        require(self.preset in PRESETS, "data.preset", self.preset, f"one of {', '.join(PRESETS)}")
        require_ranges("data", self, seed=(0, 2**63 - 1), correlation=(0, 0.9))
        varied = PRESETS[self.preset]
        names = [*chain.from_iterable(self.correlated)]
        fits = all(len(pair) == 2 for pair in self.correlated) and set(names) <= set(varied)
        require(
            fits and len(set(names)) == len(names),
            "data.correlated",
            self.correlated,
            f"pairs of factors, none of them twice, [[smile,beard]], of {', '.join(varied)}",
        )

    @property
    def celeba_crop(self) -> int:
        return 148  # drawn faces are framed like it

    @property
    def face_box(self) -> Box:
        # Eyes and corners of the mouth are here, on average, at the places in the box that
        # CelebA's have in theirs (least squares; each within 0.02 of the box's side).
        return 0.17, 0.31, 0.67

    def source(self) -> SyntheticSource:
        return SyntheticSource(self)


class SyntheticSource:
    """An `ImageSource` of drawn faces; each split is a prefix of an endless sequence.

    A tenth of the images is for validation, a tenth for the test and the rest for
    training. More images only add to the end of each split. `data.correlation` applies to the
    training faces only.
    """

    name = "synthetic"

    def __init__(self, config: SyntheticConfig) -> None:
        assert config.num_images is not None  # SyntheticConfig checks it
        self._config = config
        tenth = config.num_images // 10
        self._sizes = {"train": config.num_images - 2 * tenth, "val": tenth, "test": tenth}

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON-able values that determine pixels and labels."""
        values = {
            "source": self.name,
            "drawing_version": DRAWING_VERSION,
            "preset": self._config.preset,
            "seed": self._config.seed,
            "image_size": self._config.image_size,
            "sizes": self.sizes(),
        }
        if self._config.correlation:  # without it, caches keep their older address
            values |= {key: getattr(self._config, key) for key in ("correlation", "correlated")}
        return values

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return dict(self._sizes)

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Draw images [start, stop) of a split.

        An image has the same bytes whatever range it is read in. Ranges that
        begin and end at multiples of `DRAW_AT_ONCE` draw nothing in vain.

        Args:
            split: one of `SPLITS`.
            start: the first image, 0 <= start <= stop.
            stop: one past the last image, at most the split's size.

        Returns:
            (stop - start, image_size, image_size, 3) uint8 RGB.
        """
        # Vectorised arithmetic can round the last bit differently with a picture's
        # place in the batch. So each is drawn in the same batch always: they
        # begin at multiples of DRAW_AT_ONCE and are drawn whole.
        first = start - start % DRAW_AT_ONCE
        count = math.ceil((stop - first) / DRAW_AT_ONCE) * DRAW_AT_ONCE
        rows = torch.from_numpy(self._rows(split, first, count))
        pictures = draw(rows, self._config.image_size)[start - first : stop - first]
        return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def check(self) -> None:
        """Nothing to check: no image can be missing."""

    def labels(self, split: str) -> dict[str, Labels]:
        """Return attributes under CelebA's names, derived from the factors, and the factors.

        Of the factors those that vary in the preset, float32.
        """
        rows = self._rows(split, 0, self._sizes[split])
        names, values = attributes(torch.from_numpy(rows))
        varied = PRESETS[self._config.preset]
        columns = [FACTOR_NAMES.index(name) for name in varied]
        return {
            "attributes": Labels(names, values.numpy()),
            "factors": Labels(varied, rows[:, columns]),
        }

    def _rows(self, split: str, start: int, count: int) -> np.ndarray:
        """Return the factors of `count` faces of a split from `start`: (count, factors) float32."""
        config = self._config
        seed = (config.seed, SPLITS.index(split))
        correlation = config.correlation if split == "train" else 0.0
        return sample_factors(config.preset, count, seed, start, correlation, config.correlated)
