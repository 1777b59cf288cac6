"""Models in the layouts of sentence-transformers and diffusers, and from ModelScope and buckets."""

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import functools
import json
import os
import shutil
import sys
import types
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import transformers
from cli_runner import Run
from tiny_tokenizers import clip_tokenizer

import patchword
from patchword.cache import folder as cache_folder
from patchword.cache import of_models
from patchword.checkpoints import other_hubs
from patchword.errors import CheckpointError, TokenizerError, UnsupportedError

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 2, "projection_dim": 24,
}  # fmt: skip
VISION = {**SMALL, "image_size": 32, "patch_size": 16}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@functools.cache
def small_tokenizer(**options: str) -> Any:
    """A thousand of CLIP's tokens: to build all of them takes long."""
    return clip_tokenizer(1000, **options)


def text_config() -> dict[str, Any]:
    tokenizer = small_tokenizer()
    return {
        **SMALL,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }


def processor(mean: float = 0.5) -> Any:
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[mean] * 3,
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP with everything that belongs to it, as transformers saves it."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        vision_config=VISION, text_config=text_config(), projection_dim=24
    )
    folder = tmp_path / "clip"
    transformers.CLIPModel(config).save_pretrained(folder)
    processor().save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


# Classifiers


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_classifiers(tmp_path: Path, kind: str) -> None:
    names = {0: "cat", 1: "dog", 2: "hat"}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=VISION, text_config={**SMALL, "vocab_size": 99}, id2label=names
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for parameter in network.parameters():  # norms too, so that a wrong one shows
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(tmp_path / "model")
    model = patchword.load(tmp_path / "model")
    with torch.no_grad():
        expected = network(pixel_values=PIXELS).logits
        torch.testing.assert_close(model.network(PIXELS), expected)
    photo = (PIXELS[0].numpy().transpose(1, 2, 0) * 40 + 128).clip(0, 255).astype("uint8")
    (scores,) = model.classify(photo)
    assert {score.label for score in scores} == set(names.values())
    assert patchword.load(model.save(tmp_path / "saved")).fingerprint == model.fingerprint


# sentence-transformers


OLD, NEW = "sentence_transformers.models", "sentence_transformers.base.modules"


def modules(folder: Path, *kinds: tuple[str, str]) -> None:
    """modules.json as sentence-transformers writes it: (path, class) of each module."""
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


@pytest.fixture
def sentences(clip: Path, tmp_path: Path) -> Path:
    """The layout of sentence-transformers/clip-ViT-B-32."""
    shutil.copytree(clip, tmp_path / "sentences" / "0_CLIPModel")
    modules(tmp_path / "sentences", ("0_CLIPModel", f"{OLD}.CLIPModel"))
    return tmp_path / "sentences"


