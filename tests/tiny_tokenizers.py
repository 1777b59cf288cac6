"""Tokenizers of every kind, built by transformers, for tests of several model families. All are
tiny, except CLIP's."""

import functools
import gzip
import tempfile
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision

# isort: split
import open_clip
import tokenizers
import transformers

CLIP_SIZE = 49408  # tokens
SPECIAL = ("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHINESE = "一只狗在草地上猫红色的照片张两个人衣服和鞋子我喜欢看书有中文字很大小好天气，。！？、的"
PIECES = ("dog", "cat", "photo", "ing", "ed", "a", "of", "the", "red", "shirt", "shoe")


def bert_vocabulary() -> list[str]:
    """Words, letters, digits, Chinese characters and punctuation; words and lower-case letters also
    as "##" continuations."""
    words = [*PIECES, *LETTERS, *LETTERS.upper(), *"0123456789", *CHINESE, *".,!?'-"]
    pieces = list(dict.fromkeys([*words, *(f"##{piece}" for piece in [*PIECES, *LETTERS])]))
    return [*SPECIAL, *pieces]


def bert_files(folder: Path, config: str = "{}") -> Path:
    """A vocab.txt and a tokenizer_config.json, as the original BERT checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(bert_vocabulary()) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(config)
    return folder


def t5() -> transformers.PreTrainedTokenizerBase:
    """A Unigram tokenizer like that of SigLIP: no start token, and the end token pads."""
    pieces = ["▁", *(f"▁{piece}" for piece in PIECES), *PIECES, *LETTERS, *CHINESE, *".,!?'-"]
    scored = [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(dict.fromkeys(pieces))]
    vocab = [("<unk>", 0.0), ("</s>", 0.0), *scored]
    return transformers.T5Tokenizer(vocab=vocab, pad_token="</s>", extra_ids=0)


def xlm() -> transformers.PreTrainedTokenizerBase:
    """A Unigram tokenizer like that of MetaCLIP 2: a start token, and 2 is the end token."""
    pieces = ["▁", *(f"▁{piece}" for piece in PIECES), *PIECES, *LETTERS, *CHINESE, *".,!?'-"]
    scored = [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(dict.fromkeys(pieces))]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return transformers.XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)])


def gemma() -> transformers.PreTrainedTokenizerBase:
    """A byte-pair tokenizer with byte fallback like that of SigLIP 2: an end token, no start."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS, *CHINESE]
    merges = [("d", "o"), ("do", "g"), ("c", "a"), ("ca", "t"), ("▁", "dog"), ("▁", "a")]
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*tokens, *(a + b for a, b in merges)]))}
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocab, merges=merges, padding_side="right")
    tokenizer.add_bos_token, tokenizer.add_eos_token = False, True
    tokenizer.update_post_processor()
    return tokenizer


def clip_tokenizer(size: int = CLIP_SIZE, **options: Any) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer with 49,408 byte pairs, from the file that open_clip includes.

    `save_pretrained` writes the same tokenizer.json, token for token, as the hub's CLIP
    repositories hold. A smaller `size` takes only the first merges."""
    pairs = open_clip_tokenizer(size=size)
    words = list(pairs.encoder)[:-2]
    start, end = "<|startoftext|>", "<|endoftext|>"  # open_clip names these two differently
    return transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate([*words, start, end])},
        merges=list(pairs.bpe_ranks),
        bos_token=tokenizers.AddedToken(start, normalized=True, special=True),
        model_max_length=77,
        **options,
    )


@functools.cache
def _clip_files(size: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        clip_tokenizer(size).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def save_clip_tokenizer(folder: str | Path, size: int = CLIP_SIZE) -> None:
    """Write the files of `clip_tokenizer(size).save_pretrained(folder)`, built only once."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in _clip_files(size).items():
        (Path(folder) / name).write_bytes(content)


@functools.cache
def open_clip_tokenizer(
    context_length: int = 77, size: int = CLIP_SIZE
) -> open_clip.SimpleTokenizer:
    """open_clip's tokenizer, or one with its first `size` tokens. Cached, because building it takes
    a tenth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        merges = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes())
        file = Path(folder) / "merges.txt.gz"
        # One header line, then a merge for each token except 512 bytes and the two end tokens.
        lines = merges.split(b"\n")[: 1 + size - 514]
        file.write_bytes(gzip.compress(b"\n".join(lines), 1))
        return open_clip.SimpleTokenizer(str(file), context_length=context_length)
