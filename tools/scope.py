"""Write the scope of an embedded model: what it was trained on, so that it can say what is not.

    python tools/scope.py demo-blip --clothing clothing-dataset-small --halves coco/images \
        --others PHOTOS --cut-outs STAMPS

The domains are generated scenes and the clothing photos: each a mean and the K main directions of
the unit vectors of training images. A domain's limit is a quantile of held-out images: 99% of every
second validation photo, and of scenes somewhat more than what 99% of new ones keep. Two boundaries
are trained to tell both from others (outlier exposure, Hendrycks et al. 2019), whole and in random
crops: one of vectors, for where there is nothing else, from plain drawings and every second photo
of --halves; and one of a layer in the middle, also from all of --others, and from --cut-outs,
things on a transparent ground, pasted on those; `tools/scope_photos.py` gets both. Of the same
validation photos 88% and 90% are inside.
Prints how many of what neither was fitted on, and of any --outside folders, lie outside.
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
from patchword.bundle import summarised, unit
from patchword.checkpoints import EMBEDDED, scope_files
from patchword.errors import ImageError
from patchword.images import ImageLike
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
SHARE = 0.99  # of held-out images that are inside
# Of scenes so many times that residual is inside: tiles with halves of two wafers have more than
# 1.3 (demo) and 2.0 (demo-blip) times, photos more than 8.
SCENES_MARGIN = {"demo": 1.25, "demo-blip": 1.75}
CALLED = {"scenes": "wafers and coloured shapes", "clothing": "clothing"}
LAYER = "blocks.1"  # that `inner` looks at
CROPS, FEWER = 10, 4  # of a photo of which every second is taken; of one of all
SMALL, LARGE = 160, 900  # shorter side of half of them, as clothing has; longer side at first
PASTED = 3  # pictures of a thing that is cut out, the first on white
DRAWINGS, SHADES = 100, 256
DECAY = 1.0
# In braces, for "what colour is the shape?" is another question than that of a circle's.
SLOTS = dict.fromkeys((*COLOURS, *FILMS), "{colour}") | dict.fromkeys(SHAPES, "{shape}")
ARTICLES = {"an": "a"}
UNPLACED = frozenset({"clothing"})  # photos without masks
# Words that say the same of everything, though captions of one domain alone have them.
GRAMMAR = set(WORD.findall("an and at close image in s side t the to top up view with"))

Rows = NDArray[np.float32]


class Fit(NamedTuple):
    """How a boundary is trained: of which layer, by how many hidden units, how long, and which
    share of held-out clothing is inside."""

    layer: str
    hidden: int
    epochs: int
    share: float


VECTORS, INNER = Fit("", 64, 300, 0.88), Fit(LAYER, 16, 25, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=EMBEDDED)
    parser.add_argument("--clothing", type=Path, required=True, help="with train and validation")
    parser.add_argument("--halves", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--cut-outs", type=Path, required=True, help="pictures cut out")
    parser.add_argument("--outside", type=Path, nargs="*", default=[], help="folders of others")
    options = parser.parse_args()
    model = patchword.load(options.model)
    rng = np.random.default_rng(0)
    seen = scenes(*SCENES)
    known = embed(model, [one.image for one in seen])
    new = embed(model, [one.image for one in scenes(*NEW_SCENES)])
    worn, validation = (pictures(options.clothing / name) for name in ("train", "validation"))
    clothes, held = embed(model, worn), embed(model, validation)
    domains = (
        domain("scenes", known.vectors, new.vectors[::2], SCENES_MARGIN[options.model]),
        domain("clothing", clothes.vectors, held.vectors[::2]),
    )
    cut = embed(model, [crop(opened(name), rng) for name in worn[::2]])
    drawn = embed(model, [drawing(rng) for _ in range(2 * DRAWINGS)])
    folders = {str(folder): pictures(folder) for folder in options.halves}
    halves = [one for names in folders.values() for name in names[::2] for one in parts(name, rng)]
    photos = [opened(name) for folder in options.others for name in pictures(folder)]
    foreign = [one for photo in photos for one in fewer(photo, rng)]
    things = [one for name in pictures(options.cut_outs) for one in pasted(name, photos, rng)]
    others = embed(model, [*halves, *foreign, *things])
    inside = [np.concatenate([known[part], clothes[part], cut[part]]) for part in (0, 1)]
    foreign_too = np.concatenate([drawn.summaries[:DRAWINGS], others.summaries])
    plain = np.concatenate([drawn.vectors[:DRAWINGS], others.vectors[: len(halves)]])
    edge = boundary(inside[0], plain, held.vectors[::2], VECTORS)
    inner = boundary(inside[1], foreign_too, held.summaries[::2], INNER)
    print(f"{len(halves)} crops, {len(foreign)} pictures of others, {len(things)} of things")
    asks = model.config.answers_questions
    scope = Scope(
        KNOWS,
        domains,
        words(options.model, seen, asks),
        {},
        SLOTS | ARTICLES,
        boundary=edge,
        inner=inner,
        words_of=words_of(options.model, seen),
        unplaced=UNPLACED,
    )
    if asks:
        asked = [CLOTHING_QUESTION, *(question for one in seen for question, _ in one.questions)]
        forms = {scope.form(question): question for question in asked}
        asked_of = dict.fromkeys(forms, "scenes") | {scope.form(CLOTHING_QUESTION): "clothing"}
        scope = replace(scope, questions=forms, asked_of=asked_of)
    before = scope_files.read(ASSETS / options.model)
    if before is not None:  # rules are made by tools/rewordings.py
        scope = replace(scope, substitutions=before.substitutions, rewordings=before.rewordings)
    scope_files.save(scope, ASSETS / options.model)
    print(f"{len(scope.words)} words, {len(scope.questions)} forms of questions")
    told = {
        "new scenes": new.odd(),
        "clothing, validation": held.odd(),
        "drawings": Seen(drawn.vectors[DRAWINGS:], drawn.summaries[DRAWINGS:]),
    }
    told |= {f"{name}, the other half": embed(model, rest[1::2]) for name, rest in folders.items()}
    told |= {str(folder): embed(model, pictures(folder)) for folder in options.outside}
    for name, found in told.items():
        share = (scope.novelty(found.vectors, found.summaries) > 1).mean()
        alone = (scope.novelty(found.vectors) > 1).mean()
        print(
            f"{name}: {share:.1%} of {len(found.vectors)} lie outside; by vectors alone {alone:.1%}"
        )


def scenes(seed: int, count: int) -> list[Scene]:
    return [scene(seed, index) for index in range(count)]


def pictures(folder: Path) -> list[str]:
    failed: list[ImageError] = []
    return sorted(map(str, pictures_in(folder, failed)))


class Seen(NamedTuple):
    """Unit vectors (N, D) of pictures, and summaries (N, S) of a layer."""

    vectors: Rows
    summaries: Rows

    def odd(self) -> "Seen":
        """Every second one."""
        return Seen(self.vectors[1::2], self.summaries[1::2])


def embed(model: patchword.Model, images: Sequence[ImageLike]) -> Seen:
    """Those that can be opened."""
    each = model.run_each(images, partial(summarised, model, LAYER))
    rows = np.stack([row for _, row in each if not isinstance(row, ImageError)])
    return Seen(unit(rows[:, : model.dim]), rows[:, model.dim :])


def domain(name: str, rows: Rows, held: Rows, margin: float = 1.0) -> Domain:
    """Fitted on rows (N, D), with a limit: the residual that SHARE of the held-out rows keep, times
    a margin."""
    mean = rows.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :K].T.astype(np.float32))
    unlimited = Domain(name, mean, basis, 1.0)
    limit = margin * float(np.quantile(unlimited.novelty(held), SHARE))
    return Domain(name, mean, basis, limit, CALLED[name])


def boundary(inside: Rows, others: Rows, held: Rows, how: Fit) -> Boundary:
    """Trained on rows of both kinds; a share of the held-out rows is within its limit."""
    rows = np.concatenate([inside, others]).astype(np.float64)
    kinds = np.repeat([0, 1], [len(inside), len(others)])
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    found = MLPClassifier((how.hidden,), alpha=DECAY, max_iter=how.epochs, random_state=0)
    found.fit((rows - mean) / spread, kinds)
    first, last = found.coefs_
    weight = np.ascontiguousarray((first / spread[:, None]).T.astype(np.float32))
    bias = (found.intercepts_[0] - mean / spread @ first).astype(np.float32)
    free = Boundary(weight, bias, last[:, 0].astype(np.float32), 0.0, how.layer)
    limit = float(np.log(np.quantile(free.novelty(held), how.share)))
    return replace(free, limit=limit)


def opened(name: str) -> Image.Image:
    photo = Image.fromarray(patchword.images.open(name))
    photo.thumbnail((LARGE, LARGE))
    return photo


def parts(name: str, rng: np.random.Generator) -> list[Image.Image]:
    """A photo whole and in random crops, and all of them again as small as the clothing photos."""
    photo = opened(name)
    out = [photo, *(crop(photo, rng) for _ in range(CROPS - 1))]
    return out + [small(one) for one in out]


def fewer(photo: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """A photo whole and in random crops, each as small as the clothing photos or not."""
    out = [photo, *(crop(photo, rng) for _ in range(FEWER - 1))]
    return [small(one) if rng.random() < 0.5 else one for one in out]


def pasted(name: str, photos: Sequence[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """A thing that is cut out on white, and on parts of photos."""
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
        place = rng.integers(size[0] - width + 1), rng.integers(size[1] - height + 1)
        shown = thing.resize((width, height))
        ground.paste(shown, (int(place[0]), int(place[1])), shown)
        out.append(ground)
    return out


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
    names, templates = worn_texts(name)
    texts = [*(one.caption for one in seen), *names, *templates]
    if asks:
        texts += [CLOTHING_QUESTION]
        texts += [text for one in seen for pair in one.questions for text in pair]
    return frozenset(each_word(texts))


def words_of(name: str, seen: Sequence[Scene]) -> dict[str, str]:
    """The domain of words that captions of scenes, or names of clothing, alone have."""
    names, templates = (each_word(texts) for texts in worn_texts(name))
    drawn = each_word(one.caption for one in seen)
    shared = GRAMMAR | templates
    return dict.fromkeys(drawn - names - shared, "scenes") | dict.fromkeys(
        names - drawn - shared, "clothing"
    )


def worn_texts(name: str) -> tuple[list[str], list[str]]:
    """The names of clothing and the templates that they were put in."""
    recipe = tomllib.loads((ASSETS / name / LAST[name]).read_text())
    sources = recipe["data"]
    names = [one for source in sources for called in source.get("names", ()) for one in called]
    return names, [one for source in sources for one in source.get("templates", ())]


def each_word(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in WORD.findall(text.lower())}


if __name__ == "__main__":
    main()
