"""Options and arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EMBEDDED = "demo"
EMBEDDED_BLIP = "demo-blip"  # which captions, answers and matches

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
# of a command that takes the model as an argument too
ModelTooOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="The model, as in the other commands."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|mps",
        help="Where to compute; auto is cuda if there is one, else cpu; cuda:1 is the second.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        metavar="int8|float32|bfloat16|float16",
        help="Number type of the weights in memory; int8 with --engine openvino or onnx.",
    ),
]
StretchOption = Annotated[
    bool,
    typer.Option(
        "--stretch",
        help="Scale each image from its own darkest to its brightest half percent: for images of "
        "instruments, whose range is not in the file.",
    ),
]
SquashOption = Annotated[
    bool,
    typer.Option(
        "--squash",
        help="Show the model the whole of each image, its shape not kept, where it would see a "
        "crop.",
    ),
]
TwoViewsOption = Annotated[
    bool,
    typer.Option(
        "--two-views",
        help="Judge by the centre crop and by the whole image, squashed, together: twice the "
        "work, and right more often where images are not square.",
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="NUMBER",
        help="Refuse images that have more pixels when they are decoded; by default 300 million.",
    ),
]
OnePassOption = Annotated[
    bool,
    typer.Option(
        "--one-pass",
        help="winclip: windows are means of what one encoding gives for their patches; without, "
        "each goes through the network, some 12 encodings of the photo.",
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
    "Image files (stack.tif#3: its page 3), folders, glob patterns, .tar files, https:// "
    "addresses; @FILE: names, one a line; -: standard input."
)
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGES...", help=SOURCES)]
ImagesLabelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES... [LABELS]...",
        help=f"{SOURCES} Then labels, or by --labels.",
    ),
]
ImagesTextsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES... [TEXTS]...",
        help=f"{SOURCES} Then texts, each in quotes, or by --text.",
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
        help="Texts longer than the model's context: cut off their ends, or embed all of it in "
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
        help="Separated by commas: “cat, dog”; repeat for more. @FILE reads one label per line.",
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT|imagenet|chinese",
        help="Sentence with {} in place of the label; repeat to average over several. imagenet: "
        "the 80 templates of CLIP; chinese: a set in Chinese.",
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
    typer.Option(help="Pixels: look at the photo in windows of that side, overlaps averaged."),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        help="Pixels from one window to the next, overlaps averaged as papers do; by default half "
        "a window, and each counts less towards its border."
    ),
]
ShortSideOption = Annotated[
    int | None,
    typer.Option(
        help="Pixels: resize the photo's shorter side first, at least to a window's; with --window "
        "alone it is kept as it is."
    ),
]
RefineOption = Annotated[
    bool, typer.Option("--refine", help="Refine maps along the photo's edges (PAMR).")
]
NegativesOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="What else there could be, for --present.")
]
LogitScaleOption = Annotated[
    float | None, typer.Option(help="What cosines are multiplied by; by default the model's own.")
]
SubjectOption = Annotated[
    str | None, typer.Option(help="winclip: what the photos show, in a word or two.")
]
DenseMethodOption = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="auto, cosine, maskclip, maskclip-paper, maskclip-keys, sclip, clearclip, value, "
        "naclip, nonly, attnpool, gem, surgery, scclip, resclip or head; patchword info says which "
        "one auto is.",
    ),
]
