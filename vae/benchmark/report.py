"""The benchmark's record as aligned tables."""

from __future__ import annotations

from statistics import median
from typing import Any

from vae.benchmark.statistics import ENOUGH, QUIET


def as_text(found: dict[str, Any]) -> str:
    """The record of `run_benchmark` for a person."""
    sizes, place = found["setting"], found["machine"]
    parts = [
        f"{place['cpu']}, {place['cores']} cores; on {place['device']} with {place['threads']} "
        f"threads; torch {place['torch']}\n"
        f"{found['rounds']} rounds in turns: medians (quartiles). Rounds in which other processes "
        f"took over {QUIET:g} of a core\nare dropped, or all kept and marked ! where fewer than "
        f"{ENOUGH} would remain.",
        f"training step, {sizes['batch']} images of {sizes['image_size']} px, "
        f"{found['flops_per_image'] / 1e6:,.0f} MFLOP an image when folded\n"
        + aligned(_training(found["training"])),
        "upsampling layers, forward and backward; * is the form that the rule chooses\n"
        + aligned(_layers(found["layers"])),
        "the machine's peak: matrix products\n" + aligned(_matrix(found["matrix"])),
        "loading images\n" + aligned(_data(found["data"])),
        "evaluation\n" + aligned(_evaluation(found["evaluation"])),
    ]
    for axis, rows in (found["growth"] or {}).items():
        title = f"growth with {axis}; beside linear: from the row before, 1 is as the FLOPs"
        parts.append(f"{title}\n{aligned(_growth(rows))}")
    if rows := found["quality"]:
        title = "time to the validation PSNR that the plain means have after 1,000 steps"
        parts.append(f"{title}: medians (least to most)\n{aligned(_quality(rows))}")
    return "\n\n".join(parts)


def aligned(rows: list[list[str]]) -> str:
    """A table, its header first: words to the left, all that follows to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits or all before the point: 1,234 and 12.3 and 0.12."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _figure(figure: dict[str, Any]) -> list[str]:
    """Cells: median, quartiles, rounds that count."""
    count = len(figure["values"])
    disturbed = figure["dropped"] == 0 and any(others > QUIET for others in figure["others"])
    return [
        number(figure["median"]),
        f"({number(figure['low'])} to {number(figure['high'])})",
        f"{count - figure['dropped']} of {count}{'!' * disturbed}",
    ]


def _training(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["variant", "in", "images/s", "", "rounds"]]
    table[0] += ["against plain", "of the peak", "compiling, s"]
    for row in rows:
        seconds = row["compile_seconds"]
        cells = [*_figure(row["images_per_second"]), number(row["ratio"])]
        cells += [number(row["share_of_peak"]), "" if seconds is None else number(seconds)]
        table.append([row["variant"], row["precision"], *cells])
    return table


def _layers(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["layer and form", "ms", "", "rounds", "against plain"]]
    for row in rows:
        name = f"{row['layer']}, {row['form']}{' *' * row['chosen']}"
        table.append([name, *_figure(row["milliseconds"]), number(row["ratio"])])
    return table


def _matrix(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["precision", "GFLOP/s", "", "rounds"]]
    return table + [[row["precision"], *_figure(row["gflops_per_second"])] for row in rows]


def _data(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["loading", "images/s", "", "rounds", "against 0 workers", "of a training step"]]
    for row in rows:
        name = "packed" if row["loading"] == "packed" else f"JPEG files, {row['loading']}"
        cells = [*_figure(row["images_per_second"]), number(row["ratio"])]
        table.append([name, *cells, f"{row['share_of_step']:.1%}"])
    return table


def _evaluation(row: dict[str, Any]) -> list[list[str]]:
    header = ["of", "images/s", "", "rounds", "against training"]
    cells = [*_figure(row["images_per_second"]), number(row["ratio_to_training"])]
    return [header, ["the metrics of a split", *cells]]


def _growth(rows: list[dict[str, Any]]) -> list[list[str]]:
    header = ["case", "images/s", "", "rounds", "MFLOP/image", "MB/image"]
    table = [[*header, "time, beside linear", "memory, beside linear"]]
    for row in rows:
        per_image = (row["flops_per_image"], row["peak_bytes"] / row["batch"])
        growth = (row["time_growth"], row["memory_growth"])
        cells = [*_figure(row["images_per_second"]), *(number(value / 1e6) for value in per_image)]
        cells += ["" if value is None else number(value) for value in growth]
        table.append([row["case"], *cells])
    return table


def _quality(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["means", "reached", "dB", "steps", "seconds", "", "times as fast", ""]]
    for means in dict.fromkeys(row["means"] for row in rows):
        runs = [row for row in rows if row["means"] == means]
        reached = [row for row in runs if row["seconds"] is not None]
        cells = [f"{len(reached)} of {len(runs)}"]
        if reached:
            cells += [_spread(reached, "target")[0], _spread(reached, "steps")[0]]
            cells += [*_spread(reached, "seconds"), *_spread(reached, "ratio")]
        table.append([means, *cells, *[""] * (7 - len(cells))])
    return table


def _spread(rows: list[dict[str, Any]], key: str) -> list[str]:
    """Cells: median, least to most."""
    values = [row[key] for row in rows]
    return [number(median(values)), f"({number(min(values))} to {number(max(values))})"]
