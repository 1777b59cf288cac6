"""Write the scope of an embedded model: what it was trained on, so that it can say what is not.

    python tools/scope.py demo-blip --clothing clothing-dataset-small --others coco/images

The domains are generated scenes and the clothing photos: each a mean and the K main directions of
the unit vectors of training images. A domain's limit is a quantile of held-out images: 99% of new
scenes, and 95% of every second validation photo. A boundary is trained to tell both from plain
drawings and every second photo of --others (outlier exposure, Hendrycks et al. 2019), each whole
and in random crops; 88% of the same validation photos are inside. Prints how many of what neither
was fitted on, and of any --outside folders, lie outside.
"""

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.neural_network import MLPClassifier

import patchword
from patchword.checkpoints import EMBEDDED, scope_files
from patchword.errors import ImageError
from patchword.images.files import pictures_in
from patchword.scenes import COLOURS, Scene, scene
from patchword.scenes.shapes import SHAPES
from patchword.scenes.wafer import FILMS
from patchword.scope import WORD, Boundary, Domain, Scope

ASSETS = Path(patchword.__file__).parent / "assets"
KNOWS = "wafers, coloured shapes and ten kinds of clothing"
LAST = {
    "demo": "4-final.toml",
    "demo-blip": "6-hear.toml",
}  # recipes whose texts are all that is said
CLOTHING_QUESTION = "what is this?"
K = 96  # directions of a domain
SCENES, NEW_SCENES = (5, 3000), (6, 1000)  # seed and count
SCENE_SHARE, CLOTHING_SHARE = 0.99, 0.95  # of held-out images that are inside
BOUNDED_SHARE = 0.88  # of held-out clothing within the boundary
CROPS, SMALL = 10, 160  # of a photo of others; shorter side of half of them, as clothing has
DRAWINGS, SHADES = 100, 256
HIDDEN, DECAY = 64, 1.0
# In braces, for "what colour is the shape?" is another question than that of a circle's.
SLOTS = dict.fromkeys((*COLOURS, *FILMS), "{colour}") | dict.fromkeys(SHAPES, "{shape}")
ARTICLES = {"an": "a"}

Rows = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=EMBEDDED)
    parser.add_argument("--clothing", type=Path, required=True, help="with train and validation")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--outside", type=Path, nargs="*", default=[], help="folders of others")
    given = parser.parse_args()
    model = patchword.load(given.model)
    rng = np.random.default_rng(0)
    seen = scenes(*SCENES)
    known = embed(model, [one.image for one in seen])
    new = embed(model, [one.image for one in scenes(*NEW_SCENES)])
    worn, validation = (pictures(given.clothing / name) for name in ("train", "validation"))
    clothes, held = embed(model, worn), embed(model, validation)
    domains = (
        domain("scenes", known, new[::2], SCENE_SHARE),
        domain("clothing", clothes, held[::2], CLOTHING_SHARE),
    )
    cut = [crop(opened(name), rng) for name in worn[::2]]
    inside = np.concatenate([known, clothes[1::2], embed(model, cut)])
    drawn = embed(model, [drawing(rng) for _ in range(2 * DRAWINGS)])
    folders = {str(folder): pictures(folder) for folder in given.others}
    crops = [one for names in folders.values() for name in names[::2] for one in parts(name, rng)]
    others = np.concatenate([drawn[:DRAWINGS], embed(model, crops)])
    edge = boundary(inside, others, held[::2])
    asks = model.config.answers_questions
    scope = Scope(
        KNOWS, domains, words(given.model, seen, asks), {}, SLOTS | ARTICLES, boundary=edge
    )
    if asks:
        asked = [CLOTHING_QUESTION, *(question for one in seen for question, _ in one.questions)]
        forms = {scope.form(question): question for question in asked}
        scope = Scope(KNOWS, domains, scope.words, forms, scope.slots, boundary=edge)
    before = scope_files.read(ASSETS / given.model)
    if before is not None:  # rules are made by tools/rewordings.py
        scope = replace(scope, substitutions=before.substitutions, rewordings=before.rewordings)
    scope_files.save(scope, ASSETS / given.model)
    print(f"{len(scope.words)} words, {len(scope.questions)} forms of questions")
    told = {
        "new scenes": new[1::2],
        "clothing, validation": held[1::2],
        "drawings": drawn[DRAWINGS:],
    }
    told |= {f"{name}, the other half": embed(model, rest[1::2]) for name, rest in folders.items()}
    told |= {str(folder): embed(model, pictures(folder)) for folder in given.outside}
    for name, rows in told.items():
        share = (scope.novelty(rows) > 1).mean()
        print(f"{name}: {share:.1%} of {len(rows)} lie outside")


