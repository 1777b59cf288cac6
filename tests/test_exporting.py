"""Exported models: other programs run them without patchword, to the same numbers."""

import copy
import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from cli_runner import Run
from numpy.testing import assert_allclose
from PIL import Image
from references import Reference, hugging_face
from small_models import ids, pixels, shallow, tiny_bundle, tiny_clip, tiny_clip_resnet, tiny_vit
from test_conformance import CONFIGS

import patchword
from patchword import models, receipts
from patchword.api.engines import in_int8
from patchword.api.model import Model, with_methods
from patchword.bundle import make
from patchword.cli import main
from patchword.cli.export import INT8_ATOL
from patchword.engines import libraries
from patchword.errors import CheckpointError, ImageWarning, UnsupportedError
from patchword.exporting import huggingface, int8
from patchword.receipts.graph_answers import answers_of
from patchword.scenes import scene
from patchword.train import recipe
from patchword.train.initial_model import load_init

pytestmark = pytest.mark.slow

TEXTS = ["a photo of a cat", "two dogs, and a wafer in a long row of words"]
SAMPLE = Path(patchword.__file__).parent / "assets" / "samples" / "shapes" / "red-ring.jpg"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 80, 3), np.uint8))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return hugging_face(tmp_path_factory.mktemp("exporting") / "original")


@pytest.fixture(scope="module")
def model(original: Reference) -> Model:
    return patchword.load(original.path)


@pytest.fixture(scope="module")
def onnx(model: Model, original: Reference) -> Path:
    return patchword.export(model, original.path.parent / "onnx").folder


@pytest.fixture(scope="module")
def intel(original: Reference) -> Path:
    """By the command."""
    place, said = original.path.parent / "openvino", io.StringIO()
    command = ["export", original.path, place, "--to", "openvino", "--json"]
    with pytest.raises(SystemExit) as ended, redirect_stdout(said):
        main(list(map(str, command)))
    assert not ended.value.code
    files = json.loads(said.getvalue())["files"]
    assert files.keys() >= {"openvino_model_text.xml", "receipt.json"}
    return place


def read_by_transformers(folder: Path) -> tuple[Any, Any]:
    """Pixels of PHOTO and the ids of TEXTS, as a program without patchword has them."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    return processor(PHOTO, return_tensors="np")["pixel_values"], dict(words)


def test_onnxruntime_and_transformers_alone(original: Reference, onnx: Path) -> None:
    """Files and names as transformers.js has them (src/models.js: model_file_name)."""
    pictures, words = read_by_transformers(onnx)
    vision = onnxruntime.InferenceSession(onnx / "onnx" / "vision_model.onnx")
    text = onnxruntime.InferenceSession(onnx / "onnx" / "text_model.onnx")
    assert vision.get_inputs()[0].shape[:2] == ["batch_size", 3]
    assert text.get_inputs()[0].shape == ["batch_size", "sequence_length"]
    assert text.get_outputs()[0].shape == ["batch_size", 24]
    (image,) = vision.run(["image_embeds"], {"pixel_values": pictures})
    (rows,) = text.run(["text_embeds"], words)
    with torch.no_grad():
        assert_allclose(image, original.image(original.pixels(PHOTO)[None]), atol=1e-5)
        assert_allclose(rows, original.text(original.ids(TEXTS)), atol=1e-5)
    config = transformers.AutoConfig.from_pretrained(onnx)
    assert (config.model_type, config.projection_dim) == ("clip", 24)
    joined = transformers.CLIPProcessor.from_pretrained(onnx)(text=TEXTS, padding=True)
    assert joined["input_ids"] == words["input_ids"].tolist()


def test_openvino_alone(model: Model, intel: Path) -> None:
    """File names as optimum-intel has them (modeling_open_clip.py)."""
    pictures, words = read_by_transformers(intel)
    core = libraries.core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    vision = core.compile_model(intel / "openvino_model_vision.xml", "CPU", exact)
    text = core.compile_model(intel / "openvino_model_text.xml", "CPU", exact)
    image = vision({"pixel_values": pictures})["image_embeds"]
    rows = text(words)["text_embeds"]
    for found, right in (
        (image, model.embed_images(PHOTO, exact=True)),
        (rows, model.embed_texts(TEXTS)),
    ):
        assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), right, atol=1e-5)


def test_nothing_is_reported(intel: Path) -> None:
    """OpenVINO's converter, and NNCF, send what they are used for to a server by default."""
    assert sys.modules["openvino_telemetry"] is None
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("stub")


