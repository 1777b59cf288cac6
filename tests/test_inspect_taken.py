"""Whether photos were taken as the good ones were."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from scipy.stats import t

import patchword
from patchword.errors import ImageWarning
from patchword.inspect.acquisition import Appearance, GoodPhoto, InspectedPhoto, remarks, short
from patchword.inspect.calibration import Rule
from patchword.inspect.fitting import fit
from patchword.inspect.memory import Memory
from patchword.inspect.mutual import Mutual

SIDE = 96


def plate(seed: int, gain: float = 1, size: int = SIDE) -> np.ndarray:
    """A grey plate, half dark and half light, under a lamp that varies by 1%."""
    random = np.random.default_rng(seed)
    grey = np.full((size, size), 60.0)
    grey[:, size // 2 :] = 180
    grey = grey * gain * random.normal(1, 0.01) + random.normal(0, 3, grey.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def remarks_on(photos: list[np.ndarray], good: int = 10) -> list[str]:
    """The remarks on photos, with `good` good plates."""
    good_photos = [GoodPhoto("", Appearance.of(plate(n))) for n in range(good)]
    digests = {each.appearance.digest for each in good_photos}
    looks = [Appearance.of(photo) for photo in photos]
    names = enumerate(looks, 1)
    return remarks(
        good_photos,
        [InspectedPhoto(f"{n}.png", "", look, look.digest in digests) for n, look in names],
    )


def test_the_numbers_of_a_photo() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    look = Appearance.of(photo)
    grey = np.asarray(Image.fromarray(photo).convert("L"), float)
    assert (look.height, look.width, look.grey) == (40, 60, 0)
    assert look.brightness == pytest.approx(grey.mean())
    assert look.contrast == pytest.approx(abs(grey - grey.mean()).mean())
    assert look.digest != Appearance.of(photo.reshape(60, 40, 3)).digest
    assert look.digest == Appearance.of(photo[:, ::-1][:, ::-1]).digest
    assert Appearance.of(plate(0)).grey == 1
    assert GoodPhoto.of_row(json.loads(json.dumps(GoodPhoto("a", look).row()))) == GoodPhoto(
        "a", look
    )


def test_each_kind_of_difference_is_one_sentence() -> None:
    assert remarks_on([plate(n) for n in range(100, 140)]) == []
    dark, light = plate(100, 0.7), plate(101, 1.3)
    brightness, contrast = remarks_on([plate(102), dark, light, *[dark] * 3])
    start = "5 of 6 photos differ in brightness from the good ones (117 to 122 of 255): 2.png (8"
    assert brightness.startswith(start)
    assert ", 3.png (15" in brightness
    assert " and 2 more; that alone changes scores" in brightness
    assert " differ in contrast from " in contrast
    (size,) = remarks_on([plate(100, size=2 * SIDE)])
    assert size.startswith("the photo differs in size from the good ones (96 x 96 px): 1.png (192")
    (colour,) = remarks_on([plate(100) + np.array([9, 0, 0], np.uint8)])
    assert colour.startswith("the photo is in colour, and all good ones are grey: 1.png;")
    defect = plate(100)
    defect[:20, :20, 0] = 250
    assert Appearance.of(defect).grey == 1 - 400 / SIDE**2
    assert remarks_on([defect]) == []  # a defect may be in colour
    copies = remarks([GoodPhoto("", Appearance.of(plate(n))) for n in (0, 1, 1, 0)], [])
    assert copies == [
        "2 of 4 good photos are copies of others, pixel for pixel: a threshold from them may be "
        "too low"
    ]
    (known,) = remarks_on([plate(3), plate(100)])
    assert known.startswith("1 of 2 photos is among the good ones, pixel for pixel: 1.png; its")


def test_few_good_photos_say_little_and_many_photos_together_more() -> None:
    def told(brightness: list[float], good: list[float]) -> str:
        numbers = itertools.count()

        def look(level: float) -> Appearance:
            return Appearance(f"{next(numbers)}", 9, 9, 1, level, 50)

        new = [InspectedPhoto("a", "", look(level), False) for level in brightness]
        return " ".join(remarks([GoodPhoto("", look(level)) for level in good], new))

    good = [100.0, 110, 90, 104]
    far = t.isf(0.0005, 3) * np.std(good, ddof=1) * np.sqrt(1.25)
    assert far > 100
    assert not told([np.mean(good) + far - 1], good)
    assert told([np.mean(good) + far + 1], good)
    assert not told([130.0], good[:1])
    many = good * 5
    assert not told([78.0], many)
    assert told([78.0] * 20, many).startswith(
        "the 20 photos together have less brightness than the good ones: in the mean 78 of 255, "
        "and the good ones 101;"
    )
    some, rest = told([78.0] * 20 + [255.0] * 5, many).split(" new good ones ")
    assert some.startswith("5 of 25 photos differ in brightness from the good ones (90 to 110 of")
    assert rest.startswith("the other 20 photos together have less brightness than the good ones")


def test_python_and_a_saved_one_say_it(tmp_path: Path) -> None:
    model = patchword.load("demo")
    inspector = fit(model, [plate(n) for n in range(6)], Memory(), Rule(0.2))
    copy = Image.fromarray(plate(0))
    with pytest.warns(ImageWarning) as caught:
        first, second = inspector.inspect([copy, plate(100, 0.7)])
    assert (first.known, second.known) == (True, False)
    assert first.record()["known"]
    messages = [str(each.message) for each in caught if each.category is ImageWarning]
    assert [each.split("; ")[0].split(" from ")[0] for each in messages] == [
        "1 of 2 photos is among the good ones, pixel for pixel: image 1",
        "1 of 2 photos differs in brightness",
        "1 of 2 photos differs in contrast",
    ]
    folder = inspector.save(tmp_path / "fitted")
    reopened = patchword.inspector(model, fitted=folder)
    assert reopened.taken == inspector.taken
    assert len(list(reopened.inspect_each(plate(100)))) == 1
    assert reopened.remarks() == []  # and nothing of earlier calls
    about = json.loads((folder / "inspect.json").read_text())
    del about["taken"]
    (folder / "inspect.json").write_text(json.dumps(about))
    old = patchword.inspector(model, fitted=folder)
    with pytest.warns(ImageWarning, match="an older version fitted this"):
        old.inspect(plate(100, 0.5))
    old.save(tmp_path / "again")
    assert "taken" not in json.loads((tmp_path / "again" / "inspect.json").read_text())


def test_photos_of_one_name_are_told_with_their_folders() -> None:
    assert short(["a/1.png", "b/1.png", "b/2.png"]) == ["a/1.png", "b/1.png", "2.png"]


def test_nothing_is_looked_up_where_no_good_photos_are(monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = patchword.inspector(patchword.load("demo"), method="winclip")
    monkeypatch.setattr(Appearance, "of", None)
    assert len(inspector.inspect(plate(100))) == 1


def test_of_a_batch_that_good_ones_are_part_of() -> None:
    model = patchword.load("demo")
    inspector = fit(model, [plate(n) for n in range(5)], Mutual(), Rule(0.2))
    results = list(inspector.inspect_each([plate(100), plate(1)]))
    assert [each.known for _, each in results] == [False, True]
    assert len(inspector.remarks()) == 1


def test_the_command_and_its_report_say_it(run: Run, tmp_path: Path) -> None:
    for n in range(6):
        place = tmp_path / "good" / f"{n}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(plate(n)).save(place)
    dark, copy = tmp_path / "dark.png", tmp_path / "copy.png"
    Image.fromarray(plate(100, 0.6)).save(dark)
    Image.fromarray(plate(2)).save(copy)
    ran = run("inspect", tmp_path / "good", dark, copy, "--json", "--save", tmp_path / "out")
    stderr = ran.err.replace("\n", " ")
    assert "Attention: 1 of 2 photos is among the good ones, pixel for pixel: copy.png;" in stderr
    assert "Attention: 1 of 2 photos differs in brightness from the good ones (11" in stderr
    assert "differs in brightness" in (tmp_path / "out" / "index.html").read_text()
    assert [json.loads(line).get("known") for line in ran.out.splitlines()] == [None, True]
