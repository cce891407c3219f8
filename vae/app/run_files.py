"""Files of a run's folder as the page shows them. They may come from somebody else."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.data.base import ImageError
from vae.runs.load import METRICS_FILE
from vae.sweeps.chart_scales import literal
from vae.sweeps.charts import DOTS_PER_INCH
from vae.sweeps.results import parse_number
from vae.utils.files import read_bytes, read_json, read_rows
from vae.utils.registry import find_metric
from vae.utils.text import plural, printable, truncate

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ROWS = 100_000  # of metrics.jsonl
MAX_KEYS = 200  # of curves, and of metrics in metrics.json
MAX_CELL = 80  # characters of a name or a value
MAX_BYTES = 20 * 2**20  # of a figure
MAX_PIXELS = 20_000_000
X_AXES = ("step", "epoch", "images")  # of a row, no curves

FIGURES = {  # of `vae.generation.figures.draw_figures`, with alternative texts
    "reconstructions": "Validation faces, each with its reconstruction below it",
    "samples": "Faces decoded from a Gaussian fitted to the latents, and from the prior",
    "latents": "KL divergence and distribution of the latents",
    "interpolation": "Rows of faces, each between two validation faces",
    "traversal": "Rows of faces, each with one latent moved from -3 to +3 standard deviations",
}


@dataclass(frozen=True)
class Curve:
    """The values of a logged key."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def describe(self, key: str) -> str:
        """Return the curve in words, for those who do not see it."""
        shown = find_metric(key).format
        least = int(np.argmin(self.values))
        return printable(
            f"Learning curve of {key}, {plural(len(self.values), 'value')}: "
            f"{shown(self.values[0])} at step {self.steps[0]}, "
            f"{shown(self.values[-1])} at step {self.steps[-1]}; "
            f"the least is {shown(self.values[least])}, at step {self.steps[least]}."
        )

    def draw(self, key: str) -> Image:
        """Draw the curve over the optimizer's steps."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image

        figure = Figure(figsize=(6.4, 3.6), dpi=DOTS_PER_INCH)
        axes = figure.add_axes((0.16, 0.14, 0.81, 0.76))  # a layout would take as long again
        axes.plot(self.steps, self.values, marker="." if len(self.values) < 100 else "")
        axes.set(xlabel="step", ylabel=literal(find_metric(key).label), title=literal(key))
        axes.grid(alpha=0.3)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read the curves of metrics.jsonl by key; {} if it cannot be read.

    At most MAX_ROWS rows and MAX_KEYS keys.
    """
    curves: dict[str, Curve] = {}
    try:
        for _, row in islice(read_rows(folder / "metrics.jsonl"), MAX_ROWS):
            step = parse_number(row.pop("step", None))
            for key, value in row.items():
                number = parse_number(value)
                known = key in curves or (len(curves) < MAX_KEYS and len(key) <= MAX_CELL)
                if step is not None and number is not None and known and key not in X_AXES:
                    curve = curves.setdefault(key, Curve())
                    curve.steps.append(int(step))
                    curve.values.append(number)
    except OSError:
        return {}
    return curves


def read_figure(folder: Path, name: str) -> Image:
    """Read one of FIGURES of a run.

    Raises:
        ImageError: it is not there, or no PNG of at most MAX_BYTES and MAX_PIXELS.
    """
    from PIL import Image

    shown = f"figures/{name}.png"
    if name not in FIGURES:
        raise ImageError(f"There is no figure {name!r}.")
    try:
        content = read_bytes(folder / "figures" / f"{name}.png", MAX_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"The run has no {shown}.") from error
    except OSError as error:
        raise ImageError(f"{shown}: cannot be read ({error.strerror}).") from error
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height <= MAX_PIXELS:
                return image.convert("RGB")
    except Exception as error:  # Pillow's reader raises nearly anything on damaged bytes
        raise ImageError(f"{shown}: is not a PNG, or damaged.") from error
    raise ImageError(f"{shown}: too large: more than {MAX_PIXELS:,} pixels.")


def read_evaluation(folder: Path) -> tuple[str, list[list[str]]]:
    """Read the metrics that `vae evaluate` has written.

    Returns:
        The checkpoint that they are of, as text, and rows of name, value, n, split and seed; no
        rows if there is no such file.
    """
    record = read_json(folder / METRICS_FILE)
    metrics = record.get("metrics")
    rows = []
    for name, entry in islice(metrics.items() if isinstance(metrics, dict) else (), MAX_KEYS):
        entry = entry if isinstance(entry, dict) else {"value": entry}
        value = parse_number(entry.get("value"))
        shown = _cell(entry.get("value")) if value is None else find_metric(name).format(value)
        rows.append(
            [_cell(name), shown, *(_cell(entry.get(key)) for key in ("n", "split", "seed"))]
        )
    about = f"checkpoint {_cell(record.get('checkpoint'))}, step {_cell(record.get('step'))}"
    return about, rows


def _cell(value: Any) -> str:
    return "" if value is None else truncate(str(value), MAX_CELL)
