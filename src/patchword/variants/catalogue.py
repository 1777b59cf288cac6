"""Public checkpoints as data: their names on the hub, size, licence and accuracy.

An accuracy is top-1 on ImageNet-1k's validation set, in percent, as the source of its group
publishes it; None if it does not. Zero-shot: images are classified by prompts, without training on
ImageNet. Supervised: a head was trained on ImageNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Measure = Literal["zero-shot", "supervised", "none"]

OPEN_CLIP = "open_clip, docs/openclip_results.csv"
SIGLIP_2 = "big_vision, README_siglip2.md"
DEIT = "facebookresearch/deit, README_deit.md"
SWIN = "microsoft/Swin-Transformer, MODELHUB.md"
TIMM = "timm, results/results-imagenet.csv"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the hub, or a file that OpenAI's code downloads."""

    name: str  # hub id
    parameters: float  # millions
    pixels: int  # side of the image; for images in their own shapes, of the largest square
    top1: float | None = None  # percent
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Checkpoints of one family, with the same licence and the same source of accuracies."""

    title: str
    licence: str
    measure: Measure  # of every top1
    source: str  # of every top1; "" without one
    checkpoints: tuple[Checkpoint, ...]


def _rows(*rows: tuple[str, float, int, float | None] | Checkpoint) -> tuple[Checkpoint, ...]:
    return tuple(row if isinstance(row, Checkpoint) else Checkpoint(*row) for row in rows)


GROUPS = (
    Group(
        "OpenAI CLIP",
        "MIT", "zero-shot", OPEN_CLIP,
        _rows(
            ("openai/clip-vit-base-patch32", 151.3, 224, 63.3),
            ("openai/clip-vit-base-patch16", 149.6, 224, 68.3),
            Checkpoint(
                "openai/clip-vit-large-patch14", 427.6, 224, 75.5,
                "vision encoder of LLaVA, text encoder of Stable Diffusion 1 and XL",
            ),
            Checkpoint(
                "openai/clip-vit-large-patch14-336", 427.9, 336, 76.6,
                "vision encoder of LLaVA-1.5",
            ),
            Checkpoint("RN50.pt", 102.0, 224, 59.8, "a file of OpenAI's code, as the next four"),
            ("RN101.pt", 119.7, 224, 62.3),
            ("RN50x4.pt", 178.3, 288, 66.3),
            ("RN50x16.pt", 291.0, 384, 70.7),
            ("RN50x64.pt", 623.3, 448, 73.9),
        ),
    ),
    Group(
        "LAION CLIP",
        "MIT", "zero-shot", OPEN_CLIP,
        _rows(
            ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 151.3, 224, 66.6),
            ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 151.3, 224, 69.2),
            ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", 151.3, 256, 72.8),
            ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 149.6, 224, 70.2),
            ("laion/CLIP-ViT-B-16-DataComp.L-s1B-b8K", 149.6, 224, 63.1),
            ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", 149.6, 224, 73.5),
            ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 427.6, 224, 75.3),
            ("laion/CLIP-ViT-L-14-CommonPool.XL-s13B-b90K", 427.6, 224, 72.3),
            ("laion/CLIP-ViT-L-14-CommonPool.XL.laion-s13B-b90K", 427.6, 224, 75.5),
            ("laion/CLIP-ViT-L-14-CommonPool.XL.clip-s13B-b90K", 427.6, 224, 76.4),
            ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", 427.6, 224, 79.2),
            Checkpoint(
                "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 986.1, 224, 78.0,
                "text encoder of Stable Diffusion 2",
            ),
            ("laion/CLIP-ViT-g-14-laion2B-s12B-b42K", 1366.7, 224, 76.6),
            ("laion/CLIP-ViT-g-14-laion2B-s34B-b88K", 1366.7, 224, 78.5),
            Checkpoint(
                "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 2539.6, 224, 80.1,
                "second text encoder of Stable Diffusion XL",
            ),
        ),
    ),
    Group(
        "Apple DFN CLIP",
        "apple-amlr", "zero-shot", OPEN_CLIP,
        _rows(
            ("apple/DFN2B-CLIP-ViT-B-16", 149.6, 224, 76.2),
            ("apple/DFN2B-CLIP-ViT-L-14", 427.6, 224, 81.4),
            ("apple/DFN2B-CLIP-ViT-L-14-39B", 427.6, 224, None),
            ("apple/DFN5B-CLIP-ViT-H-14", 986.1, 224, 83.4),
            ("apple/DFN5B-CLIP-ViT-H-14-378", 986.7, 378, 84.4),
        ),
    ),
    Group(
        "CLIP with BERT or RoBERTa for texts",
        "MIT", "none", "",
        _rows(
            Checkpoint(
                "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", 195.9, 224,
                note="pictures of medicine",
            ),
            ("laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k", 212.7, 224, None),
            Checkpoint(
                "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k", 366.1, 224,
                note="texts in many languages",
            ),
            Checkpoint(
                "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k", 1193.0, 224,
                note="texts in many languages",
            ),
        ),
    ),
    Group(
        "MetaCLIP",
        "CC-BY-NC-4.0", "zero-shot", OPEN_CLIP,
        _rows(
            ("facebook/metaclip-b32-400m", 151.3, 224, 65.6),
            ("facebook/metaclip-b16-400m", 149.6, 224, 70.8),
            ("facebook/metaclip-l14-400m", 427.6, 224, 76.2),
            ("facebook/metaclip-b32-fullcc2.5b", 151.3, 224, 67.7),
            ("facebook/metaclip-b16-fullcc2.5b", 149.6, 224, 72.1),
            ("facebook/metaclip-l14-fullcc2.5b", 427.6, 224, 79.2),
            ("facebook/metaclip-h14-fullcc2.5b", 986.1, 224, 80.5),
        ),
    ),
    Group(
        "MetaCLIP 2, texts in many languages",
        "CC-BY-NC-4.0", "none", "",
        _rows(
            ("facebook/metaclip-2-worldwide-b32", 587.6, 224, None),
            ("facebook/metaclip-2-worldwide-b16", 586.0, 224, None),
            ("facebook/metaclip-2-worldwide-l14", 1082.1, 224, None),
            ("facebook/metaclip-2-worldwide-huge-quickgelu", 1858.8, 224, None),
        ),
    ),
    Group(
        "SigLIP",
        "Apache-2.0", "zero-shot", OPEN_CLIP,
        _rows(
            ("google/siglip-base-patch16-224", 203.2, 224, 76.0),
            ("google/siglip-base-patch16-256", 203.2, 256, 76.5),
            ("google/siglip-base-patch16-256-multilingual", 370.6, 256, 75.1),
            ("google/siglip-base-patch16-384", 203.4, 384, 78.5),
            ("google/siglip-base-patch16-512", 203.8, 512, 79.1),
            ("google/siglip-large-patch16-256", 652.2, 256, 80.5),
            ("google/siglip-large-patch16-384", 652.5, 384, 82.1),
            ("google/siglip-so400m-patch14-224", 877.4, 224, 82.0),
            Checkpoint(
                "google/siglip-so400m-patch14-384", 878.0, 384, 83.1,
                "vision encoder of LLaVA-OneVision",
            ),
            ("google/siglip-so400m-patch16-256-i18n", 1127.4, 256, None),
        ),
    ),
    Group(
        "SigLIP 2",
        "Apache-2.0", "zero-shot", SIGLIP_2,
        _rows(
            ("google/siglip2-base-patch32-256", 376.9, 256, 74.0),
            ("google/siglip2-base-patch16-224", 375.2, 224, 78.2),
            ("google/siglip2-base-patch16-256", 375.2, 256, 79.1),
            ("google/siglip2-base-patch16-384", 375.5, 384, 80.6),
            ("google/siglip2-base-patch16-512", 375.8, 512, 81.2),
            ("google/siglip2-large-patch16-256", 881.5, 256, 82.5),
            ("google/siglip2-large-patch16-384", 881.9, 384, 83.1),
            ("google/siglip2-large-patch16-512", 882.3, 512, 83.5),
            ("google/siglip2-so400m-patch14-224", 1135.5, 224, 83.2),
            ("google/siglip2-so400m-patch14-384", 1136.0, 384, 84.1),
            ("google/siglip2-so400m-patch16-256", 1135.7, 256, 83.4),
            ("google/siglip2-so400m-patch16-384", 1136.0, 384, 84.1),
            ("google/siglip2-so400m-patch16-512", 1136.6, 512, 84.3),
            ("google/siglip2-giant-opt-patch16-256", 1871.4, 256, 84.5),
            ("google/siglip2-giant-opt-patch16-384", 1871.9, 384, 85.0),
            Checkpoint(
                "google/siglip2-base-patch16-naflex", 375.2, 256, 78.5,
                "images in their own shape; measured at 256 patches",
            ),
            Checkpoint(
                "google/siglip2-so400m-patch16-naflex", 1135.7, 256, 83.5,
                "images in their own shape; measured at 256 patches",
            ),
        ),
    ),
    Group(
        "Chinese-CLIP",
        "not stated", "none", "",
        _rows(
            ("OFA-Sys/chinese-clip-vit-base-patch16", 188, 224, None),
            ("OFA-Sys/chinese-clip-vit-large-patch14", 406, 224, None),
            ("OFA-Sys/chinese-clip-vit-large-patch14-336px", 407, 336, None),
            ("OFA-Sys/chinese-clip-vit-huge-patch14", 958, 224, None),
        ),
    ),
    Group(
        "BLIP",
        "BSD-3-Clause", "none", "",
        _rows(
            Checkpoint("Salesforce/blip-image-captioning-base", 224.0, 384, note="captions"),
            Checkpoint("Salesforce/blip-image-captioning-large", 446.3, 384, note="captions"),
            Checkpoint("Salesforce/blip-vqa-base", 361.2, 384, note="answers questions"),
            Checkpoint("Salesforce/blip-vqa-capfilt-large", 361.2, 384, note="answers questions"),
            Checkpoint("Salesforce/blip-itm-base-coco", 223.7, 384, note="retrieval"),
            Checkpoint("Salesforce/blip-itm-large-coco", 446.1, 384, note="retrieval"),
            Checkpoint("Salesforce/blip-itm-base-flickr", 223.7, 384, note="retrieval"),
            Checkpoint("Salesforce/blip-itm-large-flickr", 446.1, 384, note="retrieval"),
        ),
    ),
    Group(
        "ViT, Google's",
        "Apache-2.0", "none", "",
        _rows(
            ("google/vit-base-patch16-224", 86.6, 224, None),
            ("google/vit-base-patch16-384", 86.9, 384, None),
            ("google/vit-base-patch32-384", 88.3, 384, None),
            ("google/vit-large-patch16-224", 304.3, 224, None),
            ("google/vit-large-patch16-384", 304.7, 384, None),
            ("google/vit-large-patch32-384", 306.6, 384, None),
            Checkpoint("google/vit-base-patch16-224-in21k", 86.4, 224, note="no classes"),
            Checkpoint("google/vit-base-patch32-224-in21k", 88.0, 224, note="no classes"),
            Checkpoint("google/vit-large-patch16-224-in21k", 304.4, 224, note="no classes"),
            Checkpoint("google/vit-large-patch32-224-in21k", 306.6, 224, note="no classes"),
            Checkpoint("google/vit-huge-patch14-224-in21k", 632.4, 224, note="no classes"),
        ),
    ),
    Group(
        "ViT, timm's",
        "Apache-2.0", "supervised", TIMM,
        _rows(
            ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", 5.7, 224, 75.5),
            ("timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k", 5.8, 384, 78.4),
            ("timm/vit_small_patch32_224.augreg_in21k_ft_in1k", 22.9, 224, 76.0),
            ("timm/vit_small_patch32_384.augreg_in21k_ft_in1k", 22.9, 384, 80.5),
            ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", 22.1, 224, 81.4),
            ("timm/vit_small_patch16_384.augreg_in21k_ft_in1k", 22.2, 384, 83.8),
            ("timm/vit_base_patch32_224.augreg_in21k_ft_in1k", 88.2, 224, 80.7),
            ("timm/vit_base_patch32_384.augreg_in21k_ft_in1k", 88.3, 384, 83.4),
            ("timm/vit_base_patch16_224.orig_in21k_ft_in1k", 86.6, 224, 81.8),
            ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", 86.6, 224, 84.5),
            ("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", 86.6, 224, 85.1),
            ("timm/vit_base_patch16_384.augreg_in21k_ft_in1k", 86.9, 384, 86.0),
            ("timm/vit_base_patch8_224.augreg2_in21k_ft_in1k", 86.6, 224, 86.2),
            ("timm/vit_large_patch16_224.augreg_in21k_ft_in1k", 304.3, 224, 85.8),
            ("timm/vit_large_patch16_384.augreg_in21k_ft_in1k", 304.7, 384, 87.1),
            ("timm/vit_base_patch32_clip_224.openai_ft_in1k", 88.2, 224, 81.9),
            ("timm/vit_base_patch32_clip_224.laion2b_ft_in12k_in1k", 88.2, 224, 83.3),
            ("timm/vit_base_patch16_clip_224.openai_ft_in1k", 86.6, 224, 85.3),
            ("timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 86.6, 224, 86.2),
            ("timm/vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", 86.9, 384, 87.2),
            ("timm/vit_large_patch14_clip_224.openai_ft_in12k_in1k", 304.2, 224, 88.2),
            ("timm/vit_large_patch14_clip_336.openai_ft_in12k_in1k", 304.5, 336, 88.3),
            ("timm/vit_huge_patch14_clip_224.laion2b_ft_in12k_in1k", 632.1, 224, 88.3),
            ("timm/vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k", 632.5, 336, 88.6),
        ),
    ),
    Group(
        "DeiT",
        "Apache-2.0", "supervised", DEIT,
        _rows(
            ("facebook/deit-tiny-patch16-224", 5.7, 224, 72.2),
            ("facebook/deit-small-patch16-224", 22.1, 224, 79.9),
            ("facebook/deit-base-patch16-224", 86.6, 224, 81.8),
            ("facebook/deit-base-patch16-384", 86.9, 384, 82.9),
            ("facebook/deit-tiny-distilled-patch16-224", 5.9, 224, 74.5),
            ("facebook/deit-small-distilled-patch16-224", 22.4, 224, 81.2),
            ("facebook/deit-base-distilled-patch16-224", 87.3, 224, 83.4),
            ("facebook/deit-base-distilled-patch16-384", 87.6, 384, 85.2),
        ),
    ),
    Group(
        "DeiT III",
        "Apache-2.0", "supervised", TIMM,
        _rows(
            ("timm/deit3_small_patch16_224.fb_in1k", 22.1, 224, 81.4),
            ("timm/deit3_small_patch16_224.fb_in22k_ft_in1k", 22.1, 224, 83.1),
            ("timm/deit3_small_patch16_384.fb_in1k", 22.2, 384, 83.4),
            ("timm/deit3_small_patch16_384.fb_in22k_ft_in1k", 22.2, 384, 84.8),
            ("timm/deit3_medium_patch16_224.fb_in1k", 38.9, 224, 83.1),
            ("timm/deit3_medium_patch16_224.fb_in22k_ft_in1k", 38.9, 224, 84.6),
            ("timm/deit3_base_patch16_224.fb_in1k", 86.6, 224, 83.8),
            ("timm/deit3_base_patch16_224.fb_in22k_ft_in1k", 86.6, 224, 85.7),
            ("timm/deit3_base_patch16_384.fb_in1k", 86.9, 384, 85.1),
            ("timm/deit3_base_patch16_384.fb_in22k_ft_in1k", 86.9, 384, 86.7),
            ("timm/deit3_large_patch16_224.fb_in1k", 304.4, 224, 84.8),
            ("timm/deit3_large_patch16_224.fb_in22k_ft_in1k", 304.4, 224, 87.0),
            ("timm/deit3_large_patch16_384.fb_in1k", 304.8, 384, 85.8),
            ("timm/deit3_large_patch16_384.fb_in22k_ft_in1k", 304.8, 384, 87.7),
            ("timm/deit3_huge_patch14_224.fb_in1k", 632.1, 224, 85.2),
            ("timm/deit3_huge_patch14_224.fb_in22k_ft_in1k", 632.1, 224, 87.2),
        ),
    ),
    Group(
        "Masked autoencoders",
        "Apache-2.0", "none", "",
        _rows(
            ("facebook/vit-mae-base", 111.9, 224, None),
            ("facebook/vit-mae-large", 329.5, 224, None),
            ("facebook/vit-mae-huge", 657.1, 224, None),
        ),
    ),
    Group(
        "DINOv2",
        "Apache-2.0", "none", "",
        _rows(
            ("facebook/dinov2-small", 22.1, 224, None),
            ("facebook/dinov2-base", 86.6, 224, None),
            ("facebook/dinov2-large", 304.4, 224, None),
            ("facebook/dinov2-with-registers-small", 22.0, 224, None),
            ("facebook/dinov2-with-registers-base", 86.5, 224, None),
            ("facebook/dinov2-with-registers-large", 304.2, 224, None),
        ),
    ),
    Group(
        "Swin",
        "Apache-2.0", "supervised", SWIN,
        _rows(
            ("microsoft/swin-tiny-patch4-window7-224", 28.3, 224, 81.2),
            ("microsoft/swin-small-patch4-window7-224", 49.6, 224, 83.2),
            ("microsoft/swin-base-patch4-window7-224", 87.8, 224, 83.5),
            ("microsoft/swin-base-patch4-window12-384", 87.9, 384, 84.5),
            ("microsoft/swin-large-patch4-window7-224", 196.5, 224, 86.3),
            ("microsoft/swin-large-patch4-window12-384", 196.7, 384, 87.3),
            Checkpoint(
                "microsoft/swin-base-patch4-window7-224-in22k", 109.1, 224, note="21841 classes"
            ),
            Checkpoint(
                "microsoft/swin-base-patch4-window12-384-in22k", 109.3, 384, note="21841 classes"
            ),
            Checkpoint(
                "microsoft/swin-large-patch4-window7-224-in22k", 228.6, 224, note="21841 classes"
            ),
            Checkpoint(
                "microsoft/swin-large-patch4-window12-384-in22k", 228.8, 384, note="21841 classes"
            ),
        ),
    ),
    Group(
        "Swin, timm's",
        "MIT", "supervised", TIMM,
        _rows(
            ("timm/swin_tiny_patch4_window7_224.ms_in1k", 28.3, 224, 81.4),
            ("timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", 28.3, 224, 81.0),
            ("timm/swin_small_patch4_window7_224.ms_in1k", 49.6, 224, 83.2),
            ("timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k", 49.6, 224, 83.3),
            ("timm/swin_base_patch4_window7_224.ms_in1k", 87.8, 224, 83.6),
            ("timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k", 87.8, 224, 85.3),
            ("timm/swin_base_patch4_window12_384.ms_in1k", 87.9, 384, 84.5),
            ("timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k", 87.9, 384, 86.4),
            ("timm/swin_large_patch4_window7_224.ms_in22k_ft_in1k", 196.5, 224, 86.3),
            ("timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k", 196.7, 384, 87.1),
        ),
    ),
)  # fmt: skip


def search(text: str = "") -> Iterator[tuple[Group, list[Checkpoint]]]:
    """Each group with its checkpoints that have `text`, in any case, in the group's title, their
    name or their note. Groups without such a checkpoint are left out."""
    wanted = text.lower()
    for group in GROUPS:
        matching = [
            checkpoint
            for checkpoint in group.checkpoints
            if wanted in f"{group.title} {checkpoint.name} {checkpoint.note}".lower()
        ]
        if matching:
            yield group, matching
