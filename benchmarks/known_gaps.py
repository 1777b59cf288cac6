"""Known reasons why rows miss their goals."""

import re

from rows import Row

DISK = (
    "LanceDB reads the rows of the hits from disk, 3 ms; faiss holds its vectors in memory and "
    "returns their numbers alone"
)
SAME = (
    "both run OpenVINO with the same graph: noise of the machine. Rows before December 2026 also "
    "copied the images first, 256 of them in 2 to 5% of the time"
)
FORMULA = "the formula itself costs more, as the row shows"
# For each script, patterns for "title; peer; ours" of a row, and the reasons.
REASONS: dict[str, dict[str, str]] = {
    "caption.py": {
        r"^BLIP-B": "for one image 0.13 s of 0.69 are the image tower (an Intel Xeon); the rest "
        "reads 245 MB of the decoder's weights for each of 19 ids, as the peer does. On an AMD "
        "EPYC the image tower, whose products both sides leave to oneDNN, takes 0.75 of 1.4 s for "
        "one image and 5.2 of 7.2 for eight",
    },
    "engines.py": {
        r"siglip.*; OpenVINO; patchword openvino": "both run OpenVINO. Our graph has one product "
        "for query, key and value, the peer's has three; in turn, in bfloat16, ours has 0.95 of "
        "the peer's rate for one image and 1.01 for eight (an AMD EPYC)",
        r"; OpenVINO; patchword openvino": SAME,
        r"; OpenVINO; patchword (torch|compile)": "torch calls oneDNN, and so does OpenVINO",
        r"rn50, float32, .*; onnxruntime;": "both run onnxruntime; two runs differ by more than 3%",
        r"vit-b16, float32, .*; onnxruntime;": "noise: our engine onnx runs the same library, and "
        "was slower than the engine of the row",
        r"vit-b\d+, int8, .*; onnxruntime, dynamic;": "two runs of ViT-B/32 with one image, on an "
        "AMD EPYC, had 1.41 and 1.30: they differ by more than what is missing",
        r"vit-l14, .*batch 1; (transformers|open_clip); patchword torch": "noise: in turn, image "
        "by image, ours had 1.07 and 1.04 times the rate of transformers and open_clip",
        r"vit-l14, .*batch 8; open_clip; patchword torch": "two runs differ by more than 0.5%",
    },
    "families.py": {
        r"DINOv2|Swin-T|CLIP ViT-B/32, texts": "noise; in two more runs DINOv2 had 1.05 and 1.09, "
        "Swin-T 1.00 and 1.10, texts of CLIP 0.98 and 1.05",
    },
    "index.py": {
        r"exact, .*vectors 10?,000; (faiss|LanceDB) flat": DISK,
        r"approximate, .*": "LanceDB's search in files takes 6 ms, 2.5 of them in any case, and "
        "reading the rows for exact scores 3; faiss holds its codes in memory, returns numbers of "
        "rows, and has a lower recall for texts",
    },
    "pipeline.py": {
        r"one process": "two cores that only decode and resize by Pillow reach 3.6 times its rate",
        r"; the slower,": "decoding and network need the same cores, so that they cannot overlap",
    },
    "serve.py": {
        r"one client": "1.0045: the difference is 0.4 of 95 ms",
        r"the batch engine alone": "clients, HTTP and photos need the same two cores; since images "
        "are encoded in streams, the engine alone is faster, and the server is not",
    },
    "startup.py": {
        r"MiB|first classification": "torch and the weights, read once, are 0.78 of it",
    },
    "texts.py": {
        r"float32, batch 8; transformers": "nearly all of it are products that both leave to MKL; "
        "another run had 1.02",
    },
    "where.py": {
        r"by (gem|head), one text": FORMULA,
        r"by resclip, 20 texts": "each text's map is refined by the photo between two passes",
    },
}
UNKNOWN = "the reason is not known yet"


def why(row: Row) -> str:
    """Why a row misses its goal."""
    description = f"{row.title}; {row.peer}; {row.ours}"
    for pattern, reason in REASONS.get(row.script, {}).items():
        if re.search(pattern, description):
            return reason
    return UNKNOWN
