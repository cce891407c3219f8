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
from collections.abc import Callable
from pathlib import Path

from vae.sweeps.comparison import read_sweep
from vae.sweeps.pages.pictures import draw_pictures, picture_links
from vae.sweeps.pages.tables import (
    best_table,
    collect_results,
    describe_set_up,
    front_table,
    means_table,
    read_results,
)
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically
from vae.utils.tables import write_csv

KINDS = "set up|table|front|best|pictures"
BLOCK = re.compile(rf"(<!-- ({KINDS})\b([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def fill_page(page: Path) -> str:
    """Return a page's Markdown with each block filled from the results beside it.

    Raises:
        UserError: a block cannot be made; names it.
    """

    def make(block: re.Match[str]) -> str:
        start, kind, words, _, end = block.groups()
        try:
            return f"{start}{_body(kind, words, page)}\n{end}"
        except UserError as error:
            raise UserError(f"{page}: {start.strip()}: {error}") from error

    return BLOCK.sub(make, page.read_text(encoding="utf-8"))


def required_metrics(page: Path) -> list[str]:
    """Return the metrics that a page's blocks need of each of its runs."""
    wanted = []
    for kind, words, _ in _blocks(page):
        parts = [part.split() for part in words.split("|")]
        if kind in ("table", "front", "best") and len(parts) == 2:
            wanted += [key for part in parts for key in part]
        if kind == "pictures":
            named = [word.rpartition(":")[2] for word in words.split()]
            wanted += [key for name in named for key in name.split(",")]
    return [key for key in dict.fromkeys(wanted) if key.startswith("val/")]


def required_pictures(page: Path) -> list[str]:
    """Return the names of a page's pictures."""
    lists = [words.split() for kind, words, _ in _blocks(page) if kind == "pictures"]
    return [name for names in lists for name in names]


def results_file(page: Path) -> Path:
    """Return the results file of a page."""
    return page.parent / "results" / f"{page.stem}.csv"


def handwritten_text(page: Path) -> str:
    """Return the handwritten text of a page, without blocks and code."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)


def generated_text(page: Path) -> str:
    """Return the text of a page's blocks."""
    return "\n".join(body for _, _, body in _blocks(page))


def _blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return kind, arguments and body of each block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(kind, words, body) for _, kind, words, body, _ in found]


def _body(kind: str, words: str, page: Path) -> str:
    parts = [part.split() for part in words.split("|")]
    others = page.parent / parts.pop()[0] if len(parts) == 3 else None
    rows = read_results(others or results_file(page))
    makers: dict[str, Callable[..., str]] = {
        "set up": lambda _: describe_set_up(rows),
        "table": lambda keys, columns: means_table(rows, keys, columns),
        "front": lambda objectives, columns: front_table(rows, objectives, columns),
        "best": lambda chosen, columns: best_table(rows, chosen[0], int(chosen[1]), columns),
        "pictures": lambda names: picture_links(rows, names, page),
    }
    try:
        return makers[kind](*parts)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"has a malformed block ({error}). The syntax is in vae/sweeps/pages/__init__.py."
        ) from error


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
        found = collect_results(comparison, required_metrics(page))
        write_csv(found, results_file(page))
        draw_pictures(read_results(results_file(page)), required_pictures(page), page, comparison)
        written.append(results_file(page))
    write_text_atomically(page, fill_page(page))
    return [*written, page]
