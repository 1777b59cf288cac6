"""A receipt tells two models apart, and names the stage in which they differ."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import open_clip
import original_receipts
import pytest
import torch
from original_receipts import FOLDER
from torch import Tensor

from patchword import bundle, checkpoints, models, receipts
from patchword.bundle import Bundle
from patchword.config import ModelConfig, TextConfig
from patchword.errors import PatchwordError
from patchword.receipts.compare import ATOL, RTOL, _usual_cause
from patchword.receipts.inputs import CARDS, card, noise, shuffled
from patchword.receipts.receipt import stages, to_row, tokens_of
from patchword.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

WRITERS = original_receipts.writers()
CLIP, OPEN_CLIP, SIGLIP = "clip-huggingface-quick-gelu", "clip-open-clip-vit", "siglip-hf-siglip"
TIMM, MAE = "vit-timm", "mae-huggingface-mae"
RETRIEVAL, CAPTIONS = "blip-hf-blip-retrieval", "blip-hf-blip-captions"

Receipt = dict[str, Any]


def shipped(name: str) -> Receipt:
    """A receipt that the original library made."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def load(name: str, folder: Path) -> Bundle:
    """The tiny checkpoint of that name, written by its library and read by ours."""
    reference = WRITERS[name](folder / "model")
    # OpenAI's files come without a tokenizer.
    words = (
        open_clip.tokenizer.default_bpe() if reference.path.is_file() and reference.ids else None
    )
    return checkpoints.load(reference.path, tokenizer=words)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Tiny checkpoints as they should be, each loaded once."""
    known: dict[str, Bundle] = {}

    def get(name: str) -> Bundle:
        if name not in known:
            known[name] = load(name, tmp_path_factory.mktemp("right"))
        return known[name]

    return get


# --- receipts of the original libraries -----------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_as_the_original_library_answered(
    name: str, right: Callable[[str], Bundle]
) -> None:
    known = shipped(name)
    assert not known["made_by"].startswith("patchword")
    assert receipts.verify(right(name), known) == []


def test_receipts_are_of_these_checkpoints_and_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(sizes) == set(WRITERS)
    assert sum(sizes.values()) < 1e6


def test_every_stage_is_in_some_receipt() -> None:
    there = {key for name in WRITERS for key, value in shipped(name).items() if value}
    assert set(receipts.STAGES) <= there


# --- mistakes without an error --------------------------------------------------------------------


def rebuilt(model: Bundle, config: ModelConfig) -> Bundle:
    """The same weights and vocabulary under another config."""
    network = models.outline(config)
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    tokenizer = model.tokenizer
    if tokenizer and config.text_or_decoder != model.config.text_or_decoder:
        tokenizer = Tokenizer.from_json(tokenizer.to_json(), config.text_or_decoder)
    return bundle.make(network, config, tokenizer, "rebuilt")


def mistaken(config: TextConfig, **changes: Any) -> TextConfig:
    """A changed copy, without the checks of a config, which would refuse some mistakes."""
    wrong = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(wrong, name, value)
    return wrong


def vision(**changes: Any) -> Callable[[Bundle], Bundle]:
    return lambda model: rebuilt(
        model, replace(model.config, vision=replace(model.config.vision, **changes))
    )


def text(**changes: Any) -> Callable[[Bundle], Bundle]:
    """Changes of the text tower alone: the tokenizer stays."""

    def change(model: Bundle) -> Bundle:
        config = replace(model.config, text=mistaken(model.config.text, **changes))
        network = rebuilt(replace(model, tokenizer=None), config).network
        return bundle.make(network, config, model.tokenizer, "rebuilt")

    return change


def words(**changes: Any) -> Callable[[Bundle], Bundle]:
    """Changes of the tokenizer alone."""

    def change(model: Bundle) -> Bundle:
        config = mistaken(model.config.text_or_decoder, **changes)
        return replace(model, tokenizer=Tokenizer.from_json(model.tokenizer.to_json(), config))

    return change


def other_end(model: Bundle) -> Bundle:
    """A tokenizer that ends texts with another token."""
    stated = json.loads(model.tokenizer.to_json())
    stated["post_processor"]["sep"] = ["!", 0]
    config = replace(model.config.text, end_token=0)
    return replace(model, tokenizer=Tokenizer.from_json(json.dumps(stated), config))


def pixels(**changes: Any) -> Callable[[Bundle], Bundle]:
    return lambda model: rebuilt(
        model, replace(model.config, preprocess=replace(model.config.preprocess, **changes))
    )


def weight(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Bundle], Bundle]:
    """One tensor changed."""

    def changed(model: Bundle) -> Bundle:
        copy = rebuilt(model, model.config)
        state = copy.network.state_dict()
        with torch.no_grad():
            state[name].copy_(change(state[name]))
        return copy

    return changed


MISTAKES = {  # model, what is wrong with it, first stage, a word of the hint
    "squash for crop": (CLIP, pixels(resize="squash"), "pixels", "crop"),
    "bilinear for bicubic": (CLIP, pixels(interpolation="bilinear"), "pixels", "interpolation"),
    "another margin": (CLIP, pixels(crop_rounding="round"), "pixels", "crop"),
    "resized to more": (CLIP, pixels(resize_to=36), "pixels", "resizing"),
    "mean": (CLIP, pixels(mean=(0.5, 0.5, 0.5)), "pixels", "the picture is the same"),
    "std": (CLIP, pixels(std=(0.5, 0.5, 0.5)), "pixels", "the picture is the same"),
    "rescale": (CLIP, pixels(rescale=1 / 127.5), "pixels", "the picture is the same"),
    "crop for squash": (SIGLIP, pixels(resize="shortest"), "pixels", "squash"),
    "size": (CLIP, pixels(size=(24, 24)), "pixels", "crop"),
    "context": (CLIP, words(context=60), "tokens", "context length"),
    "no cleaning": (OPEN_CLIP, words(cleaning="none"), "tokens", "cleaned"),
    "end token of the tokenizer": (CLIP, other_end, "tokens", "end"),
    "trimmed for padded": (SIGLIP, words(padding="masked"), "tokens", "padding"),
    "padded with another id": (SIGLIP, words(pad_token=5), "tokens", "padding"),
    "no tokenizer": (CLIP, lambda model: replace(model, tokenizer=None), "tokens", "tokenizer"),
    "gelu for quick_gelu": (CLIP, vision(activation="gelu"), "image_tower", "QuickGELU"),
    "tanh for gelu": (OPEN_CLIP, vision(activation="gelu_tanh"), "image_tower", "tanh"),
    "eps": (CLIP, vision(eps=1e-3), "image_tower", "eps"),
    "heads": (CLIP, vision(heads=6), "image_tower", "heads"),
    "average for class token": (TIMM, vision(pool="avg"), "image_tower", "pooling"),
    "gelu in the text tower": (CLIP, text(activation="gelu"), "text_tower", "QuickGELU"),
    "end token of the text tower": (CLIP, text(end_token=320), "text_tower", "end token"),
    "no causal mask": (CLIP, text(causal=False), "text_tower", "mask"),
    "masked for attended": (SIGLIP, text(padding="masked"), "text_tower", "mask"),
    "head": (TIMM, weight("image.head.bias", lambda t: t + 0.01), "class_logits", "head"),
    "temperature": (CLIP, weight("logit_scale", lambda t: t + 1e-4), "pair_logits", "temperature"),
    "bias": (SIGLIP, weight("logit_bias", lambda t: t * 0), "pair_logits", "bias"),
    "matching head": (
        RETRIEVAL, weight("match_head.bias", lambda t: t + 0.01), "match_logits", "matching"
    ),
    "what writes": (
        CAPTIONS,
        weight("decoder.blocks.0.cross.proj.weight", lambda t: t * 1.01),
        "word_logits",
        "decoder",
    ),
    "what paints": (
        MAE, weight("decoder.pos_embed", lambda t: t * 0.99), "painted_patches", "decoder"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows_in_its_stage(mistake: str, right: Callable[[str], Bundle]) -> None:
    name, change, stage, hint = MISTAKES[mistake]
    wrong = change(right(name))
    first = receipts.verify(wrong, shipped(name))[0]
    assert first.stage == stage
    assert hint in first.hint + first.reason
    assert first.largest > 2 * ATOL


def test_stages_do_not_hide_each_other(right: Callable[[str], Bundle]) -> None:
    """Pixels, ids and towers are compared by themselves: each is named, in order."""
    wrong = text(activation="gelu")(words(context=60)(pixels(mean=(0.0, 0.0, 0.0))(right(CLIP))))
    differences = receipts.verify(wrong, shipped(CLIP))
    assert [difference.stage for difference in differences] == [
        "pixels",
        "tokens",
        "text_tower",
        "pair_logits",
    ]


def test_another_kind_of_model_lacks_stages_of_the_receipt(
    right: Callable[[str], Bundle],
) -> None:
    reasons = {row.stage: row.reason for row in receipts.verify(right(TIMM), shipped(CLIP))}
    missing = "the receipt is of a model with a text tower, and this one has none"
    assert reasons["text_tower"] == missing
    assert "numbers an input" in reasons["image_tower"]
    reasons = {row.stage: row.reason for row in receipts.verify(right(CLIP), shipped(TIMM))}
    assert "classes" in reasons["class_logits"]


KINDS = [CLIP, SIGLIP, TIMM, MAE, RETRIEVAL, CAPTIONS, "clip-open-clip-resnet-bin"]
KINDS += ["siglip-hf-siglip-naflex", "encoders-hf-clip-text-projection", "swin-timm-odd"]


@pytest.mark.parametrize("name", KINDS)
def test_any_model_can_be_held_against_any_receipt(
    name: str, right: Callable[[str], Bundle]
) -> None:
    """And is still right: the mistakes above left each model as it was."""
    for other in KINDS:
        assert (receipts.verify(right(name), shipped(other)) == []) == (name == other)


# --- a receipt of our own -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CLIP, SIGLIP, TIMM, MAE, RETRIEVAL, CAPTIONS])
def test_a_receipt_of_our_own(name: str, right: Callable[[str], Bundle]) -> None:
    """It has the stages of the original library's receipt, and stays the same through a file."""
    made = receipts.make(right(name))
    assert made["made_by"].startswith("patchword ")
    assert made["fingerprint"] == right(name).fingerprint
    theirs = shipped(name)
    assert {s for s in receipts.STAGES if made[s]} >= {s for s in receipts.STAGES if theirs[s]}
    for ascii_only in (False, True):
        known = json.loads(receipts.to_text(made, ascii_only))
        assert [largest for _, largest, _ in receipts.compare(right(name), known)] == [
            0.0 for stage in receipts.STAGES if made[stage]
        ]


