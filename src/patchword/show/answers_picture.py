"""A photo with questions and answers under it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from patchword.show.percent import share
from patchword.show.plots import BAR_HEIGHT, GAP, LINES, Photo, draw_bar, fit
from patchword.show.text_drawing import (
    FAINT,
    INK,
    PAPER,
    SMALL,
    TEXT,
    font,
    heading,
    text_width,
    wrap,
)

# Its text, its probability (None: not known), and the candidates with their probabilities, if it
# was chosen from some.
Answer = tuple[str, float | None, Sequence[tuple[str, float]]]

SIDE = 640  # longer side of the photo, pixels
MIN_WIDTH = 440  # room for words under a tall photo, pixels
MAX_CANDIDATES = 5
LINE_SPACING = 1.35  # of the font size


def answers_picture(
    photo: Photo, questions: Sequence[str], answers: Sequence[Answer], title: str = ""
) -> Image.Image:
    """A title, a photo, and under it each question with its answer: its probability, or bars for
    the best candidates."""
    scaled = fit(photo, SIDE)
    width = max(MIN_WIDTH, scaled.width)
    parts = [_answer(q, a, width) for q, a in zip(questions, answers, strict=True)]
    head = heading(title, width, LINES)
    top = GAP + head.height
    height = top + GAP + scaled.height + sum(part.height + GAP // 2 for part in parts)
    out = Image.new("RGB", (width + 2 * GAP, height), PAPER)
    head.write(out, GAP, GAP)
    out.paste(scaled, (GAP, top))
    top += scaled.height
    for part in parts:
        out.paste(part, (GAP, top + GAP // 2))
        top += part.height + GAP // 2
    return out


def _answer(question: str, answer: Answer, width: int) -> Image.Image:
    """One question and its answer."""
    text, probability, candidates = answer
    percent = "" if candidates or probability is None else share(probability)
    question_font, answer_font = font(SMALL, question), font(TEXT, text, bold=True)
    room = width - text_width([percent], SMALL) - 10
    lines = [(FAINT, question_font, line) for line in wrap(question, question_font, width, LINES)]
    lines += [(INK, answer_font, line) for line in wrap(text, answer_font, room, LINES)]
    bars = candidates[:MAX_CANDIDATES]
    text_height = sum(LINE_SPACING * face.size for _, face, _ in lines)
    out = Image.new("RGB", (width, round(text_height) + 4 + len(bars) * BAR_HEIGHT), PAPER)
    draw = ImageDraw.Draw(out)
    top = 0.0
    for colour, face, line in lines:
        draw.text((0, top + face.size), line, colour, face, anchor="ls")
        top += LINE_SPACING * face.size
    last_baseline = top - LINE_SPACING * TEXT + TEXT
    draw.text((width, last_baseline), percent, FAINT, font(SMALL), anchor="rs")
    for number, (label, value) in enumerate(bars):
        draw_bar(draw, label, value, 0, round(top) + 4 + number * BAR_HEIGHT, width)
    return out
