"""Write the scope of an embedded model: what it was trained on, so that it can warn about other
inputs.

    python tools/scope.py demo-blip --clothing clothing-dataset-small --halves coco/images \
        --others PHOTOS --cut-outs STAMPS

The domains are generated scenes and clothing photos. Each is the mean and the K main directions of
the unit vectors of training images. A domain's limit is a quantile of held-out images: 99% of every
second validation photo are inside; for scenes the limit is somewhat above the 99% quantile of new
ones.

Two boundaries are trained to separate both domains from other photos, whole and in random crops
(outlier exposure, Hendrycks et al. 2019). One uses vectors, for inputs of which nothing else is
known; its other images are plain drawings and every second photo of --halves. One uses a middle
layer; its other images are also all of --others, and --cut-outs, objects on a transparent ground,
pasted on these. `tools/scope_photos.py` extracts both. Of the held-out validation photos 88% and
90% are inside.

Prints the share of images outside, for images that were not used for fitting, and for --outside
folders.
"""

import argparse
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.neural_network import MLPClassifier

import patchword
from patchword.checkpoints import EMBEDDED, scope_files
from patchword.embedding import summarised, unit
from patchword.errors import ImageError
from patchword.images import ImageLike
from patchword.images.files import pictures_in
from patchword.scenes import COLOURS, Scene, scene
from patchword.scenes.shapes import SHAPES
from patchword.scenes.wafer import FILMS
from patchword.scope import WORD, Boundary, Domain, Scope

ASSETS = Path(patchword.__file__).parent / "assets"
KNOWS = "wafers, coloured shapes and ten kinds of clothing"
LAST_RECIPE = {"demo": "6-clothes.toml", "demo-blip": "6-hear.toml"}  # has all texts of clothing
CLOTHING_QUESTION = "what is this?"
K = 96  # directions of a domain
SCENES, NEW_SCENES = (5, 3000), (6, 1000)  # seed and count
SHARE = 0.99  # of held-out images that are inside
# The limit for scenes is the quantile times this. Tiles with halves of two wafers have residuals of
# more than 1.3 (demo) and 2.0 (demo-blip) times the quantile, photos of more than 8.
SCENES_MARGIN = {"demo": 1.25, "demo-blip": 1.75}
TITLES = {"scenes": "wafers and coloured shapes", "clothing": "clothing"}
LAYER = "blocks.1"  # of the inner boundary
CROPS, FEW_CROPS = 10, 4  # of a photo of --halves, and of --others
SMALL, LARGE = 160, 900  # shorter side of small copies, as in clothing; longest side of photos
PASTED = 3  # pictures of each cut-out object, the first on white
DRAWINGS, SHADES = 100, 256
DECAY = 1.0
# In braces, because "what colour is the shape?" is another question than "... the circle?".
SLOTS = dict.fromkeys((*COLOURS, *FILMS), "{colour}") | dict.fromkeys(SHAPES, "{shape}")
ARTICLES = {"an": "a"}
UNPLACED = frozenset({"clothing"})  # photos without masks
# Words without a domain, although only captions of one domain use them.
GRAMMAR = set(WORD.findall("an and at close image in s side t the to top up view with"))

Rows = NDArray[np.float32]


class Fit(NamedTuple):
    """How a boundary is trained: the layer ("" for vectors), hidden units, epochs, and the share of
    held-out clothing that is inside."""

    layer: str
    hidden: int
    epochs: int
    share: float


