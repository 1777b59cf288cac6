"""Tables in a narrow terminal: where words and names break."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from patchword.show.terminal_table import table, widths

NAMES = ["black-heart-orange-triangle-and-red-crescent.jpg", "wafers/edge-chip-1.jpg"]
SAID = "a wafer with a long scratch and a stain"


def printed(width: int) -> list[str]:
    out = table("in samples", "text", "match", right=("match",))
    for name in NAMES:
        out.add_row(name, Text(SAID, style="bold"), "99.9%")
    file = io.StringIO()
    Console(file=file, width=width).print(out)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 100, 90, 80, 70, 60, 50, 40, 30])
def test_names_break_after_a_sign_and_texts_between_words(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    assert sum("99.9%" in line for line in lines) == 2
    starts = [line.index("99.9%") for line in lines if "99.9%" in line]
    assert len(set(starts)) == 1
    firsts = [line[: starts[0]].split("   ")[0].strip() for line in lines[2:]]
    pieces = [piece for piece in firsts if piece]
    assert "".join(pieces) == "".join(NAMES)
    assert all(piece.endswith(("-", "/", ".jpg")) for piece in pieces)
    if width >= 70:  # no narrower than is good to read
        assert len(lines) <= 2 + 2 * 3
    if width == 200:
        assert len(lines) == 4


def test_nothing_is_lost_where_even_parts_do_not_fit() -> None:
    lines = printed(20)
    assert max(map(len, lines)) <= 20
    found = "".join("".join(line.split()) for line in lines)
    assert sorted(found.replace("─", "")) == sorted(
        "".join(["insamples", "text", "match", *NAMES, *[SAID.replace(" ", ""), "99.9%"] * 2])
    )


def test_an_indented_note_goes_on_as_far_in() -> None:
    out = table("checkpoint", "size", right=("size",))
    out.add_row("RN50.pt\n  vision encoder of LLaVA and text encoder of another", "102 M")
    file = io.StringIO()
    Console(file=file, width=34).print(out)
    lines = file.getvalue().splitlines()[2:]
    assert [line[:2] for line in lines] == ["RN", *["  "] * (len(lines) - 1)]
    assert len(lines) >= 3


def test_names_stay_whole_where_texts_on_two_lines_or_so_are_enough() -> None:
    texts = ("wafers/perfect-1.jpg", "is the wafer perfect?", "does not know", "probability")
    found = widths([[Text(text)] for text in texts], 51)
    assert (found[0], found[3], sum(found)) == (20, 11, 51)


def test_columns_come_closer_before_numbers_and_words_break() -> None:
    numbers = ("images", "top-1", "top-5", "mean per class")
    out = table("task", *numbers, "", right=numbers)
    out.add_row("zero-shot", "5", "100.0%", "100.0%", "100.0%", "1 template")
    out.add_row("probe", "5", "100.0%", "100.0%", "100.0%", "C = 5.62e+05, 13 training images")
    file = io.StringIO()
    Console(file=file, width=50).print(out)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 50
    assert "zero-shot      5 100.0% 100.0%    100.0% 1" in lines[3]
    assert {"template", "5.62e+05,", "training"} <= set(file.getvalue().split())


@pytest.mark.parametrize("width", [8, 11, 14])
def test_no_line_is_empty_after_a_word_that_breaks(width: int) -> None:
    out = table("a", "b")
    out.add_row("unbreakable", "1 template")
    file = io.StringIO()
    Console(file=file, width=width).print(out)
    assert all(line.strip() for line in file.getvalue().splitlines())


def test_names_do_not_command_the_terminal() -> None:
    out = table("image")
    out.add_row("\x1b[31mred\x9b.jpg")
    out.add_row("\u202egpj.exe\ttab")
    file = io.StringIO()
    Console(file=file, width=60).print(out)
    assert "\\x1b[31mred\\x9b.jpg" in file.getvalue()
    assert "\\u202egpj.exe" in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_a_name_that_is_no_utf8_makes_no_line_wider_than_the_terminal() -> None:
    out = table("image", "text")
    out.add_row("caf\udce9.jpg", SAID)
    file = io.StringIO()
    Console(file=file, width=40).print(out)
    assert "caf\\udce9.jpg" in file.getvalue()
    assert max(map(len, file.getvalue().splitlines())) <= 40


def test_beside_a_long_name_numbers_keep_their_sign_and_texts_their_words() -> None:
    out = table("image", "caption", "cosine", right=("cosine",))
    out.add_row(f"{'e3b0c44298fc1c14' * 4}.jpg", "a wafer with a stain", "-0.034")
    file = io.StringIO()
    Console(file=file, width=60).print(out)
    first = file.getvalue().splitlines()[2]
    assert "-0.034" in first
    assert "a wafer with" in first
