"""receipt, verify: whether two copies of a model give the same outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchword.atomic_write import write
from patchword.cli.inputs import load, model_and_path, model_name
from patchword.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    ModelTooOption,
)
from patchword.cli.output import emit, prepare_output, print_saved, screen
from patchword.errors import PatchwordError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.receipts import Difference


def receipt(
    source: ModelArgument = None,
    model: ModelTooOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Where to write it; by default it is printed."
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write a model's outputs for fixed inputs, with which "verify" compares another copy.

    The inputs are two test cards and some texts, for preprocessing and tokenizer, and exact noise
    and the texts' token ids, for the towers.
    """
    name = model_name(source, model)
    prepare_output(out)
    bundle = load(name, device, dtype)
    from patchword import receipts

    computed = receipts.make(bundle)
    if out is not None:
        write(out, receipts.to_text(computed))
        print_saved(out)
    if as_json:
        emit(computed)
    elif out is None:
        print(receipts.to_text(computed, ascii_only=True), end="")


def verify(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL] RECEIPT", help="The model, and the receipt's file."),
    ],
    model: ModelTooOption = None,
    rtol: Annotated[float, typer.Option(min=0, help="Largest relative difference.")] = 1.3e-6,
    atol: Annotated[
        float, typer.Option(min=0, help="Largest absolute difference, in addition.")
    ] = 1e-5,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Compare a model with a receipt, and name the first stage that differs.

    Exit code 1 when one differs. Half precision and other devices may need a larger --atol.
    """
    name, file = model_and_path(arguments, model, "receipt: patchword verify MODEL receipt.json")
    expected = read_receipt(file)  # before a large model is loaded
    bundle = load(name, device, dtype)
    from patchword import receipts

    rows = list(receipts.compare(bundle, expected, rtol, atol))
    differences = [difference for _, _, difference in rows if difference is not None]
    if as_json:
        for row in rows:
            emit(stage_record(*row))
    else:
        tolerance = f"a difference of {atol:g} + {rtol:g} of the value"
        result = verdict(expected, differences, tolerance)
        if left_out := receipts.not_compared(bundle, expected):
            stages = ", ".join(map(readable, left_out))
            result["not compared"] = f"{stages}: the receipt has nothing of them"
        show(rows, result)
    raise typer.Exit(1 if differences else 0)


def read_receipt(path: Path) -> Any:
    """The receipt in a file. Raises PatchwordError where there is none."""
    from patchword import receipts

    try:
        expected = json.loads(path.read_text(encoding="utf-8"))
        receipts.parse(expected)
    except OSError as error:
        raise PatchwordError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PatchwordError(f"{path} is no receipt: not readable JSON ({error})") from error
    except PatchwordError as error:
        raise PatchwordError(f"{path}: {error}") from error
    return expected


def stage_record(stage: str, largest: float, difference: Difference | None) -> dict[str, Any]:
    """The comparison of one stage for JSON. The largest difference is null where numbers cannot be
    compared."""
    record: dict[str, Any] = {
        "stage": stage,
        "same": difference is None,
        "largest": largest if math.isfinite(largest) else None,
    }
    if difference:
        record |= {"reason": difference.reason, "hint": difference.hint}
    return record


def show(rows: Sequence[tuple[str, float, Difference | None]], result: dict[str, str]) -> None:
    """Print a line for each stage, then the result."""
    from rich.table import Table

    stages = table("stage", "largest difference", "", right=("largest difference",))
    for stage, largest, difference in rows:
        stages.add_row(readable(stage), two_digits(largest), "differs" if difference else "same")
    summary = Table(box=None, pad_edge=False, show_header=False)
    summary.add_column(style="bold", no_wrap=True)
    summary.add_column(overflow="fold")
    for name, text in result.items():
        summary.add_row(name, text)
    for part in (stages, "", summary):
        screen().print(part)


def verdict(
    expected: dict[str, Any], differences: Sequence[Difference], tolerance: str
) -> dict[str, str]:
    """The result in words."""
    against = f"{expected['model']}, as {expected['made_by']} answered"
    if not differences:
        return {"verdict": "the same", "against": against, "allowed": tolerance}
    first = differences[0]
    if first.stage == "pair_logits":
        tolerance += ", and a cosine's last bits"
    return {
        "verdict": f"not the same; first in: {readable(first.stage)}",
        "against": against,
        "found": first.reason,
        "allowed": tolerance,
        "likely": first.hint,
    }


def readable(stage: str) -> str:
    """The name of a stage in words."""
    return stage.replace("_", " ")


def two_digits(difference: float) -> str:
    """A difference with two digits; a dash where it is infinite or NaN."""
    if difference == 0:
        return "0"
    return f"{difference:.1e}" if 0 < difference < math.inf else "-"


COMMANDS = (receipt, verify)
