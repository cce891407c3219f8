"""Tables: aligned for terminals, in Markdown, and as CSV."""

import csv

from tests.utils.test_text import HOSTILE, parsed
from vae.utils.tables import format_table, markdown_table, read_csv, write_csv
from vae.utils.text import Markdown


def test_columns_are_aligned():
    rows = [["a", "b", "c"], ["word", "12", "3"], ["x", "", "1,000"]]
    assert format_table(rows) == "a      b      c\nword  12      3\nx         1,000"
    assert format_table(rows, left=2) == "a     b       c\nword  12      3\nx         1,000"
    assert format_table([["run", "of"], ["x", ""]], left=2) == "run  of\nx"


def test_markdown_has_a_line_below_the_heads():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_csv_has_a_column_for_each_key(tmp_path):
    path = tmp_path / "new" / "t.csv"
    write_csv([{"run": "β, 1", "seed": None}, {"run": 'a "b"\nc', "step": 0.1}], path)
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["run", "seed", "step"],
            ["β, 1", "", ""],
            ['a "b"\nc', "", "0.1"],
        ]
    assert b"\r" not in path.read_bytes()
    assert list(path.parent.iterdir()) == [path]  # no temporary file


FORMULAS = ("=1+1", "-1+cmd|' /C calc'!A0", "+x=1", "@a", "\t=1", "\r=1", "b\r=1", "'=1", "''@")


def test_no_cell_is_a_formula_and_all_are_read_back(tmp_path):
    """Numbers stay as they are."""
    texts = [*FORMULAS, *HOSTILE, "'a", "-1.5", "+1e-05"]
    write_csv([{text: text} for text in texts] + [{"=n": -3.5}], tmp_path / "t.csv")
    raw = (tmp_path / "t.csv").read_bytes()
    assert b"\r" not in raw
    for cell in [cell for row in csv.reader(raw.decode().splitlines(True)) for cell in row]:
        assert cell[:1] not in [*"=@\t\n+-"] or cell in ("-1.5", "+1e-05", "-3.5")
    rows = read_csv(tmp_path / "t.csv")
    for row, text in zip(rows, texts, strict=False):
        shown = text.encode(errors="backslashreplace").decode().replace("\r", "\n")
        assert set(row.values()) == {shown, ""}
        assert text == "" or row[shown] == shown
    assert rows[-1]["=n"] == "-3.5"


def test_cells_are_escaped():
    for text in HOSTILE:
        kinds, _ = parsed(markdown_table([text, "b"], [["1", text], [Markdown("**2**"), ""]]))
        assert kinds.count("td_open") == 4
        assert kinds.count("strong_open") == 1
        assert not {"html_inline", "html_block", "link_open", "image"} & set(kinds)
        lines = format_table([[text, "b"], ["1", text]]).split("\n")
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)
