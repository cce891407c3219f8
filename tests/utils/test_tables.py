"""Tables: aligned for terminals, in Markdown, and as CSV."""

import csv

from vae.utils.tables import format_table, markdown_table, write_csv


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
