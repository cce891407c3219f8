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
| `pictures NAMES` | what `vae.sweeps.pages.pictures` draws |
"""

from __future__ import annotations

import re
from pathlib import Path

from vae.sweeps.comparison import read_sweep
from vae.sweeps.pages.pictures import draw_pictures, picture_links
from vae.sweeps.pages.tables import (
    collect_results,
    describe_set_up,
    front,
    means_table,
    ranked,
    read_results,
    runs_table,
)
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically
from vae.utils.tables import write_csv

KINDS = "set up|table|front|best|pictures"
BLOCK = re.compile(rf"(<!-- ({KINDS})\b([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


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
    written = []
    if sweep is not None:
        comparison = read_sweep(sweep)
        results = results_file(page)
        write_csv(collect_results(comparison, required_metrics(page)), results)
        names = [name for kind, parts in _blocks(page) if kind == "pictures" for name in parts[0]]
        draw_pictures(read_results(results), names, page, comparison)
        written.append(results)
    write_text_atomically(page, fill_page(page))
    return [*written, page]


def fill_page(page: Path) -> str:
    """Return a page's Markdown with each block filled from the results beside it.

    Raises:
        UserError: a block cannot be made; names it.
    """

    def make(block: re.Match[str]) -> str:
        start, kind, words, _, end = block.groups()
        try:
            return f"{start}{_body(kind, _parts(words), page)}\n{end}"
        except UserError as error:
            raise UserError(f"{page}: {start.strip()}: {error}") from error

    return BLOCK.sub(make, page.read_text(encoding="utf-8"))


def required_metrics(page: Path) -> list[str]:
    """Return the metrics that a page's blocks need of each of its runs."""
    keys: list[str] = []
    for kind, parts in _blocks(page):
        if kind == "pictures":
            keys += [key for name in parts[0] for key in name.rpartition(":")[2].split(",")]
        elif len(parts) < 3:  # else of another page's results
            keys += [key for part in parts for key in part]
    return [key for key in dict.fromkeys(keys) if key.startswith("val/")]


def results_file(page: Path) -> Path:
    """Return the results file of a page."""
    return page.parent / "results" / f"{page.stem}.csv"


def _blocks(page: Path) -> list[tuple[str, list[list[str]]]]:
    """Return kind and arguments of each block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(kind, _parts(words)) for _, kind, words, *_ in found]


def _parts(words: str) -> list[list[str]]:
    """Return a block's arguments: the words between the bars."""
    return [part.split() for part in words.split("|")]


def _body(kind: str, parts: list[list[str]], page: Path) -> str:
    """Return the Markdown of a block."""
    others = page.parent / " ".join(parts.pop()) if len(parts) == 3 else None
    rows = read_results(others or results_file(page))
    try:
        match kind, parts:
            case "set up", _:
                return describe_set_up(rows)
            case "table", [keys, columns]:
                return means_table(rows, keys, columns)
            case "front", [objectives, columns]:
                return runs_table(front(rows, objectives), columns)
            case "best", [[objective, count], columns]:
                return runs_table(ranked(rows, [objective])[: int(count)], columns)
            case "pictures", [names]:
                return picture_links(rows, names, page)
            case _:
                raise ValueError("it takes other arguments")
    except ValueError as error:
        raise UserError(
            f"has a malformed block ({error}). The syntax is in vae/sweeps/pages/__init__.py."
        ) from error
