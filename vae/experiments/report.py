"""A page of docs/experiments made anew: its results, its pictures, its tables."""

from __future__ import annotations

from pathlib import Path

from vae.experiments.pages import figures_wanted, fill, pictures_wanted, results_of
from vae.experiments.pictures import draw_pictures
from vae.experiments.results import collect, read_results, write_results
from vae.files import write_text_atomically
from vae.sweeps.comparison import read_sweep


def make_page(page: Path, sweep: Path | str | None = None) -> list[Path]:
    """Fill a page's blocks, and draw its pictures where there are runs to draw them from.

    Args:
        page: a Markdown file with blocks as in `vae.experiments.pages`.
        sweep: the folder of the runs, multirun/NAME; None: only the tables are made, from
            the results that are beside the page.

    Returns:
        The files that were written.

    Raises:
        UserError: the folder is no sweep's, a block asks for what there is not, ...
    """
    written = []
    if sweep is not None:
        comparison = read_sweep(sweep)
        found = collect(comparison, figures_wanted(page))
        write_results(found, results_of(page))
        draw_pictures(read_results(results_of(page)), pictures_wanted(page), page, comparison)
        written.append(results_of(page))
    write_text_atomically(page, fill(page))
    return [*written, page]
