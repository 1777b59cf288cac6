"""Write the scope of an embedded model: what it was trained on, so that it can say what is not.

    python tools/scope.py demo-blip --clothing clothing-dataset-small

The domains are generated scenes and the clothing photos: each a mean and the K main directions of
the unit vectors of training images. A domain's limit is a quantile of held-out images: 99% of new
scenes, and 85% of every second validation photo, for clothes lie closer to other photos than scenes
do. Prints how many of the other half, and of any --outside folders, lie outside.
"""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import patchword
from patchword.checkpoints import EMBEDDED, scope_files
from patchword.errors import ImageError
from patchword.images.files import pictures_in
from patchword.scenes import COLOURS, Scene, scene
from patchword.scenes.shapes import SHAPES
from patchword.scenes.wafer import FILMS
from patchword.scope import WORD, Domain, Scope

ASSETS = Path(patchword.__file__).parent / "assets"
KNOWS = "wafers, coloured shapes and ten kinds of clothing"
LAST = {
    "demo": "4-final.toml",
    "demo-blip": "6-hear.toml",
}  # recipes whose texts are all that is said
CLOTHING_QUESTION = "what is this?"
K = 96  # directions of a domain
SCENES, NEW_SCENES = (5, 3000), (6, 1000)  # seed and count
SCENE_SHARE, CLOTHING_SHARE = 0.99, 0.85  # of held-out images that are inside
# In braces, for "what colour is the shape?" is another question than that of a circle's.
SLOTS = dict.fromkeys((*COLOURS, *FILMS), "{colour}") | dict.fromkeys(SHAPES, "{shape}")
ARTICLES = {"an": "a"}

Rows = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=EMBEDDED)
    parser.add_argument("--clothing", type=Path, required=True, help="with train and validation")
    parser.add_argument("--outside", type=Path, nargs="*", default=[], help="folders of others")
    given = parser.parse_args()
    model = patchword.load(given.model)
    seen = scenes(*SCENES)
    new = embed(model, [one.image for one in scenes(*NEW_SCENES)])
    photos = [embed(model, pictures(given.clothing / name)) for name in ("train", "validation")]
    domains = (
        domain("scenes", embed(model, [one.image for one in seen]), new[::2], SCENE_SHARE),
        domain("clothing", photos[0], photos[1][::2], CLOTHING_SHARE),
    )
    asks = model.config.answers_questions
    scope = Scope(KNOWS, domains, words(given.model, seen, asks), {}, SLOTS | ARTICLES)
    if asks:
        asked = [CLOTHING_QUESTION, *(question for one in seen for question, _ in one.questions)]
        forms = {scope.form(question): question for question in asked}
        scope = Scope(KNOWS, domains, scope.words, forms, scope.slots)
    scope_files.save(scope, ASSETS / given.model)
    print(f"{len(scope.words)} words, {len(scope.questions)} forms of questions")
    others = {str(folder): embed(model, pictures(folder)) for folder in given.outside}
    held = {"new scenes": new[1::2], "clothing, validation": photos[1][1::2]}
    for name, rows in (held | others).items():
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
