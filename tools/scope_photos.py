"""Extract photos and cut-out objects for `tools/scope.py` from Debian packages.

    apt-get download gcompris-qt-data tuxpaint-stamps-default gnome-backgrounds mate-backgrounds \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers ukui-wallpapers
    for each in *.deb; do dpkg-deb -x "$each" "packages/${each%%_*}"; done
    python tools/scope_photos.py packages PHOTOS STAMPS

GCompris stores its pictures uncompressed in .rcc files. They are found by their first bytes, which
follow their length.
"""

import argparse
import io
import re
import shutil
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from PIL import Image

EXCLUDED_ACTIVITIES = (  # with pictures like our scenes, or only of text
    *("babyshapes", "leftright", "clickgame", "louis-braille", "digital_electricity"),
    *("gravity", "hangman"),
)
EXCLUDED_STAMPS = ("clothes", "/symbols", "hats")  # like our clothing and shapes
GAMES, STAMPS = "gcompris-qt-data", "tuxpaint-stamps-default"
STARTS = re.compile(rb"RIFF....WEBPVP8|\xff\xd8\xff[\xe0\xe1\xdb\xee]|\x89PNG\r\n", re.S)
MIN_BYTES, MAX_BYTES = 4000, 5_000_000  # of a picture of GCompris
MIN_SIDE, MAX_SIDE = 150, 900  # pixels
QUALITY = 92
MIN_WALLPAPER_BYTES = 60000  # smaller files are previews and patterns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="folder with a subfolder for each package")
    parser.add_argument("photos", type=Path, help="folder to write")
    parser.add_argument("stamps", type=Path, help="folder to write")
    options = parser.parse_args()
    for folder in (options.photos, options.stamps):
        folder.mkdir(parents=True)
    for name, photo in games(options.packages / GAMES):
        save(on_white(photo), options.photos / f"g-{name}.jpg")
    for number, path in enumerate(wallpapers(options.packages), 1):
        save(Image.open(path).convert("RGB"), options.photos / f"w-{number}.jpg")
    for number, path in enumerate(sorted((options.packages / STAMPS).rglob("*.png"))):
        if not any(word in str(path) for word in EXCLUDED_STAMPS):
            shutil.copy(path, options.stamps / f"{number}-{path.name}")


def games(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture) of the pictures in .rcc files."""
    for path in sorted(folder.rglob("*.rcc")):
        content, numbers = path.read_bytes(), count(1)
        for match in STARTS.finditer(content):
            start = match.start()
            (length,) = struct.unpack(">I", content[max(start - 4, 0) : start] or bytes(4))
            if not MIN_BYTES < length < MAX_BYTES or start + length > len(content):
                continue
            try:
                photo = Image.open(io.BytesIO(content[start : start + length]))
                photo.load()
            except OSError:  # bytes inside a picture that look like a start
                continue
            if min(photo.size) >= MIN_SIDE and path.stem not in EXCLUDED_ACTIVITIES:
                yield f"{path.stem}-{next(numbers)}", photo


def wallpapers(packages: Path) -> Iterator[Path]:
    """The image files of all other packages."""
    for folder in sorted(packages.iterdir()):
        if folder.name not in (GAMES, STAMPS):
            for path in sorted(folder.rglob("*")):
                is_image = path.suffix in (".jpg", ".webp", ".png")
                if is_image and path.stat().st_size > MIN_WALLPAPER_BYTES:
                    yield path


def on_white(photo: Image.Image) -> Image.Image:
    """The picture without transparency, made smaller if it is large."""
    photo = photo.convert("RGBA")
    photo.thumbnail((MAX_SIDE, MAX_SIDE))
    ground = Image.new("RGBA", photo.size, "white")
    return Image.alpha_composite(ground, photo).convert("RGB")


def save(photo: Image.Image, path: Path) -> None:
    photo.thumbnail((MAX_SIDE, MAX_SIDE))
    photo.save(path, quality=QUALITY)


if __name__ == "__main__":
    main()
