"""Rows of results as Markdown: tables of means over seeds, and what all runs had in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from vae.errors import UserError
from vae.experiments.results import Row
from vae.metrics import MAXIMISED
from vae.sweeps.comparison import brief, pareto_front, rank
from vae.sweeps.runs import number

DIGITS = {  # behind the point, of figures; others have four digits in all
    "val/bpd": 3,
    "best/val/bpd": 3,
    "best/step": 0,
    "val/rate": 1,
    "val/distortion": 1,
    "val/psnr": 2,
    "val/ssim": 3,
    "val/mse": 5,
    "val/active_units": 1,
    "val/aggregate_kl": 1,
    "seconds": 0,
}
HIGHER = (  # is better; of the rest, lower
    *MAXIMISED,
    *("val/mig", "val/sap", "val/factorvae_score", "val/attribute_separability"),
    *("val/dci_disentanglement", "val/dci_completeness", "val/dci_informativeness"),
)
FACES = {"synthetic": "drawn faces", "celeba": "images of CelebA", "folder": "images of a folder"}


def table(found: Sequence[Row], keys: Sequence[str], figures: Sequence[str]) -> str:
    """One line for each combination of settings: the figures' means over its runs.

    Where a line is of several runs, a mean has beside it their standard deviation.

    Args:
        found: one row a run.
        keys: the settings whose values are told apart.
        figures: the columns.

    Raises:
        UserError: the rows lack one of these.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(found, key=lambda row: [rank(_of(row, key)) for key in keys]):
        groups.setdefault(tuple(_of(row, key) for key in keys), []).append(row)
    lines = [
        [*(_setting(value) for value in values), *(_mean(rows, key) for key in figures)]
        for values, rows in groups.items()
    ]
    return _markdown([*keys, *figures], lines)


def front(found: Sequence[Row], objectives: Sequence[str], columns: Sequence[str]) -> str:
    """The runs that no other beats in all objectives, by the first of them."""
    costs = [[_cost(row, key) for key in objectives] for row in found]
    chosen = sorted(pareto_front(costs), key=lambda place: costs[place])
    return _runs([found[place] for place in chosen], columns)


def best(found: Sequence[Row], objective: str, count: int, columns: Sequence[str]) -> str:
    """The best runs by one objective, the best first."""
    ordered = sorted(found, key=lambda row: _cost(row, objective))
    return _runs(ordered[:count], columns)


def best_row(found: Sequence[Row], objective: str, worst: bool = False) -> Row:
    """The best run by one objective, or the worst."""
    return sorted(found, key=lambda row: _cost(row, objective))[-1 if worst else 0]


def set_up(found: Sequence[Row]) -> str:
    """What all runs had in common, in one paragraph: data, steps, seeds, machine, time."""

    def values(key: str) -> list[str]:
        return sorted({row.get(key, "") for row in found} - {""}, key=rank)

    def one_of(key: str) -> str:
        return " or ".join(values(key))

    faces = " and ".join(FACES.get(name, name) for name in values("data.name"))
    preset = f" (`{one_of('data.preset')}`)" if values("data.preset") else ""
    images = int(found[0]["data.num_images"] or 0)
    count = f"{images:,} " if images else ""
    minutes = sum(float(row["seconds"]) for row in found) / 60
    seeds = values("seed")
    runs = (
        f"{len(found)} runs, {minutes:.0f} minutes of training"
        if len(found) > 1
        else (f"One run, {minutes:.0f} minutes of training")
    )
    what = f"{count}{faces}{preset} at {one_of('data.image_size')} px"
    return (
        f"{what[0].upper()}{what[1:]}, {one_of('step')} steps of "
        f"{one_of('data.batch_size')} images by {one_of('optimizer.name')}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}. {runs} in all, in "
        f"{one_of('precision')} on {one_of('machine')}."
    )


def _runs(chosen: Iterable[Row], columns: Sequence[str]) -> str:
    """One line a run, as it was measured."""
    lines = [
        [as_text(key, row[key]) if "/" in key else _setting(_of(row, key)) for key in columns]
        for row in chosen
    ]
    return _markdown(columns, lines)


def _markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = [f"`{key}`" for key in heads]
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _mean(rows: Sequence[Row], key: str) -> str:
    values = [float(_of(row, key)) for row in rows if _of(row, key)]
    if not values:
        return ""
    mean = as_text(key, fmean(values))
    alike = len(values) == 1 or max(values) == min(values)
    return mean if alike else f"{mean} ± {as_text(key, stdev(values))}"


def as_text(key: str, value: float | str) -> str:
    """A figure or a setting with as many digits as it deserves."""
    found = float(value)
    if (digits := DIGITS.get(key)) is not None:
        return f"{found:.{digits}f}"
    return f"{found:.3f}" if "/" in key and abs(found) < 10 else f"{found:.4g}"


def _setting(value: str) -> str:
    found = number(value)
    return value if found is None or value.isdigit() else brief(found)


def _cost(row: Row, key: str) -> float:
    value = float(_of(row, key))
    return -value if key in HIGHER else value


def _of(row: Row, key: str) -> str:
    if key not in row:
        raise UserError(f"{key}: the results have no such column; they have {', '.join(row)}.")
    return row[key]
