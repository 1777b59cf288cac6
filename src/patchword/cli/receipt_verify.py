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
    """Write a model's outputs for fixed inputs, with which “verify” compares another copy.

    Two test cards and some texts go through its preprocessing and tokenizer, exact noise and the
    texts' ids through its towers.
    """
    name = model_name(source, model)
    prepare_output(out)
    bundle = load(name, device, dtype)
    from patchword import receipts

    made = receipts.make(bundle)
    if out is not None:
        write(out, receipts.to_text(made))
        print_saved(out)
    if as_json:
        emit(made)
    elif out is None:
        print(receipts.to_text(made, ascii_only=True), end="")


def verify(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL] RECEIPT", help="The model, and the receipt's file."),
    ],
    model: ModelTooOption = None,
    rtol: Annotated[float, typer.Option(min=0, help="Largest relative difference.")] = 1.3e-6,
    atol: Annotated[float, typer.Option(min=0, help="Largest absolute difference besides.")] = 1e-5,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Compare a model with a receipt, and name the first stage that differs.

    Exit code 1 when one differs. Half precision and other devices may need a larger --atol.
    """
    name, file = model_and_path(arguments, model, "receipt: patchword verify MODEL receipt.json")
    known = read(file)  # before a large model is loaded
    bundle = load(name, device, dtype)
    from patchword import receipts

    rows = list(receipts.compare(bundle, known, rtol, atol))
    found = [difference for _, _, difference in rows if difference is not None]
    if as_json:
        for row in rows:
            emit(record(*row))
    else:
        said = verdict(known, found, f"a difference of {atol:g} + {rtol:g} of the value")
        if left := receipts.not_compared(bundle, known):
            stages = ", ".join(map(words, left))
            said["not compared"] = f"{stages}: the receipt has nothing of them"
        show(rows, said)
    raise typer.Exit(1 if found else 0)


def read(path: Path) -> Any:
    """The receipt in a file. Raises PatchwordError for anything else."""
    from patchword import receipts

    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        receipts.parse(known)
    except OSError as error:
        raise PatchwordError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PatchwordError(f"{path} is no receipt: not readable JSON ({error})") from error
    except PatchwordError as error:
        raise PatchwordError(f"{path}: {error}") from error
    return known


def record(stage: str, largest: float, difference: Difference | None) -> dict[str, Any]:
    """One stage as JSON values; no largest difference where numbers cannot be compared."""
    out = {
        "stage": stage,
        "same": difference is None,
        "largest": largest if math.isfinite(largest) else None,
    }
    return out | {"reason": difference.reason, "hint": difference.hint} if difference else out


def show(rows: Sequence[tuple[str, float, Difference | None]], said: dict[str, str]) -> None:
    """A line for each stage, then the verdict."""
    from rich.table import Table

    answer = table("stage", "largest difference", "", right=("largest difference",))
    for stage, largest, difference in rows:
        answer.add_row(words(stage), size(largest), "differs" if difference else "same")
    below = Table(box=None, pad_edge=False, show_header=False)
    below.add_column(style="bold", no_wrap=True)
    below.add_column(overflow="fold")
    for name, text in said.items():
        below.add_row(name, text)
    for part in (answer, "", below):
        screen().print(part)


def verdict(known: dict[str, Any], found: Sequence[Difference], allowed: str) -> dict[str, str]:
    """The result in words."""
    against = f"{known['model']}, as {known['made_by']} answered"
    if not found:
        return {"verdict": "the same", "against": against, "allowed": allowed}
    first = found[0]
    if first.stage == "pair_logits":
        allowed += ", and a cosine's last bits"
    return {
        "verdict": f"not the same; first in: {words(first.stage)}",
        "against": against,
        "found": first.reason,
        "allowed": allowed,
        "likely": first.hint,
    }


def words(stage: str) -> str:
    """A stage's name as people write it."""
    return stage.replace("_", " ")


def size(largest: float) -> str:
    """A difference in two digits."""
    return f"{largest:.1e}" if 0 < largest < math.inf else "0" if largest == 0 else "-"


COMMANDS = (receipt, verify)
