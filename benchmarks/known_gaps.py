"""Why rows are behind what is wanted, as far as somebody looked."""

import re

from rows import Row

DISK = (
    "LanceDB reads the hits' rows from the disk as they are now, 3 ms; faiss has its vectors in "
    "memory and gives their numbers alone"
)
SAME = "both are OpenVINO with the same graph: what is around it decides, and the machine's noise"
FORMULA = "the formula itself costs more, which the row says"
# Of a script: what a row is, "title; peer; ours", and the reason.
REASONS: dict[str, dict[str, str]] = {
    "caption.py": {
        r"^BLIP-B": "the image tower, 577 tokens, is 0.75 of 1.4 s for one image and 5.2 of "
        "7.2 for eight (an Intel Xeon), nearly all of it products that oneDNN makes on both sides",
    },
    "engines.py": {
        r"; OpenVINO; patchword openvino": SAME,
        r"; OpenVINO; patchword compile": "compiled, torch calls oneDNN, which OpenVINO does too",
        r"rn50, float32, .*; onnxruntime;": "both are onnxruntime, 3% apart at most: less than two "
        "runs differ by",
        r"int8, .*; onnxruntime, dynamic;": "1.298, less from 1.3 than two runs differ by",
    },
    "families.py": {
        r"DINOv2|Swin-T|CLIP ViT-B/32, texts": "run twice again, the rows of DINOv2 were 1.05 and "
        "1.09, of Swin-T 1.00 and 1.10, of CLIP's texts 0.98 and 1.05: two runs differ by more",
    },
    "index.py": {
        r"exact, .*vectors 10?,000; (faiss|LanceDB) flat": DISK,
        r"approximate, .*": "of the time 6 ms are LanceDB's search in files, 2.5 of them whatever "
        "it reads, and 3 its reading of the rows that make scores exact; faiss has its codes in "
        "memory, gives numbers of rows, and finds fewer to texts",
    },
    "pipeline.py": {
        r"one process": "two cores that do nothing but decode and resize reach 3.4 times its rate",
        r"times the cores": "beside decoding and resizing, 2.5 ms a photo, half a millisecond goes "
        "to normalising it and to handing it from process to process",
        r"; the slower,": "decoding wants as much of the same cores as the network: one does not "
        "run while the other does",
    },
    "startup.py": {
        r"MiB|first classification": "torch itself and the weights, read once, are 0.78 of it",
    },
    "where.py": {
        r"by (gem|head), one text": FORMULA,
        r"by resclip, 20 texts": "each text's map is refined by the photo between two passes",
    },
}
UNKNOWN = "nobody has looked why"


def why(row: Row) -> str:
    """The reason for which a row is behind, in words."""
    what = f"{row.title}; {row.peer}; {row.ours}"
    for pattern, reason in REASONS.get(row.script, {}).items():
        if re.search(pattern, what):
            return reason
    return UNKNOWN