VECTORS, INNER = Fit("", 64, 300, 0.88), Fit(LAYER, 16, 25, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=EMBEDDED)
    parser.add_argument(
        "--clothing", type=Path, required=True, help="folder with train and validation"
    )
    parser.add_argument("--halves", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--cut-outs", type=Path, required=True, help="folder of cut-out objects")
    parser.add_argument(
        "--outside", type=Path, nargs="*", default=[], help="folders of other photos to measure"
    )
    options = parser.parse_args()
    model = patchword.load(options.model)
    rng = np.random.default_rng(0)
    training_scenes = scenes(*SCENES)
    known = embed(model, [one.image for one in training_scenes])
    new = embed(model, [one.image for one in scenes(*NEW_SCENES)])
    clothing = pictures(options.clothing / "train")
    clothes = embed(model, clothing)
    held = embed(model, pictures(options.clothing / "validation"))
    domains = (
        domain("scenes", known.vectors, new.vectors[::2], SCENES_MARGIN[options.model]),
        domain("clothing", clothes.vectors, held.vectors[::2]),
    )
    crops = embed(model, [crop(open_photo(name), rng) for name in clothing[::2]])
    drawn = embed(model, [drawing(rng) for _ in range(2 * DRAWINGS)])
    folders = {str(folder): pictures(folder) for folder in options.halves}
    halves = [
        one for names in folders.values() for name in names[::2] for one in many_crops(name, rng)
    ]
    photos = [open_photo(name) for folder in options.others for name in pictures(folder)]
    foreign = [one for photo in photos for one in few_crops(photo, rng)]
    objects = [one for name in pictures(options.cut_outs) for one in paste(name, photos, rng)]
    others = embed(model, [*halves, *foreign, *objects])
    inside_vectors = np.concatenate([known.vectors, clothes.vectors, crops.vectors])
    inside_summaries = np.concatenate([known.summaries, clothes.summaries, crops.summaries])
    other_vectors = np.concatenate([drawn.vectors[:DRAWINGS], others.vectors[: len(halves)]])
    other_summaries = np.concatenate([drawn.summaries[:DRAWINGS], others.summaries])
    outer = boundary(inside_vectors, other_vectors, held.vectors[::2], VECTORS)
    inner = boundary(inside_summaries, other_summaries, held.summaries[::2], INNER)
    print(f"{len(halves)} crops, {len(foreign)} pictures of others, {len(objects)} of objects")
    asks = model.config.answers_questions
    scope = Scope(
        KNOWS,
        domains,
        words(options.model, training_scenes, asks),
        {},
        SLOTS | ARTICLES,
        boundary=outer,
        inner=inner,
        words_of=words_of(options.model, training_scenes),
        unplaced=UNPLACED,
    )
    if asks:
        questions = [
            CLOTHING_QUESTION,
            *(question for one in training_scenes for question, _ in one.questions),
        ]
        forms = {scope.form(question): question for question in questions}
        asked_of = dict.fromkeys(forms, "scenes") | {scope.form(CLOTHING_QUESTION): "clothing"}
        scope = replace(scope, questions=forms, asked_of=asked_of)
    before = scope_files.read(ASSETS / options.model)
    if before is not None:  # tools/rewordings.py writes these rules
        scope = replace(scope, substitutions=before.substitutions, rewordings=before.rewordings)
    scope_files.save(scope, ASSETS / options.model)
    print(f"{len(scope.words)} words, {len(scope.questions)} forms of questions")
    unseen = {
        "new scenes": new.odd(),
        "clothing, validation": held.odd(),
        "drawings": Embedded(drawn.vectors[DRAWINGS:], drawn.summaries[DRAWINGS:]),
    }
    unseen |= {
        f"{name}, the other half": embed(model, rest[1::2]) for name, rest in folders.items()
    }
    unseen |= {str(folder): embed(model, pictures(folder)) for folder in options.outside}
    for name, images in unseen.items():
        outside = (scope.novelty(images.vectors, images.summaries) > 1).mean()
        by_vectors = (scope.novelty(images.vectors) > 1).mean()
        count = len(images.vectors)
        print(f"{name}: {outside:.1%} of {count} are outside; by vectors alone {by_vectors:.1%}")


def scenes(seed: int, count: int) -> list[Scene]:
    return [scene(seed, index) for index in range(count)]


def pictures(folder: Path) -> list[str]:
    failed: list[ImageError] = []
    return sorted(map(str, pictures_in(folder, failed)))


class Embedded(NamedTuple):
    """Unit vectors (N, D) of images, and summaries (N, S) of LAYER."""

    vectors: Rows
    summaries: Rows

    def odd(self) -> "Embedded":
        """Those with odd numbers."""
        return Embedded(self.vectors[1::2], self.summaries[1::2])


def embed(model: patchword.Model, images: Sequence[ImageLike]) -> Embedded:
    """Embed the images that can be opened."""
    results = model.run_each(images, partial(summarised, model.own_network, LAYER))
    rows = np.stack([row for _, row in results if not isinstance(row, ImageError)])
    return Embedded(unit(rows[:, : model.dim]), rows[:, model.dim :])


def domain(name: str, rows: Rows, held: Rows, margin: float = 1.0) -> Domain:
    """Fit a domain on rows (N, D). Its limit is the residual within which SHARE of the held-out
    rows are, times a margin."""
    mean = rows.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :K].T.astype(np.float32))
    unlimited = Domain(name, mean, basis, 1.0)
    limit = margin * float(np.quantile(unlimited.novelty(held), SHARE))
    return Domain(name, mean, basis, limit, TITLES[name])


