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
| `within KEYS \| A:B ...` | for each combination of settings, mean differences between metrics A |
| | and B of the same runs, with 95 % intervals |
| `fits FIGURES \| KEYS` | least squares of figures on the logarithms of settings: R², exponents |
| `pictures NAMES` | see `make_pictures` |

Columns of `chosen` and `paired` may be of the test split, `test/bpd`: `vae report` measures it for
the runs in these blocks, and for no others.
"""

from __future__ import annotations

import re
from pathlib import Path

from vae.sweeps.comparison import Comparison, read_sweep
from vae.sweeps.pages.pictures import make_pictures
from vae.sweeps.pages.statistics import (
    choice,
    chosen_rows,
    chosen_table,
    fits_table,
    paired_table,
    pairs_of,
    within_table,
)
from vae.sweeps.pages.tables import (
    Row,
    collect_results,
    describe_set_up,
    evaluation_metrics,
    front,
    means_table,
    ranked,
    read_results,
    runs_table,
)
from vae.utils.errors import UserError
from vae.utils.files import read_text, write_text_atomically
from vae.utils.tables import write_csv

KINDS = "set up|table|front|best|chosen|paired|within|fits|pictures"
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
        case "within", [keys, columns]:
            return within_table(rows, keys, columns)
        case "fits", [figures, keys]:
            return fits_table(rows, figures, keys)
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
