"""Options and arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EMBEDDED = "demo"
EMBEDDED_BLIP = "demo-blip"  # captions, answers and matches

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A hub id, a folder, a file of weights, or an embedded model: demo (a CLIP) or "
        "demo-blip (a BLIP).",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A hub id, folder or file of weights; by default demo."),
]
# of commands that also take the model as an argument
ModelTooOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="The model; the same as the argument."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|mps",
        help="Where to compute; auto: cuda if there is one, else cpu; cuda:1: the second GPU.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        metavar="int8|float32|bfloat16|float16",
        help="Number type of the weights in memory; int8 needs --engine openvino or onnx.",
    ),
]
StretchOption = Annotated[
    bool,
    typer.Option(
        "--stretch",
        help="Scale the brightness of each image, from its darkest to its brightest half "
        "percent: for scientific images whose files do not state the range.",
    ),
]
SquashOption = Annotated[
    bool,
    typer.Option(
        "--squash",
        help="Resize the whole image to the model's input size without keeping its aspect "
        "ratio, instead of cropping it.",
    ),
]
TwoViewsOption = Annotated[
    bool,
    typer.Option(
        "--two-views",
        help="Average the vectors of the centre crop and of the whole image, squashed: "
        "twice the work, and more accurate for images that are not square.",
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="NUMBER",
        help="Refuse images with more pixels; by default 300 million.",
    ),
]
OnePassOption = Annotated[
    bool,
    typer.Option(
        "--one-pass",
        help="winclip: encode the photo once, and average its patches in each window; without "
        "it each window is encoded, at the cost of some 12 photos.",
    ),
]
ColoursOption = Annotated[
    str | None,
    typer.Option(
        metavar="inferno|viridis|turbo|jet|gray",
        help="The colours of a picture; by default inferno, and viridis for a matrix.",
    ),
]
SameScaleOption = Annotated[
    bool,
    typer.Option("--same-scale", help="One colour scale for the pictures of all images."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines instead of a table.")]
SOURCES = (
    "Image files (stack.tif#3: page 3), folders, glob patterns, .tar files, https:// "
    "addresses; @FILE: a file with one name per line; -: standard input."
)
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGES...", help=SOURCES)]
ImagesLabelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES... [LABELS]...",
        help=f"{SOURCES} Then labels; or give them by --labels.",
    ),
]
ImagesTextsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES... [TEXTS]...",
        help=f"{SOURCES} Then texts, each in quotes; or give them by --text.",
    ),
]
TextsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text", "--texts", "-t", help="A text; repeat for more. @FILE reads one text per line."
    ),
]
LongTextOption = Annotated[
    str,
    typer.Option(
        metavar="truncate|mean",
        help="Texts longer than the model's context: cut off the end, or embed the text in "
        "chunks and average their vectors.",
    ),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        "-l",
        "--text",
        "-t",
        metavar="LABELS",
        help='Separated by commas: "cat, dog"; repeat for more. @FILE reads one label per line.',
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT|imagenet|chinese",
        help="A sentence with {} in place of the label; repeat to average over several. "
        "imagenet: the 80 templates of CLIP; chinese: templates in Chinese.",
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Save as a picture (.png, .jpg, .webp, .tif, .pdf) or a page (.html).",
    ),
]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Save as a picture (.png, .jpg, .webp, .tif, .pdf)."
    ),
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels: process the photo in windows of this size, and average where "
        "they overlap."
    ),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        help="Pixels from one window to the next; overlaps are averaged with equal weights, "
        "as in papers. By default half a window, with less weight near its border."
    ),
]
ShortSideOption = Annotated[
    int | None,
    typer.Option(
        help="Pixels: first resize the photo's shorter side to this, at least to the side of "
        "a window. With --window alone the photo is not resized."
    ),
]
RefineOption = Annotated[
    bool, typer.Option("--refine", help="Refine maps along the photo's edges (PAMR).")
]
NegativesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Other things that the photo could show, which --present compares with.",
    ),
]
LogitScaleOption = Annotated[
    float | None,
    typer.Option(help="Factor for cosines before the softmax; by default the model's own."),
]
SubjectOption = Annotated[
    str | None, typer.Option(help="winclip: the name of what the photos show, in a word or two.")
]
DenseMethodOption = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="auto, cosine, maskclip, maskclip-paper, maskclip-keys, sclip, clearclip, value, "
        "naclip, nonly, attnpool, gem, surgery, scclip, resclip or head; patchword info "
        "shows what auto means.",
    ),
]