def test_of_the_largest_model_it_stays_small() -> None:
    """A thousand dimensions, a longer context, more classes than are held."""
    generator = np.random.default_rng(0)

    def rows(count: int, length: int) -> Tensor:
        return torch.from_numpy(generator.normal(size=(count, length)).astype(np.float32))

    made = stages(
        False,
        pixels=lambda image: np.zeros((3, 384, 384), np.float32),
        ids=lambda texts: generator.integers(0, 250_000, (len(texts), 512)).tolist(),
        image=lambda inputs: rows(2, 1024),
        text=lambda ids: rows(len(ids), 1024),
        classes=lambda inputs: rows(2, 21841),
        pairs=lambda inputs, ids: rows(2, len(ids)),
    )
    assert len(receipts.to_text(made).encode()) < 200_000


@pytest.mark.parametrize(
    ("share", "same"), [(0.9, True), (1.5, False), (float("nan"), False), (float("inf"), False)]
)
def test_the_tolerance_goes_by_the_largest_value(
    share: float, same: bool, right: Callable[[str], Bundle]
) -> None:
    known = receipts.make(right(TIMM))
    place = max(range(48), key=lambda i: abs(known["image_tower"][0][i]))
    value = known["image_tower"][0][place]
    moved = list(known["image_tower"][0])
    moved[place] = value + share * (ATOL * max(1, abs(value)) + RTOL * abs(value))
    known["image_tower"] = [tuple(moved), known["image_tower"][1]]
    assert (receipts.verify(right(TIMM), known) == []) is same
    assert receipts.verify(right(TIMM), known, atol=1e-3) == [] or not np.isfinite(share)


