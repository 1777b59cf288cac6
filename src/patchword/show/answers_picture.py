"""A photo, and under it questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from patchword.show.percent import share
from patchword.show.plots import BAR, GAP, LINES, Photo, fit
from patchword.show.text_drawing import (
    FAINT,
    INK,
    LINE,
    PAPER,
    SMALL,
    TEXT,
    font,
    heading,
    text_width,
    wrap,
)

# Its text, how probable it is (None: not known), and, where it was chosen, the candidates with
# their probabilities.
Answer = tuple[str, float | None, Sequence[tuple[str, float]]]

SIDE = 640  # longer side of the photo, pixels
NARROWEST = 440  # room for words under a tall photo
SHOWN = 5  # answers of a ranking
STEP = 1.35  # a line's height, in font sizes


def answers_picture(
    photo: Photo, questions: Sequence[str], answers: Sequence[Answer], title: str = ""
) -> Image.Image:
    """Under a title a photo, and under that each question and its answer: how probable it is, or a
    bar for each of the best candidates where there are any."""
    shown = fit(photo, SIDE)
    width = max(NARROWEST, shown.width)
    parts = [_answer(q, a, width) for q, a in zip(questions, answers, strict=True)]
    head = heading(title, width, LINES)
    above = GAP + head.height
    height = above + GAP + shown.height + sum(part.height + GAP // 2 for part in parts)
    out = Image.new("RGB", (width + 2 * GAP, height), PAPER)
    head.write(out, GAP, GAP)
    out.paste(shown, (GAP, above))
    top = above + shown.height
    for part in parts:
        out.paste(part, (GAP, top + GAP // 2))
        top += part.height + GAP // 2
    return out


def _answer(question: str, answer: Answer, width: int) -> Image.Image:
    """One question and its answer."""
    lines = [(FAINT, font(SMALL, question), line)
             for line in wrap(question, font(SMALL, question), width, LINES)]  # fmt: skip
    text, probability, ranking = answer
    sure = "" if ranking or probability is None else share(probability)
    room = width - text_width([sure], SMALL) - 10
    bold = font(TEXT, text, bold=True)
    lines += [(INK, bold, line) for line in wrap(text, bold, room, LINES)]
    bars = ranking[:SHOWN]
    height = round(sum(STEP * face.size for _, face, _ in lines)) + 4 + len(bars) * 32
    out = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(out)
    top = 0.0
    for colour, face, line in lines:
        draw.text((0, top + face.size), line, colour, face, anchor="ls")
        top += STEP * face.size
    draw.text((width, top - STEP * TEXT + TEXT), sure, FAINT, font(SMALL), anchor="rs")
    for number, (choice, probability) in enumerate(bars):
        base = round(top) + 4 + number * 32 + SMALL
        percent = share(probability)
        room = width - text_width([percent], SMALL) - 10
        for line in wrap(choice, font(SMALL, choice), room, 1):
            draw.text((0, base), line, INK, font(SMALL, line), anchor="ls")
        draw.text((width, base), percent, FAINT, font(SMALL), anchor="rs")
        draw.rounded_rectangle((0, base + 6, width - 1, base + 11), 3, LINE)
        if probability * (width - 1) >= 0.5:
            long = max(5, round(probability * (width - 1)))
            draw.rounded_rectangle((0, base + 6, long, base + 11), 3, BAR)
    return out
