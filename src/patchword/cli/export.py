"""export: a model for programs that run it without patchword."""

from __future__ import annotations

from typing import Annotated

import typer

from patchword.cli.inputs import load, model_and_path
from patchword.cli.options import DtypeOption, JsonOption, ModelTooOption
from patchword.cli.output import emit, notes, prepare_output, refuse

TARGETS = ("onnx", "openvino")  # of --to
# The --atol for int8, as a share of the largest number of a row: int8 differs by at most 0.05.
INT8_ATOL = 0.1


def export(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DIR", help="The model, by default demo, and the folder to write."
        ),
    ],
    model: ModelTooOption = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="onnx|openvino", help="For onnxruntime and transformers.js, or for OpenVINO."
        ),
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Write int8, and print how far its vectors are from float32."),
    ] = False,
    photos: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="For --int8: a folder of 16 or more typical photos. The embedded models work "
            "without: then only their weights are int8.",
        ),
    ] = None,
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write a model as graphs that onnxruntime or OpenVINO runs without patchword.

    The folder also holds the preprocessing and the tokenizer, as transformers, transformers.js and
    optimum read them, and receipt.json: "patchword verify DIR DIR/receipt.json" compares the graphs
    with the model. Commands that need only vectors take DIR as --model.
    """
    name, out = model_and_path(arguments, model, "folder: patchword export MODEL DIR")
    if to not in TARGETS:
        refuse(f"--to is {to!r}; there are {' and '.join(TARGETS)}")
    if dtype == "int8":
        refuse("--dtype int8: a model is exported from float32; to write it in int8 give --int8")
    prepare_output(out, is_folder=True)
    bundle = load(name, "cpu", dtype)
    from patchword.api import exports

    exported = exports.export(bundle, out, to=to, int8=int8, photos=photos)
    folder = exported.folder
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if as_json:
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        agreements = {name: vars(each) for name, each in exported.agreement.items()}
        emit({"folder": str(folder), "to": to, "files": sizes, "agreement": agreements})
        return
    for path in files:
        print(f"{path.stat().st_size:>12,}  {path}")
    for part, agreement in exported.agreement.items():
        print(f"{part} vectors, {agreement}")
    command = f"patchword verify {folder} {folder}/receipt.json"
    if int8:
        command += f" --atol {INT8_ATOL:g}"
    notes().print(f"compare it with the model: {command}")


COMMANDS = (export,)