def test_fewer_bits_are_named_as_a_cause(right: Callable[[str], Bundle]) -> None:
    model = right(TIMM)
    known = receipts.make(model)
    known["image_tower"] = [tuple(value + 0.1 for value in row) for row in known["image_tower"]]
    (difference,) = receipts.verify(model, known)
    coarse: Any = SimpleNamespace(engine=SimpleNamespace(dtype=torch.bfloat16))
    cause = _usual_cause("image_tower", coarse)
    assert cause.startswith("bfloat16, whose numbers need a larger atol")
    assert cause.endswith(difference.hint)
    assert _usual_cause("pixels", coarse) == receipts.STAGES["pixels"]


# --- what is fixed --------------------------------------------------------------------------------


def test_fixed_inputs_are_what_they_were() -> None:
    """Another card or noise would make every receipt worthless: then VERSION must change."""
    assert receipts.VERSION == 1
    assert [int(card(*size).astype(np.int64).sum()) for size in CARDS] == [213178839, 189315627]
    assert noise((1, 3), 1).tolist() == [[0.1328125, 0.8984375, -1.8203125]]
    assert shuffled(6).tolist() == [0, 2, 3, 5, 4, 1]


def test_cards_show_every_filter_and_crop() -> None:
    for size in CARDS:
        picture = card(*size)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
        assert [len(np.unique(picture[..., c])) > 200 for c in range(3)] == [True] * 3
        assert np.abs(np.diff(picture.astype(int), axis=1)).max() > 150  # hard edges
    assert sorted(shuffled(9).tolist()) == list(range(9))


