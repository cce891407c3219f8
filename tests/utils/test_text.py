"""Untrusted text as a file name, in Markdown and on a terminal."""

from vae.utils.text import MAX_NAME, printable, safe_name

HOSTILE = [
    *("a/b", "a:b", "a_b", "../x", "/../../x/esc", "a b", "", ".", "..", "-", "a.", ".a"),
    *("c" * 300, "c" * 301, "顔" * 300, "p=[1,2]", "p=(1,2)", "con?", "a\nb", "a\0b", "\udcff"),
    *("\x1b[31mred", "\u202egpj.exe", "é", "<img src=x>", "a|b", "a`b``c", "# a", "[a](b)", "*a*"),
]


def test_a_text_becomes_a_name_for_any_file_system(tmp_path):
    for text in HOSTILE:
        name = safe_name(text)
        assert len(name.encode()) <= MAX_NAME + 9
        assert not set(name) & set('/\\:*?"<>| []\n\0\x1b\u202e')
        assert name.strip(".") == name
        (tmp_path / name).mkdir()  # of no other text


def test_a_text_that_is_a_name_stays():
    for text in ("beta", "loss.beta=1e-05,model.latent_dim=64", "me.jpg", "Müller"):
        assert safe_name(text) == text
    assert len(safe_name("Wearing_Necktie_or_scarf", 10)) == 10 + 9


def test_printable_text_is_one_line_without_control_characters():
    for text in HOSTILE:
        assert printable(text).isprintable()
    assert printable("Müller 顔") == "Müller 顔"
    assert printable("a\r\nb") == "a\\r\\nb"
