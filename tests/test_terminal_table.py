"""Tables in a narrow terminal: where words and names break."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from patchword.show.terminal_table import table, widths

NAMES = ["black-heart-orange-triangle-and-red-crescent.jpg", "wafers/edge-chip-1.jpg"]
CAPTION = "a wafer with a long scratch and a stain"


def printed(out: Table, width: int) -> list[str]:
    """The lines of a table in a terminal."""
    file = io.StringIO()
    Console(file=file, width=width).print(out)
    return file.getvalue().splitlines()


def matches() -> Table:
    out = table("in samples", "text", "match", right=("match",))
    for name in NAMES:
        out.add_row(name, Text(CAPTION, style="bold"), "99.9%")
    return out


@pytest.mark.parametrize("width", [200, 100, 90, 80, 70, 60, 50, 40, 30])
def test_names_break_after_hyphens_and_slashes_and_texts_between_words(width: int) -> None:
    lines = printed(matches(), width)
    assert max(map(len, lines)) <= width
    assert sum("99.9%" in line for line in lines) == 2
    starts = [line.index("99.9%") for line in lines if "99.9%" in line]
    assert len(set(starts)) == 1
    firsts = [line[: starts[0]].split("   ")[0].strip() for line in lines[2:]]
    pieces = [piece for piece in firsts if piece]
    assert "".join(pieces) == "".join(NAMES)
    assert all(piece.endswith(("-", "/", ".jpg")) for piece in pieces)
    if width >= 70:  # columns are not narrower than needed
        assert len(lines) <= 2 + 2 * 3
    if width == 200:
        assert len(lines) == 4


def test_nothing_is_lost_where_parts_of_names_do_not_fit() -> None:
    lines = printed(matches(), 20)
    assert max(map(len, lines)) <= 20
    found = "".join("".join(line.split()) for line in lines)
    assert sorted(found.replace("─", "")) == sorted(
        "".join(["insamples", "text", "match", *NAMES, *[CAPTION.replace(" ", ""), "99.9%"] * 2])
    )


def test_a_broken_note_keeps_its_indentation() -> None:
    out = table("checkpoint", "size", right=("size",))
    out.add_row("RN50.pt\n  vision encoder of LLaVA and text encoder of another", "102 M")
    lines = printed(out, 34)[2:]
    assert [line[:2] for line in lines] == ["RN", *["  "] * (len(lines) - 1)]
    assert len(lines) >= 3


def test_names_do_not_break_where_texts_fit_on_two_lines() -> None:
    texts = ("wafers/perfect-1.jpg", "is the wafer perfect?", "does not know", "probability")
    found = widths([[Text(text)] for text in texts], 51)
    assert (found[0], found[3], sum(found)) == (20, 11, 51)


def test_columns_move_closer_before_numbers_and_words_break() -> None:
    numbers = ("images", "top-1", "top-5", "mean per class")
    out = table("task", *numbers, "", right=numbers)
    out.add_row("zero-shot", "5", "100.0%", "100.0%", "100.0%", "1 template")
    out.add_row("probe", "5", "100.0%", "100.0%", "100.0%", "C = 5.62e+05, 13 training images")
    lines = printed(out, 50)
    assert max(map(len, lines)) <= 50
    assert "zero-shot      5 100.0% 100.0%    100.0% 1" in lines[3]
    assert {"template", "5.62e+05,", "training"} <= set(" ".join(lines).split())


@pytest.mark.parametrize("width", [8, 11, 14])
def test_a_broken_word_leaves_no_empty_line(width: int) -> None:
    out = table("a", "b")
    out.add_row("unbreakable", "1 template")
    lines = printed(out, width)
    assert all(line.strip() for line in lines)


def test_control_characters_of_names_are_escaped() -> None:
    out = table("image")
    out.add_row("\x1b[31mred\x9b.jpg")
    out.add_row("\u202egpj.exe\ttab")
    lines = printed(out, 60)
    assert "\\x1b[31mred\\x9b.jpg" in "\n".join(lines)
    assert "\\u202egpj.exe" in "\n".join(lines)
    assert "\x1b" not in "\n".join(lines)


def test_bytes_that_are_not_utf8_are_escaped_within_the_width() -> None:
    out = table("image", "text")
    out.add_row("caf\udce9.jpg", CAPTION)
    lines = printed(out, 40)
    assert "caf\\udce9.jpg" in "\n".join(lines)
    assert max(map(len, lines)) <= 40


def test_beside_a_long_name_numbers_and_words_do_not_break() -> None:
    out = table("image", "caption", "cosine", right=("cosine",))
    out.add_row(f"{'e3b0c44298fc1c14' * 4}.jpg", "a wafer with a stain", "-0.034")
    lines = printed(out, 60)
    first = lines[2]
    assert "-0.034" in first
    assert "a wafer with" in first
