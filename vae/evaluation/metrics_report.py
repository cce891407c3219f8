"""The report of an evaluation: metrics with their image counts, notes, the cost of each part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """Time of a part, and the number of images that it measured."""

    seconds: float
    images: int  # behind its metrics, images drawn for one of them left out; 0: it has no metric

    def __str__(self) -> str:
        if not self.images:
            return f"{self.seconds:.1f} s"
        per_thousand = 1000 * self.seconds / self.images
        return f"{self.seconds:.1f} s ({per_thousand:.1f} s per 1,000 images)"


@dataclass
class Report:
    """Metrics of a split, with counts, notes and times."""

    split: str
    seed: int
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # `measured`, by name
    kl_per_latent: dict[str, Any] = field(default_factory=dict)  # `measured`: a list, nats
    separability: dict[str, Any] = field(default_factory=dict)  # `measured`: by attribute
    edits: dict[str, Any] = field(default_factory=dict)  # `measured`: `EditScores` by attribute
    examples: dict[str, Tensor] = field(default_factory=dict)  # of edits: not for the record
    notes: list[str] = field(default_factory=list)  # on what could not be measured
    costs: dict[str, Cost] = field(default_factory=dict)  # by part: not for the record

    def add(self, name: str, value: float, n: int, **how: Any) -> None:
        """Record a metric measured on n images."""
        self.figures[f"{self.split}/{name}"] = self.measured(value, n, **how)

    def measured(self, value: Any, n: int, **how: Any) -> dict[str, Any]:
        """Return a value with the number of images, the split and the seed behind it."""
        return {"value": value, "n": n, "split": self.split, "seed": self.seed, **how}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record the cost of a part."""
        start, before = time.monotonic(), len(self.figures)
        yield
        counts = [figure["n"] for figure in [*self.figures.values()][before:]]
        self.costs[name] = Cost(time.monotonic() - start, min(counts, default=0))