def scenes(seed: int, count: int) -> list[Scene]:
    return [scene(seed, index) for index in range(count)]


def pictures(folder: Path) -> list[str]:
    failed: list[ImageError] = []
    return sorted(map(str, pictures_in(folder, failed)))


def embed(model: patchword.Model, images: Sequence[object]) -> Rows:
    """Unit vectors (N, D) of those that can be opened."""
    rows = [row for _, row in model.embed_each(images) if not isinstance(row, ImageError)]
    return np.stack(rows)


def domain(name: str, rows: Rows, held: Rows, share: float) -> Domain:
    """Fitted on rows (N, D), with a limit that the given share of the held-out rows keeps."""
    mean = rows.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :K].T.astype(np.float32))
    unlimited = Domain(name, mean, basis, 1.0)
    return Domain(name, mean, basis, float(np.quantile(unlimited.novelty(held), share)))


def boundary(inside: Rows, others: Rows, held: Rows) -> Boundary:
    """Trained on rows of both kinds; `BOUNDED_SHARE` of the held-out rows are within its limit."""
    rows = np.concatenate([inside, others]).astype(np.float64)
    kinds = np.repeat([0, 1], [len(inside), len(others)])
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    found = MLPClassifier((HIDDEN,), alpha=DECAY, max_iter=300, random_state=0)
    found.fit((rows - mean) / spread, kinds)
    first, last = found.coefs_
    weight = np.ascontiguousarray((first / spread[:, None]).T.astype(np.float32))
    bias = (found.intercepts_[0] - mean / spread @ first).astype(np.float32)
    free = Boundary(weight, bias, last[:, 0].astype(np.float32), 0.0)
    limit = float(np.log(np.quantile(free.novelty(held), BOUNDED_SHARE)))
    return Boundary(free.weight, free.bias, free.out, limit)


def opened(name: str) -> Image.Image:
    return Image.fromarray(patchword.images.open(name))


def parts(name: str, rng: np.random.Generator) -> list[Image.Image]:
    """A photo whole and in random crops, and all of them again as small as the clothing photos."""
    photo = opened(name)
    out = [photo, *(crop(photo, rng) for _ in range(CROPS - 1))]
    return out + [small(one) for one in out]


def crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 35% to all of a photo's area, mirrored or not."""
    share = rng.uniform(0.35, 1) ** 0.5
    width, height = (max(round(side * share), 1) for side in photo.size)
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    part = photo.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def small(photo: Image.Image) -> Image.Image:
    share = min(SMALL / min(photo.size), 1)
    return photo.resize([max(round(side * share), 1) for side in photo.size])


def drawing(rng: np.random.Generator) -> Image.Image:
    """One plain form of one colour on white."""
    width, height = [(300, 300), (200, 160), (128, 128)][rng.integers(3)]
    out = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(out)
    colour = tuple(rng.integers(SHADES, size=3).tolist())
    radius = int(rng.integers(width // 8, width // 3))
    x, y = int(rng.integers(width // 3, 2 * width // 3)), height // 2
    box = (x - radius, y - radius, x + radius, y + radius)
    kind = rng.integers(4)
    if kind == 0:
        draw.ellipse(box, colour)
    elif kind == 1:
        draw.rectangle(box, colour)
    elif kind == 2:
        draw.ellipse(box, outline=colour, width=int(rng.integers(2, 8)))
    else:
        draw.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], colour)
    return out


def words(name: str, seen: Sequence[Scene], asks: bool) -> frozenset[str]:
    """Every word of captions, and of questions and answers where there are any."""
    recipe = tomllib.loads((ASSETS / name / LAST[name]).read_text())
    texts = [one.caption for one in seen]
    for source in recipe["data"]:
        called = [word for names in source.get("names", ()) for word in names]
        texts += [*called, *source.get("templates", ())]
    if asks:
        texts += [CLOTHING_QUESTION]
        texts += [text for one in seen for pair in one.questions for text in pair]
    return frozenset(word for text in texts for word in WORD.findall(text.lower()))


if __name__ == "__main__":
    main()