def test_sentence_transformers(clip: Path, sentences: Path) -> None:
    expected = patchword.load(clip).fingerprint
    assert patchword.load(sentences).fingerprint == expected
    assert patchword.load(sentences / "0_CLIPModel").fingerprint == expected
    normalised = ("1_Normalize", f"{OLD}.Normalize")  # vectors have length 1 here anyway
    modules(sentences, ("0_CLIPModel", f"{OLD}.CLIPModel"), normalised)
    assert patchword.load(sentences).fingerprint == expected
    modules(clip, ("", f"{NEW}.transformer.Transformer"), ("1", f"{NEW}.normalize.Normalize"))
    methods = {"text": {"method": "get_text_features"}, "image": {"method": "get_image_features"}}
    (clip / "sentence_bert_config.json").write_text(json.dumps({"modality_config": methods}))
    prompts = {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}
    (clip / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert patchword.load(clip).fingerprint == expected


@pytest.mark.parametrize("name", ["Dense", "Pooling", "LayerNorm", "WordWeights"])
def test_a_further_module_is_refused_by_name(clip: Path, sentences: Path, name: str) -> None:
    modules(sentences, ("0_CLIPModel", f"{OLD}.CLIPModel"), (f"1_{name}", f"{OLD}.{name}"))
    with pytest.raises(CheckpointError, match=f"puts {OLD}.{name} after the model") as error:
        patchword.load(sentences)
    assert 'subfolder="0_CLIPModel"' in str(error.value)
    model = patchword.load(sentences, subfolder="0_CLIPModel")
    assert model.fingerprint == patchword.load(clip).fingerprint
    assert patchword.load(model.name, **model.options).fingerprint == model.fingerprint


def test_settings_of_sentence_transformers_that_are_refused(sentences: Path) -> None:
    modules(sentences, ("0_WordEmbeddings", f"{OLD}.WordEmbeddings"))
    with pytest.raises(CheckpointError, match=f"begins with '{OLD}.WordEmbeddings'"):
        patchword.load(sentences)
    modules(sentences, ("../clip", f"{OLD}.CLIPModel"))
    with pytest.raises(CheckpointError, match="is not inside"):
        patchword.load(sentences)
    modules(sentences, ("0_CLIPModel", f"{OLD}.CLIPModel"))
    stated = sentences / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    stated.write_text(json.dumps(prompts))
    with pytest.raises(CheckpointError, match="puts 'find: ' before every text"):
        patchword.load(sentences)
    stated.unlink()
    methods = {"modality_config": {"image": {"method": "forward"}}}
    (sentences / "0_CLIPModel" / "sentence_bert_config.json").write_text(json.dumps(methods))
    with pytest.raises(CheckpointError, match="embeds image by forward"):
        patchword.load(sentences)


# diffusers


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """The folders of a pipeline with two text encoders and an image encoder."""
    folder = tmp_path / "pipeline"
    torch.manual_seed(1)
    text, vision = (
        transformers.CLIPTextConfig(**text_config()),
        transformers.CLIPVisionConfig(**VISION),
    )
    transformers.CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    transformers.CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder_2")
    transformers.CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    small_tokenizer().save_pretrained(folder / "tokenizer")
    small_tokenizer(pad_token="!").save_pretrained(folder / "tokenizer_2")
    processor(mean=0.25).save_pretrained(folder / "feature_extractor")
    (folder / "unet").mkdir()
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "force_zeros_for_empty_prompt": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_pipeline_lists_its_encoders(pipeline: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        patchword.load(pipeline)
    assert str(error.value).endswith(
        "say which with subfolder=, or --subfolder: image_encoder (CLIPVisionModelWithProjection), "
        "text_encoder (CLIPTextModel), text_encoder_2 (CLIPTextModelWithProjection)"
    )


TEXTS = ["a red circle", "blue"]


@torch.no_grad()
@pytest.mark.parametrize("number", ["", "_2"])
def test_text_encoders_of_a_pipeline(pipeline: Path, number: str) -> None:
    model = patchword.load(pipeline, subfolder=f"text_encoder{number}")
    kind = "CLIPTextModelWithProjection" if number else "CLIPTextModel"
    theirs = getattr(transformers, kind).from_pretrained(pipeline / f"text_encoder{number}").eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(pipeline / f"tokenizer{number}")
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    out = theirs(ids, output_hidden_states=True)
    pooled = out.text_embeds if number else out.pooler_output
    states = model.encode_texts(TEXTS, layer=-2)
    torch.testing.assert_close(torch.from_numpy(states.ids), ids)
    torch.testing.assert_close(torch.from_numpy(states.states), out.hidden_states[-2])
    torch.testing.assert_close(torch.from_numpy(states.pooled), pooled)
    with pytest.raises(UnsupportedError, match="has a text tower only and sees no images"):
        model.embed_images([PIXELS[0].numpy()])


@torch.no_grad()
def test_the_image_encoder_of_a_pipeline(pipeline: Path) -> None:
    model = patchword.load(pipeline, subfolder="image_encoder")
    folder = pipeline / "image_encoder"
    theirs = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    torch.testing.assert_close(
        model.network.encode_image(PIXELS), theirs(pixel_values=PIXELS).image_embeds
    )
    assert model.config.preprocess.mean == (0.25, 0.25, 0.25)  # of feature_extractor/
    with pytest.raises((UnsupportedError, TokenizerError), match="has an image tower only"):
        model.embed_texts(["a"])


def test_subfolders_that_are_not_there(pipeline: Path, clip: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no folder text_encoder_3; it has feature_"):
        patchword.load(pipeline, subfolder="text_encoder_3")
    with pytest.raises(CheckpointError, match=r"subfolder '\.\./clip' is not inside"):
        patchword.load(pipeline, subfolder="../clip")
    with pytest.raises(CheckpointError, match="has no weights"):
        patchword.load(pipeline, subfolder="tokenizer")
    with pytest.raises(CheckpointError, match="is a file and has no folder x"):
        patchword.load(clip / "model.safetensors", subfolder="x")


def test_a_subfolder_on_the_command_line(
    run: Run, pipeline: Path, clip: Path, tmp_path: Path
) -> None:
    refused = run("info", pipeline)
    assert refused.code == 2
    assert "--subfolder: image_encoder (" in " ".join(refused.err.split())
    (info,) = run("info", pipeline, "--subfolder", "image_encoder", "--json").records
    model = patchword.load(pipeline, subfolder="image_encoder")
    assert info["fingerprint"] == model.fingerprint
    assert info["read_from"][0] == "image_encoder/model.safetensors"
    photos = Path(__file__).parent.parent / "samples" / "wafers"
    options = ("--model", pipeline, "--subfolder", "image_encoder")
    indexed = run("index", photos, "--into", tmp_path / "index", *options)
    assert indexed.code == 0, indexed.err
    search = run("search", tmp_path / "index", "--image", photos / "edge-chip-1.jpg", "--json")
    assert search.code == 0, search.err  # the model was loaded again
    assert search.records[0]["image"].endswith("edge-chip-1.jpg")
    both = run("blend", pipeline, clip, "-o", tmp_path / "b", "--subfolder", "image_encoder")
    assert both.code == 2
    assert "--subfolder could apply to" in both.err


# Other stores


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(clip: Path, pipeline: Path, sentences: Path) -> Iterator[Any]:
    """A store in memory with models in it."""
    store = fsspec.filesystem("memory")
    for folder in (clip, pipeline, sentences):
        store.put(str(folder), f"/bucket/{folder.name}", recursive=True)
    store.pipe("/bucket/clip/pytorch_model.bin", b"not needed")
    yield store
    store.rm("/bucket", recursive=True)


def test_a_bucket(bucket: Any, cache: Path, clip: Path, pipeline: Path, sentences: Path) -> None:
    expected = patchword.load(clip).fingerprint
    model = patchword.load("memory://bucket/clip")
    assert (model.fingerprint, model.name) == (expected, "memory://bucket/clip")
    files = sorted(p.name for p in cache.rglob("*") if p.is_file())
    assert "model.safetensors" in files
    assert "pytorch_model.bin" not in files
    assert patchword.load("memory://bucket/sentences").fingerprint == expected
    file = patchword.load("memory://bucket/clip/model.safetensors")
    assert file.fingerprint == expected
    remote = patchword.load("memory://bucket/pipeline", subfolder="text_encoder_2")
    local = patchword.load(pipeline, subfolder="text_encoder_2")
    assert remote.fingerprint == local.fingerprint
    assert patchword.load(remote.name, **remote.options).fingerprint == local.fingerprint


def test_a_bucket_is_read_once_until_it_changes(
    bucket: Any, cache: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = patchword.load("memory://bucket/clip").fingerprint
    (first_copy,) = cache.iterdir()
    opened: list[str] = []
    real = type(bucket).open

    def noting_open(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        opened.append(path)
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(type(bucket), "open", noting_open)
    assert patchword.load("memory://bucket/clip").fingerprint == first
    assert opened == []
    network = transformers.CLIPModel.from_pretrained(clip)
    torch.nn.init.normal_(network.visual_projection.weight)
    network.save_pretrained(clip)
    bucket.put(str(clip / "model.safetensors"), "/bucket/clip/model.safetensors")
    assert patchword.load("memory://bucket/clip").fingerprint != first
    assert sorted(cache.iterdir()) != [first_copy]


def test_a_bucket_that_is_cut_short(
    bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays of it, and the next load is whole."""
    real = other_hubs.shutil.copyfileobj
    monkeypatch.setattr(other_hubs.shutil, "copyfileobj", lambda a, b, n: b.write(a.read(100)))
    with pytest.raises(CheckpointError, match=r"has [\d,]+ bytes, and 100 came"):
        patchword.load("memory://bucket/clip")
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(other_hubs.shutil, "copyfileobj", real)
    patchword.load("memory://bucket/clip")


def test_buckets_that_are_not_there(bucket: Any, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"memory://nowhere has no weights; .*found nothing"):
        patchword.load("memory://nowhere")
    with pytest.raises(CheckpointError, match=r"is a pipeline of several models; say which"):
        patchword.load("memory://bucket/pipeline")
    with pytest.raises(CheckpointError, match=r"xyz://a/b cannot be read \(Protocol not known"):
        patchword.load("xyz://a/b")


def test_a_bucket_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    message = r's3:// needs s3fs, which is not installed: pip install "patchword\[cloud\]"'
    with pytest.raises(CheckpointError, match=message):
        patchword.load("s3://bucket/model")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "https://huggingface.co/openai/clip-vit-base-patch32",
            "give 'openai/clip-vit-base-patch32'",
        ),
        ("https://huggingface.co/openai/clip/resolve/main/a.bin", "give 'openai/clip'"),
        ("hf://openai/clip-vit-base-patch32", "give 'openai/clip-vit-base-patch32'"),
        ("https://modelscope.cn/models/a/b/summary", "give 'modelscope:a/b'"),
        ("https://example.org/ViT-B-32.pt", r"curl -LO https://example.org/ViT-B-32.pt"),
    ],
)
def test_web_addresses_are_refused(address: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        patchword.load(address)


class ModelScope(types.ModuleType):
    """The library, whose repositories are folders here."""

    def __init__(self, repositories: dict[str, Path], cache: Path) -> None:
        super().__init__("modelscope")
        self.repositories, self.cache = repositories, cache
        self.sent: list[str] = []

    def snapshot_download(self, model_id: str, *, allow_patterns: list[str]) -> str:
        if model_id not in self.repositories:
            raise ValueError(f"The request model: {model_id} does not exist!")
        source, target = self.repositories[model_id], self.cache / model_id
        for path in source.rglob("*"):
            name = path.relative_to(source).as_posix()
            copy = target / name
            allowed = any(fnmatch(name, pattern) for pattern in allow_patterns)
            if path.is_file() and allowed and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
                self.sent.append(name)
        return str(target)


@pytest.fixture
def modelscope(
    clip: Path, pipeline: Path, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelScope:
    for name in ("pytorch_model.bin", "flax_model.msgpack", "configuration.json"):
        (clip / name).write_bytes(b"{}")
    folders = {f"org/{folder.name}": folder for folder in (clip, pipeline, sentences)}
    library = ModelScope(folders, tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "modelscope", library)
    return library


def test_modelscope(modelscope: ModelScope, clip: Path, pipeline: Path) -> None:
    model = patchword.load("modelscope:org/clip")
    assert model.fingerprint == patchword.load(clip).fingerprint
    assert model.name == "modelscope:org/clip"
    assert "model.safetensors" in modelscope.sent
    assert not {"pytorch_model.bin", "flax_model.msgpack"} & set(modelscope.sent)
    sentences = patchword.load("modelscope:org/sentences")
    assert sentences.fingerprint == model.fingerprint
    text_encoder = patchword.load("modelscope:org/pipeline", subfolder="text_encoder")
    assert (
        text_encoder.fingerprint == patchword.load(pipeline, subfolder="text_encoder").fingerprint
    )
    assert not any("text_encoder_2/model" in name for name in modelscope.sent)
    with pytest.raises(CheckpointError, match="is a pipeline of several models"):
        patchword.load("modelscope:org/pipeline")


def test_modelscope_that_has_no_such_model(
    modelscope: ModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        CheckpointError, match=r"modelscope:org/x cannot be downloaded \(The request"
    ):
        patchword.load("modelscope:org/x")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    message = (
        r'modelscope:org/x needs modelscope, which is not installed: pip install "patchword\[m'
    )
    with pytest.raises(CheckpointError, match=message):
        patchword.load("modelscope:org/x")


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATCHWORD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.sep + "somewhere")
    assert of_models() == Path("/somewhere/patchword/models")
    monkeypatch.setenv("PATCHWORD_CACHE", "/elsewhere")
    assert of_models() == cache_folder() == Path("/elsewhere")
    monkeypatch.setenv("PATCHWORD_CACHE", "~/here")
    assert of_models() == cache_folder() == Path.home() / "here"