def boundary(inside: Rows, others: Rows, held: Rows, how: Fit) -> Boundary:
    """Train a boundary on rows of both kinds; how.share of the held-out rows are within its
    limit."""
    rows = np.concatenate([inside, others]).astype(np.float64)
    kinds = np.repeat([0, 1], [len(inside), len(others)])
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    classifier = MLPClassifier((how.hidden,), alpha=DECAY, max_iter=how.epochs, random_state=0)
    classifier.fit((rows - mean) / spread, kinds)
    first, last = classifier.coefs_
    weight = np.ascontiguousarray((first / spread[:, None]).T.astype(np.float32))
    bias = (classifier.intercepts_[0] - mean / spread @ first).astype(np.float32)
    unlimited = Boundary(weight, bias, last[:, 0].astype(np.float32), 0.0, how.layer)
    limit = float(np.log(np.quantile(unlimited.novelty(held), how.share)))
    return replace(unlimited, limit=limit)


def open_photo(name: str) -> Image.Image:
    """A photo of at most LARGE pixels a side."""
    photo = Image.fromarray(patchword.images.open(name))
    photo.thumbnail((LARGE, LARGE))
    return photo


def many_crops(name: str, rng: np.random.Generator) -> list[Image.Image]:
    """A photo whole and in random crops, and all of them again as small as the clothing photos."""
    photo = open_photo(name)
    out = [photo, *(crop(photo, rng) for _ in range(CROPS - 1))]
    return out + [small(one) for one in out]


def few_crops(photo: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """A photo whole and in random crops, each as small as the clothing photos or not."""
    out = [photo, *(crop(photo, rng) for _ in range(FEW_CROPS - 1))]
    return [small(one) if rng.random() < 0.5 else one for one in out]


def paste(name: str, photos: Sequence[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """A cut-out object on white and on crops of photos."""
    thing = Image.open(name).convert("RGBA")
    thing.thumbnail((300, 300))
    out = []
    for number in range(PASTED):
        size = [(240, 320), (320, 240), (300, 300)][rng.integers(3)]
        ground = Image.new("RGB", size, "white")
        if number:
            ground = crop(photos[rng.integers(len(photos))], rng).resize(size)
        share = rng.uniform(0.5, 1) * min(size[0] / thing.width, size[1] / thing.height)
        width, height = max(int(thing.width * share), 8), max(int(thing.height * share), 8)
        left, top = rng.integers(size[0] - width + 1), rng.integers(size[1] - height + 1)
        resized = thing.resize((width, height))
        ground.paste(resized, (int(left), int(top)), resized)
        out.append(ground)
    return out


def crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random part with 35% to 100% of a photo's area, mirrored or not."""
    share = rng.uniform(0.35, 1) ** 0.5
    width, height = (max(round(side * share), 1) for side in photo.size)
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    part = photo.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def small(photo: Image.Image) -> Image.Image:
    """The photo with a shorter side of at most SMALL pixels."""
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


def words(name: str, drawn: Sequence[Scene], asks: bool) -> frozenset[str]:
    """All words of captions, and of questions and answers if the model answers questions."""
    names, templates = clothing_texts(name)
    texts = [*(one.caption for one in drawn), *names, *templates]
    if asks:
        texts += [CLOTHING_QUESTION]
        texts += [text for one in drawn for pair in one.questions for text in pair]
    return frozenset(unique_words(texts))


def words_of(name: str, drawn: Sequence[Scene]) -> dict[str, str]:
    """The domain of each word that only captions of scenes, or only names of clothing, have."""
    names, templates = (unique_words(texts) for texts in clothing_texts(name))
    of_scenes = unique_words(one.caption for one in drawn)
    shared = GRAMMAR | templates
    domains = dict.fromkeys(of_scenes - names - shared, "scenes")
    return domains | dict.fromkeys(names - of_scenes - shared, "clothing")


def clothing_texts(name: str) -> tuple[list[str], list[str]]:
    """The names of clothing, and the templates around them."""
    recipe = tomllib.loads((ASSETS / name / LAST_RECIPE[name]).read_text())
    sources = recipe["data"]
    names = [name for source in sources for group in source.get("names", ()) for name in group]
    templates = [text for source in sources for text in source.get("templates", ())]
    return names, templates


def unique_words(texts: Iterable[str]) -> set[str]:
    """The words of texts in lower case."""
    return {word for text in texts for word in WORD.findall(text.lower())}


if __name__ == "__main__":
    main()
