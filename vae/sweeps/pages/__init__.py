r"""Pages of docs/experiments: blocks that are filled from results.

    <!-- table model.latent_dim | beta_elbo val/rate val/psnr -->
    ... made by `vae report`, never by hand ...
    <!-- end -->

A page has results of its own, in `results/<page>.csv` beside it; a third part names other ones:
`<!-- table loss.beta | val/rate | docs/experiments/results/exp_03_beta.csv -->`.

| block | what comes there |
| --- | --- |
| `set up` | what all runs have in common, in a sentence |
| `table KEYS \| COLUMNS` | a line for each combination of settings, means over seeds |
| `front OBJECTIVES \| COLUMNS` | the runs that no other beats |
| `best OBJECTIVE COUNT \| COLUMNS` | the best runs by one objective |
| `chosen KEYS by METRIC \| COLUMNS` | for each value of KEYS, means over the seeds of the setting |
| | whose mean is best |
| `paired A:B by METRIC \| COLUMNS` | mean differences over paired seeds, with 95 % intervals, of |
| | A = KEY=VALUE,... and B; `by METRIC`: each at its best setting |

Columns of `chosen` and `paired` may be of the test split, `test/bpd`: `vae report` measures it for
the runs in these blocks, and for no others.
| `pictures NAMES` | see `make_pictures` |
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

from vae.sweeps.charts import DOTS_PER_INCH, draw_charts, literal
from vae.sweeps.comparison import Comparison, is_log_scale, read_sweep, sort_key
from vae.sweeps.pages.statistics import (
    choice,
    chosen_rows,
    chosen_table,
    paired_table,
    pairs_of,
)
from vae.sweeps.pages.tables import (
    Row,
    cell,
    collect_results,
    describe_set_up,
    evaluation_metrics,
    format_figure,
    front,
    means_table,
    ranked,
    read_results,
    runs_table,
)
from vae.sweeps.report import PICTURES, draw_face_sheets
from vae.sweeps.results import parse_number
from vae.utils.errors import UserError
from vae.utils.files import read_text, write_atomically, write_text_atomically
from vae.utils.registry import find_metric
from vae.utils.tables import write_csv
from vae.utils.text import markdown_text, safe_name

KINDS = "set up|table|front|best|chosen|paired|pictures"
BLOCK = re.compile(rf"(<!-- ({KINDS})\b([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CAPTIONS = {name.removesuffix(".png"): what for name, what in PICTURES.items()}
RUN_FIGURES = (
    "reconstructions",
    "samples",
    "latents",
    "interpolation",
    "traversal",
)  # in its figures/


def make_page(page: Path, sweep: Path | str | None = None) -> list[Path]:
    """Fill a page's blocks; draw its pictures from the runs of `sweep`, if given.

    Args:
        page: a Markdown file with blocks as in `vae.sweeps.pages`.
        sweep: the folder of the runs, multirun/NAME; None: only the tables are made, from
            the results that are beside the page.

    Returns:
        The files that were written.

    Raises:
        UserError: the folder is no sweep's, a block asks for what there is not, ...
    """
    written, comparison = [], None
    if sweep is not None:
        comparison = read_sweep(sweep)
        blocks = BLOCK.findall(_text(page))
        # three parts: of another page's results
        own = " ".join(words for _, _, words, *_ in blocks if words.count("|") < 2)
        metrics = re.findall(r"(?<![^\s:,])val/[^\s:,|]+", own)
        results = results_file(page)
        rows = collect_results(comparison, dict.fromkeys(metrics))
        for _, kind, words, *_ in blocks:
            _add_test_metrics(rows, kind, [part.split() for part in words.split("|")], comparison)
        write_csv(rows, results)
        written.append(results)
    write_text_atomically(page, fill_page(page, comparison))
    return [*written, page]


def fill_page(page: Path, sweep: Comparison | None = None) -> str:
    """Return a page's Markdown with each block filled from the results beside it.

    Args:
        sweep: the sweep of the results, for drawing; None: draw nothing.

    Raises:
        UserError: a block cannot be made; names it.
    """

    def make(block: re.Match[str]) -> str:
        start, kind, words, _, end = block.groups()
        parts = [part.split() for part in words.split("|")]
        try:
            return f"{start}{_body(kind, parts, page, sweep)}\n{end}"
        except ValueError as error:
            raise UserError(
                f"{page}: {start.strip()}: has a malformed block ({error}). The syntax is in "
                "vae/sweeps/pages/__init__.py."
            ) from error
        except UserError as error:
            raise UserError(f"{page}: {start.strip()}: {error}") from error

    return BLOCK.sub(make, _text(page))


def _text(page: Path) -> str:
    try:
        return read_text(page)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page}: not a page of Markdown in UTF-8 ({error}).") from error


def results_file(page: Path) -> Path:
    """Return the results file of a page."""
    return page.parent / "results" / f"{page.stem}.csv"


def _body(kind: str, parts: list[list[str]], page: Path, sweep: Comparison | None) -> str:
    """Return the Markdown of a block; `parts` are the words between the bars."""
    others = page.parent / " ".join(parts.pop()) if len(parts) == 3 else None
    rows = read_results(others or results_file(page))
    match kind, parts:
        case "set up", _:
            return describe_set_up(rows)
        case "table", [keys, columns]:
            return means_table(rows, keys, columns)
        case "front", [objectives, columns]:
            return runs_table(front(rows, objectives), columns)
        case "best", [[objective, count], columns]:
            return runs_table(ranked(rows, [objective])[: int(count)], columns)
        case "chosen", [words, columns]:
            return chosen_table(rows, words, columns)
        case "paired", [words, columns]:
            return paired_table(rows, words, columns)
        case "pictures", [names]:
            return make_pictures(rows, names, page, sweep)
    raise ValueError("it takes other arguments")


def _add_test_metrics(
    rows: list[Row], kind: str, parts: list[list[str]], sweep: Comparison
) -> None:
    """Add the test metrics that a block asks for to the rows of the runs that it shows."""
    if kind not in ("chosen", "paired") or len(parts) != 2:
        return
    words, columns = parts
    if not (keys := [column for column in columns if column.startswith("test/")]):
        return
    if kind == "chosen":
        shown = chosen_rows(rows, *choice(words))
    else:
        shown = [row for _, *sides in pairs_of(rows, words) for side in sides for row in side]
    runs = {run.name: run for run in sweep.runs}
    for row in shown:
        missing = [key for key in keys if key not in row]
        found = evaluation_metrics(runs[row["run"]], missing)
        row |= {key: f"{value:.6g}" for key, value in found.items()}


def make_pictures(
    found: Sequence[Row], names: Sequence[str], page: Path, sweep: Comparison | None
) -> str:
    """Return Markdown links to the pictures of a page, with captions; draw them from `sweep`.

    Args:
        found: the results.
        names: `comparison`, `reconstructions`, `samples` of the whole sweep;
            `traversal:best:val/mig`, `traversal:worst:val/mig` and so on, of one run;
            `curves:KEY:FIGURE,FIGURE`, drawn of the results alone.
        page: the pictures are in `figures/<page>/` beside it; `curves:loss.beta:val/bpd` is
            curves_loss.beta.png.
        sweep: None: nothing is drawn.

    Raises:
        UserError: a name is none of a picture, or a run has no such figure.
    """
    links = []
    folder = page.parent / "figures" / page.stem
    for name in names:
        file = folder / f"{safe_name('_'.join(name.split(':')[:2]))}.png"
        match name.split(":"):
            case [picture] if picture in CAPTIONS:
                of = "all runs" if picture == "comparison" else "the first seed"
                caption = f"{CAPTIONS[picture]}; {of}"
            case ["curves", key, metrics]:
                caption = f"Against {key}: means over the seeds, and their standard deviation"
                if sweep:
                    draw_curves(found, key, metrics.split(","), file)
            case [picture, choice, metric]:
                if picture not in RUN_FIGURES or choice not in ("best", "worst"):
                    known = ", ".join(RUN_FIGURES)
                    raise UserError(f"{name}: is no picture; {known}:best:METRIC is.")
                run = ranked(found, [metric])[0 if choice == "best" else -1]
                value = format_figure(metric, cell(run, metric))
                caption = f"The {picture} of {cell(run, 'run')}, the {choice} by {metric} ({value})"
                if sweep:
                    folders = {one.name: one.folder for one in sweep.runs}
                    figure = folders.get(run["run"], sweep.folder) / "figures" / f"{picture}.png"
                    if not figure.is_file():
                        raise UserError(f"{name}: there is no {figure}.")
                    write_atomically(file, partial(shutil.copy, figure))
            case _:
                raise UserError(f"{name}: is no picture; {', '.join(CAPTIONS)} are.")
        link = file.relative_to(page.parent).as_posix()
        links.append(f"![{markdown_text(caption)}]({link})\n\n*{markdown_text(caption)}.*")
    if sweep and "comparison" in names:
        draw_charts(sweep, folder / "comparison.png")
    sheets = {"reconstructions", "samples"}.intersection(names)
    if sweep and sheets:
        seed = min((run.value("seed") for run in sweep.ranked), key=sort_key)
        first = [run for run in sweep.runs if run.value("seed") == seed]
        keys = [key for key in sweep.swept if key != "seed"]
        with TemporaryDirectory() as drawn:
            draw_face_sheets(replace(sweep, runs=first, swept=keys), Path(drawn))
            for sheet in sheets:
                made = Path(drawn, f"{sheet}.png")
                write_atomically(folder / made.name, partial(shutil.copy, made))
    return "\n\n".join(links)


def draw_curves(found: Sequence[Row], key: str, metrics: Sequence[str], path: Path) -> None:
    """Draw metrics against a setting: means and deviations over the runs of each value."""
    from matplotlib.figure import Figure

    labels = sorted({cell(row, key) for row in found}, key=sort_key)
    numbers = [number for label in labels if (number := parse_number(label)) is not None]
    numeric = len(numbers) == len(labels)
    places = numbers if numeric else [*map(literal, labels)]
    columns = min(len(metrics), 3)
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    for panel, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(lines, columns, panel)
        groups = [
            [float(cell(row, metric)) for row in found if row[key] == label] for label in labels
        ]
        means = [fmean(group) for group in groups]
        spreads = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
        line = "-" if numeric else ""
        axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, linestyle=line)
        if numeric:
            axes.set_xscale("log" if is_log_scale([x for x in numbers if x > 0]) else "linear")
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.set_xticks([], minor=True)
        axes.set(xlabel=literal(key), title=literal(find_metric(metric).label))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))
