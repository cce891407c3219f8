"""Untrusted text as a file name, in Markdown and on a terminal."""

import random
from functools import cache

import pytest
from markdown_it import MarkdownIt

from vae.utils.text import (
    MAX_NAME,
    markdown_block,
    markdown_code,
    markdown_text,
    plural,
    printable,
    safe_name,
    safe_names,
)

HOSTILE = [
    *("a/b", "a:b", "a_b", "../x", "/../../x/esc", "a b", "", ".", "..", "-", "a.", ".a"),
    *("c" * 300, "c" * 301, "顔" * 300, "p=[1,2]", "p=(1,2)", "con?", "a\nb", "a\0b", "\udcff"),
    *("\x1b[31mred", "\u202egpj.exe", "é", "<img src=x>", "a|b", "a`b``c", "# a", "[a](b)", "*a*"),
    *("=1+1", "@a", "$x$", "a|b`c", "a\\|b", "1. a", "- a", "---", "&lt;", "http://a.b"),
]
SIGNS = [*"\\`*_[]()<>&|~$#+-!{}:./=^ \n\t\x1b1a", "<img src=x>", "```", "&lt;", "1. ", "[a](b)"]
MIXED = ["".join(random.Random(i).choices(SIGNS, k=1 + i % 12)) for i in range(60)]


def test_a_text_becomes_a_name_for_any_file_system(tmp_path):
    for text in HOSTILE:
        name = safe_name(text)
        assert len(name.encode()) <= MAX_NAME + 9
        assert not set(name) & set('/\\:*?"<>| []\n\0\x1b\u202e')
        assert name.strip(".") == name
        assert name[0] != "-"
        (tmp_path / name).mkdir()  # of no other text
    for device in ("con", "NUL.txt", "Lpt1"):
        assert safe_name(device).partition(".")[0].lower() not in ("con", "nul", "lpt1")
    alike = ("a/b", safe_name("a/b"), "\u1112\u1161", "\ud558")
    assert len({safe_name(text) for text in alike}) == 4


def test_names_that_differ_in_case_alone_are_different_files():
    names = safe_names(["Smiling", "smiling", "Young", "Young"])
    assert len({name.lower() for name in names}) == 3
    assert names[2:] == ["Young", "Young"]


def test_a_text_that_is_a_name_stays():
    for text in ("beta", "loss.beta=1e-05,model.latent_dim=64", "me.jpg", "Müller"):
        assert safe_name(text) == text
    assert len(safe_name("Wearing_Necktie_or_scarf", 10)) == 10 + 9


def test_printable_text_is_one_line_without_control_characters():
    for text in HOSTILE:
        assert printable(text).isprintable()
    assert printable("Müller 顔") == "Müller 顔"
    assert printable("a\r\nb") == "a\\r\\nb"


@cache
def parsed(markdown):
    """The kinds of tokens in Markdown, and the text that a reader sees."""
    found = MarkdownIt("commonmark").enable("table").parse(markdown)
    found = [part for token in found for part in (token.children or [token])]
    kinds = ("text", "text_special", "code_inline")
    rest = [token.type for token in found if token.type not in kinds]
    return rest, "".join(token.content for token in found if token.type in kinds)


@pytest.mark.parametrize(
    "place", ["{}", "# {}", "- **n** {}", "[{}](<a>)", "*{}.*", "| a |\n| --- |\n| {} |"]
)
def test_markdown_shows_text_literally(place):
    for text in HOSTILE + MIXED:
        collapsed = printable(" ".join(text.split()))
        for made, shown in (
            (markdown_text(text), collapsed),
            (markdown_code(text), printable(text)),
        ):
            kinds, found = parsed(place.format(made))
            plain, around = parsed(place.format("x" if shown.strip() else ""))
            assert (kinds, text) == (plain, text)
            expected = around.replace("x", shown) if shown.strip() else around
            assert "".join(found.split()) == "".join(expected.split())


def test_a_block_of_code_holds_all_its_lines():
    for text in HOSTILE + MIXED:
        tokens = MarkdownIt().parse(f"x\n\n{markdown_block([text, 'y'], 'bash')}\n\nz")
        (block,) = [token for token in tokens if token.type == "fence"]
        assert block.content == f"{printable(text)}\ny\n"
        assert len(tokens) == 7


def test_plurals():
    assert [plural(n, "run") for n in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
