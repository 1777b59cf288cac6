"""Take the photos and cut-out things that `tools/scope.py` is given out of Debian packages.

    apt-get download gcompris-qt-data tuxpaint-stamps-default gnome-backgrounds mate-backgrounds \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers ukui-wallpapers
    for each in *.deb; do dpkg-deb -x "$each" "packages/${each%%_*}"; done
    python tools/scope_photos.py packages PHOTOS STAMPS

GCompris keeps its pictures in .rcc files, uncompressed; they are found there by their first bytes,
after their lengths.
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

DRAWN = (  # activities with pictures like our scenes, or of text alone
    *("babyshapes", "leftright", "clickgame", "louis-braille", "digital_electricity"),
    *("gravity", "hangman"),
)
LIKE_OURS = ("clothes", "/symbols", "hats")  # stamps of these
GAMES, STAMPS = "gcompris-qt-data", "tuxpaint-stamps-default"
STARTS = re.compile(rb"RIFF....WEBPVP8|\xff\xd8\xff[\xe0\xe1\xdb\xee]|\x89PNG\r\n", re.S)
BYTES, LEAST_SIDE, LONGEST_SIDE, QUALITY = (4000, 5_000_000), 150, 900, 92
LEAST_BYTES = 60000  # of a wallpaper; smaller ones are previews and patterns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="with a folder for each")
    parser.add_argument("photos", type=Path, help="to write")
    parser.add_argument("stamps", type=Path, help="to write")
    options = parser.parse_args()
    for folder in (options.photos, options.stamps):
        folder.mkdir(parents=True)
    for name, photo in games(options.packages / GAMES):
        save(on_white(photo), options.photos / f"g-{name}.jpg")
    for number, path in enumerate(wallpapers(options.packages), 1):
        save(Image.open(path).convert("RGB"), options.photos / f"w-{number}.jpg")
    for number, path in enumerate(sorted((options.packages / STAMPS).rglob("*.png"))):
        if not any(word in str(path) for word in LIKE_OURS):
            shutil.copy(path, options.stamps / f"{number}-{path.name}")


def games(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    for path in sorted(folder.rglob("*.rcc")):
        held, numbers = path.read_bytes(), count(1)
        for start in (found.start() for found in STARTS.finditer(held)):
            (length,) = struct.unpack(">I", held[max(start - 4, 0) : start] or bytes(4))
            if not BYTES[0] < length < BYTES[1] or start + length > len(held):
                continue
            try:
                photo = Image.open(io.BytesIO(held[start : start + length]))
                photo.load()
            except OSError:  # bytes within a picture that look like the start of one
                continue
            if min(photo.size) >= LEAST_SIDE and path.stem not in DRAWN:
                yield f"{path.stem}-{next(numbers)}", photo


def wallpapers(packages: Path) -> Iterator[Path]:
    for folder in sorted(packages.iterdir()):
        if folder.name not in (GAMES, STAMPS):
            for path in sorted(folder.rglob("*")):
                known = path.suffix in (".jpg", ".webp", ".png")
                if known and path.stat().st_size > LEAST_BYTES:
                    yield path


def on_white(photo: Image.Image) -> Image.Image:
    photo = photo.convert("RGBA")
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    ground = Image.new("RGBA", photo.size, "white")
    return Image.alpha_composite(ground, photo).convert("RGB")


def save(photo: Image.Image, path: Path) -> None:
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    photo.save(path, quality=QUALITY)


if __name__ == "__main__":
    main()