def test_opened_again(model: Model, intel: Path, onnx: Path) -> None:
    for folder, name in ((intel, "openvino"), (onnx, "onnx")):
        other = patchword.load(folder)
        assert (other.engine.name, other.fingerprint) == (name, model.fingerprint)
        assert_allclose(other.similarity(PHOTO, TEXTS), model.similarity(PHOTO, TEXTS), atol=1e-5)
        with pytest.raises(UnsupportedError, match="vectors alone"):
            other.heatmap(PHOTO, "a cat")
    coarse = patchword.load(intel, dtype="bfloat16")
    assert float((coarse.embed_images(PHOTO) * model.embed_images(PHOTO)).sum()) > 0.999
    for options, words in (
        ({"image_size": 64}, "takes no image_size"),
        ({"engine": "compile"}, "exported for the engine onnx"),
        ({"dtype": "bfloat16"}, "computes in float32"),
        ({"dtype": "int8"}, "export it again with int8"),
        ({"dtype": "int8", "calibrate": SAMPLE}, "takes no calibrate"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            patchword.load(onnx, **options)


def test_changed_weights_are_another_model(original: Reference, onnx: Path, tmp_path: Path) -> None:
    """Else labels that were kept for the weights of before would be taken for those of now."""
    model = patchword.load(original.path)
    model.network.text.blocks[0].mlp.fc1.weight.data.add_(0.5)
    changed = patchword.export(model, tmp_path / "changed", to="openvino").folder
    other = patchword.load(changed)
    assert other.fingerprint not in (model.fingerprint, patchword.load(onnx).fingerprint)
    found, right = (m.classify(PHOTO, ["a", "b"])[0][0] for m in (other, model))
    assert (found.label, found.probability) == (right.label, pytest.approx(right.probability))


def test_commands(run: Run, intel: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(intel, place)
    assert run("verify", place, place / "receipt.json").code == 0
    assert "engine openvino" in run("info", place).out
    # Graphs of other weights are found.
    mark = json.loads((place / "patchword.json").read_text())
    path = place / "openvino_model_vision.bin"
    numbers = np.fromfile(path, np.float32)
    numbers[np.abs(numbers) > 1e-3] *= 1.1  # weights, and no whole numbers
    numbers.tofile(path)
    wrong = run("verify", place, place / "receipt.json", "--json")
    assert wrong.code == 1
    assert next(row["stage"] for row in wrong.records if not row["same"]) == "image_tower"
    (place / "openvino_model_vision.xml").write_bytes(b"no graph")
    assert "export it again" in run("verify", place, place / "receipt.json").err
    (place / "patchword.json").write_text(json.dumps(mark | {"version": 9}))
    assert "upgrade patchword" in run("info", place).err
    assert "there are onnx and openvino" in run("export", place, place, "--to", "tflite").err


def test_what_it_does_not_give_names_its_model(
    run: Run,
    original: Reference,
    model: Model,
    onnx: Path,
    intel: Path,
) -> None:
    """--engine torch is refused there by the same words."""
    for folder in (onnx, intel):
        said = run("heatmap", SAMPLE, "a ring", "--model", folder)
        assert said.code == 2
        assert f"take the model that it was exported from: {model.name}" in said.err
        assert "torch" not in said.err


def test_training_cannot_begin_with_graphs(onnx: Path) -> None:
    """Named by its error, and not called a format that is not known."""
    (onnx / "scope.safetensors").write_bytes(b"")  # as beside an embedded model's graphs
    try:
        with pytest.raises(CheckpointError, match="is an exported model, graphs without weights"):
            load_init(recipe.load("lora", [f"init={onnx}"]))
    finally:
        (onnx / "scope.safetensors").unlink()


def test_another_model_is_not_replaced(
    run: Run,
    model: Model,
    onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No graph need be in a folder for that."""
    monkeypatch.setattr("patchword.exporting.folder.write_graphs", lambda *_: ({}, {}))
    folder = tmp_path / "exported"
    shutil.copytree(onnx, folder)
    mark = folder / "patchword.json"
    before = mark.read_bytes()
    said = run("export", "demo", folder)
    assert said.code == 2
    assert f"{folder} holds {model.name}, exported; to export demo name another folder" in said.err
    assert mark.read_bytes() == before
    moved = replace(model, name="moved")  # the same, by its weights
    patchword.export(moved, folder, to="openvino")
    assert json.loads(mark.read_text())["engine"] == "openvino"
    mark.write_text("{}")  # "export it again" is what is said of a damaged one
    patchword.export(model, folder, to="openvino")


def test_whole_or_not_at_all(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(CheckpointError, match="something other than an exported model"):
        patchword.export(model, tmp_path / "mine")
    (tmp_path / "mine" / "within").mkdir()
    monkeypatch.chdir(tmp_path / "mine" / "within")
    for here in (".", ".."):  # which would be taken away
        with pytest.raises(CheckpointError, match="the current folder lies in it"):
            patchword.export(model, here)
    monkeypatch.chdir(tmp_path)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    broken = {"onnx": libraries.Library("onnx", ".onnx", (torch.float32,), full, full)}
    monkeypatch.setattr("patchword.exporting.folder.LIBRARIES", broken)
    with pytest.raises(OSError, match="No space left"):
        patchword.export(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UnsupportedError, match=r"to is 'onx' \(do you mean onnx"):
        patchword.export(model, tmp_path / "new", to="onx")
    with pytest.raises(UnsupportedError, match="load it without dtype"):
        patchword.export(model.to("bfloat16"), tmp_path / "new")


@pytest.mark.parametrize("kind", ["vit-tiny-16", "swin-tiny-7-224"])
def test_a_classifier(kind: str, tmp_path: Path) -> None:
    config = shallow(CONFIGS[kind])
    network = models.build(config).eval()
    model = with_methods(make(network, config, None, "vit"))
    folder = patchword.export(model, tmp_path / "vit").folder
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    x = pixels(config)
    logits, features = session.run(["logits", "pooler_output"], {"pixel_values": x.numpy()})
    with torch.no_grad():
        assert_allclose(logits, network(x), atol=1e-5)
        assert_allclose(features, network.encode_image(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["blip-base-224", "blip-base-vqa-480"])
def test_the_parts_of_a_blip(kind: str, tmp_path: Path) -> None:
    """By OpenVINO, from one to the next, beside the network as it is. The one that answers captions
    too, as demo-blip: its decoder takes a question or image tokens, of which there are more."""
    config = shallow(CONFIGS[kind])
    if config.answers_questions:
        blip = replace(config.blip, writes_captions=True, image_tokens="patches")
        config = replace(config, blip=blip, text=replace(config.text, context=6))
    network: Any = models.build(config).eval()
    model = with_methods(make(network, config, None, kind))
    folder = patchword.export(model, tmp_path / "blip", to="openvino").folder
    graphs = patchword.load(folder).engine.graphs  # type: ignore[attr-defined]
    x, words = pixels(config), ids(config)
    found = {
        "encoder_hidden_states": graphs["image"]({"pixel_values": x.numpy()})["last_hidden_state"]
    }
    with torch.no_grad():
        right = network(x, words)
        said = right.words
        if config.answers_questions:
            states = network.cross_attend(words, network.image_tokens(x))
            mask = network.question_mask(words, states)
            said = network.word_logits(network.decode(words, states, mask))
    if config.matching:
        logits = graphs["matching"]({"input_ids": words.numpy(), **found})["logits"]
        assert_allclose(logits, right.matching, atol=1e-5)
    if config.answers_questions:
        asked = graphs["question"]({"input_ids": words.numpy(), **found})["last_hidden_state"]
        half = libraries.OPENVINO.read(folder / "openvino_model_question.xml", torch.bfloat16)
        rounded = half({"input_ids": words.numpy(), **found})["last_hidden_state"]
        assert_allclose(rounded, asked, atol=0.03)  # of 3: 0.007 by rounding, 1 by a misread mask
        kept = (words != config.text.pad_token).long().numpy()
        found = {"encoder_hidden_states": asked, "encoder_attention_mask": kept}
    logits = graphs["decoder"]({"input_ids": words.numpy(), **found})["logits"]
    assert_allclose(logits, said, atol=1e-4)
    first = graphs["decoder"]({"input_ids": words.numpy()[:, :1], **found})["logits"]
    assert_allclose(first, said[:, :1], atol=1e-4)
    caption = answers_of(patchword.load(folder)).word_logits([x[0].numpy()], words[:1].tolist())
    assert_allclose(caption, right.words[:1, -1], atol=1e-4)


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_int8(to: str, tmp_path: Path) -> None:
    """Its vectors are like those in float32, as the folder says."""
    model = with_methods(tiny_bundle(shallow(tiny_clip())))
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        Image.fromarray(scene(1, number).image).save(photos / f"{number}.png")
    (photos / "broken.jpg").write_bytes(b"no photo")
    with pytest.warns(ImageWarning, match=r"broken\.jpg.*int8 does without it"):
        made = patchword.export(model, tmp_path / to, to=to, int8=True, photos=photos)
    file = {"openvino": "openvino_model_vision.xml", "onnx": "onnx/vision_model_quantized.onnx"}
    assert made.graphs["image"] == file[to]
    other = patchword.load(made.folder)
    assert (other.engine.dtype, other.fingerprint) == (torch.int8, f"{model.fingerprint}-int8")
    known = json.loads((made.folder / "receipt.json").read_text())
    assert receipts.verify(other, known)
    assert not receipts.verify(other, known, atol=INT8_ATOL)  # as the command line advises
    names = sorted(photos.glob("*.png"))
    cosines = (other.embed_images(names) * model.embed_images(names)).sum(axis=1)
    assert 0.999 < min(cosines) < 0.999999
    found = made.agreement["image"]
    assert (found.count, made.agreement["text"].count, found.activations) == (6, 8, True)
    assert min(cosines) - 1e-6 <= found.least <= found.mean < 1


def test_int8_by_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that calibrate nothing disagree, as it seems: the weights alone are int8. Graphs are
    made once."""
    monkeypatch.setattr("patchword.exporting.int8.GOAL", 1.1)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    config = shallow(tiny_vit("patches"))
    model = with_methods(make(models.build(config), config, None, "vit"))
    names = [tmp_path / f"{number}.png" for number in range(16)]
    for number, name in enumerate(names):
        Image.fromarray(scene(1, number).image).save(name)
    loaded = in_int8(model, "openvino", names)
    assert (loaded.engine.dtype, loaded.fingerprint) == (torch.int8, f"{model.fingerprint}-int8")
    assert loaded.options["calibrate"] == [str(name) for name in names]
    cosines = (loaded.embed_images(names) * model.embed_images(names)).sum(axis=1)
    assert 0.9995 < min(cosines) < 0.9999999
    assert "weights alone in int8" in loaded.engine.agreement["image"]  # type: ignore[attr-defined]
    monkeypatch.setattr("patchword.exporting.int8_engine.write_graphs", None)
    again = in_int8(model, "openvino", names)
    assert_allclose(again.embed_images(names), loaded.embed_images(names), atol=1e-6)
    (mark,) = tmp_path.rglob("patchword.json")
    mark.unlink()
    with pytest.raises(CheckpointError, match=f"delete {mark.parent}, and it is made again"):
        in_int8(model, "openvino", names)
    monkeypatch.setenv("PATCHWORD_CACHE", "/dev/null")
    with pytest.raises(UnsupportedError, match=r"cannot keep its graphs.*PATCHWORD_CACHE"):
        in_int8(model, "openvino", names)


def test_outputs_in_int8_that_are_no_numbers_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second photo alone: a comparison with NaN is false, and so would hide it."""
    rows = iter([[1.0, 1.0], [np.nan, 1.0], [1.0, 1.0], [1.0, 1.0]])
    exact, other = lambda _: {"out": np.ones(2)}, lambda _: {"out": np.array(next(rows))}
    library = replace(
        libraries.ONNX, read=lambda _, dtype: exact if dtype == torch.float32 else other
    )
    monkeypatch.setattr(int8, "_onnx", lambda whole, path: True)
    part = SimpleNamespace(name="image", outputs=["out"])
    photos = int8.Photos([np.zeros((3, 2, 2), np.float32)] * 16)
    with pytest.raises(UnsupportedError, match=r"int8 changes .* too much: .* least nan of 4"):
        int8.quantise(library, part, tmp_path, tmp_path, photos, [])


def test_photos_for_int8(model: Model, original: Reference, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="give a folder of them"):
        patchword.export(model, tmp_path / "x", int8=True)
    with pytest.raises(UnsupportedError, match="give 16 or more, not 1"):
        patchword.export(model, tmp_path / "x", int8=True, photos=SAMPLE)
    for options, words in (
        ({"dtype": "int8"}, 'give engine="openvino" too'),
        ({"dtype": "int8", "engine": "onnx"}, "load: calibrate"),
        ({"calibrate": SAMPLE}, "calibrate is for"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            patchword.load(original.path, **options)
    with pytest.raises(UnsupportedError, match="photos are for int8"):
        patchword.export(model, tmp_path / "x", photos=SAMPLE)


def test_a_word_that_pads_is_read_as_a_word(tmp_path: Path) -> None:
    """open_clip, and demo, pad with "!": transformers would take each one for padding."""
    model = patchword.load("demo")
    assert model.config.text is not None
    assert model.tokenizer is not None
    config = huggingface.tokenizer_config(model.tokenizer, model.config.text)
    (tmp_path / "tokenizer.json").write_text(model.tokenizer.to_json())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    texts = ["a red ring!", "!", "a small green square to the left of a wafer"]
    given = transformers.AutoTokenizer.from_pretrained(tmp_path)(texts, padding=True)["input_ids"]
    own = model.tokenizer(texts)
    ends = (own == model.config.text.end_token).argmax(axis=1)
    for row, right, end in zip(given, own.tolist(), ends, strict=True):
        assert row[: end + 1] == right[: end + 1]
    with torch.inference_mode():
        found, right = (model.network.encode_text(torch.tensor(each)) for each in (given, own))
    assert_allclose(found, right, atol=1e-5)
    attended = replace(model.config.text, causal=False, padding="attended", pool="last")
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.padded_over = [3]
    said = huggingface.differences(replace(model.config, text=attended), tokenizer)
    assert any('takes "!" in a text for padding' in words for words in said)
    assert any("with id 3, where the model has padding: replace it by 0" in words for words in said)


def test_transformers_reads_the_configuration_of_a_resnet(tmp_path: Path) -> None:
    values = huggingface.described(tiny_clip_resnet(), 10.0)
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = transformers.AutoConfig.from_pretrained(tmp_path)
    assert found.vision_config.num_attention_heads == tiny_clip_resnet().image_tower.heads


def test_what_is_not_the_same_elsewhere_is_said(tmp_path: Path) -> None:
    config = CONFIGS["siglip-base-16-224"]
    said = huggingface.differences(config)
    assert any('padding="max_length"' in words for words in said)
    cleaned = replace(config, text=replace(config.text, cleaning="canonicalize"))
    said = huggingface.differences(cleaned)
    assert any("texts in lower case without punctuation are the same" in words for words in said)
    naflex = CONFIGS["siglip2-base-16-naflex"]
    model = with_methods(make(models.build(naflex), naflex, None, "naflex"))
    with pytest.raises(UnsupportedError, match="in its own shape"):
        patchword.export(model, tmp_path / "naflex")