@pytest.mark.parametrize("row", [[1, 2, 3], [1, 2, 2, 2], [5], [7, 7], [1, 2, 0, 0]])
def test_rows_of_ids_unfold(row: list[int]) -> None:
    assert tokens_of("", row).padded == row


def test_numbers_keep_more_than_the_tolerance() -> None:
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert np.abs(np.array(to_row(values)) / values - 1).max() < RTOL / 20


# --- what is no receipt ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"receipt": 2}, "upgrade"),
        ({"receipt": None}, "version None"),
        ({"made_by": 3}, "made_by is 3"),
        ({"pixels": [{"shape": [3, 8, 8]}]}, "missing"),
        ({"image_tower": [["a"]]}, "'a'"),
        ({"padding": "some"}, "padding"),
        ({"stages": []}, "no field stages"),
        (dict.fromkeys(receipts.STAGES, ()), "empty"),
        ({"pixels": [{"shape": [3, 10**12, 8], "mean": [], "std": [], "values": []}]}, "3 x H x W"),
        ({"pixels": [{"shape": [3, 8], "mean": [], "std": [], "values": []}]}, "3 x H x W"),
        ({"tokens": [{"text": "a", "ids": [1], "pad": 0, "length": 10**12}]}, "padded to 1000"),
        ({"tokens": [{"text": "a", "ids": [1, 2], "pad": 0, "length": 1}]}, "has 2 ids"),
    ],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(change: Receipt, message: str) -> None:
    with pytest.raises(PatchwordError, match=message):
        receipts.parse(shipped(CLIP) | change)
    with pytest.raises(PatchwordError, match="cards"):
        receipts.parse(shipped(CLIP) | {"pixels": shipped(CLIP)["pixels"][:1]})
    for other in ([], {}, 3):
        with pytest.raises(PatchwordError, match="no receipt"):
            receipts.parse(other)
