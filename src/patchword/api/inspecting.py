"""Defects from photos of good products, as a function of the public face."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from patchword.api.image_lists import in_folder
from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.one_or_many import Images
from patchword.inspect.calibration import Rule, changed
from patchword.inspect.fitting import fit
from patchword.inspect.inspector import Inspector, reopened
from patchword.inspect.methods import chosen, needless
from patchword.options import checked


@checked
def inspector(
    model: Bundle,
    good: Images | None = None,
    method: str = "memory",
    false_alarms: float | None = None,
    *,
    confidence: float | None = None,
    threshold: float | None = None,
    calibration: Images | None = None,
    by_folder: bool = False,
    fitted: str | os.PathLike[str] | None = None,
    layers: Sequence[int] | None = None,
    short_side: int | None = None,
    neighbours: int | None = None,
    rotations: bool | None = None,
    coreset: float | None = None,
    reweight: bool | None = None,
    half: bool | None = None,
    patches: int | None = None,
    foreground: float | None = None,
    mask_good: bool | None = None,
    variance: float | None = None,
    components: int | None = None,
    subject: str | None = None,
    exact: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspector:
    """What has learned from good photos how others should look: `.inspect(images)` gives score,
    p-value, verdict, map and boxes of each.

    good          photos, or a folder of them; 2 are enough to begin. "winclip" and "mutual" need
                  none: None, with one of these methods
    method        "memory": far from every good patch (AnomalyDINO); "subspace": what the principal
                  components of good patches leave over (SubspaceAD); "winclip": by sentences about
                  good and bad things, and by the good photos (WinCLIP); "mutual": unlike the other
                  photos of a batch (MuSc), which good ones are part of; "reference": unlike
                  the same place of the first good photos, up to four
    false_alarms  the share of good photos that may be rejected, 0.01; that takes 99 good photos
                  that nothing is learned from, and where there are not so many the threshold is
                  not calibrated: `.guarantee()` says so
    confidence    the share holds with this probability for the good photos that were held out
                  instead of in the mean over all that might have been
    threshold     reject scores above it instead
    calibration   good photos to hold out; None: drawn from `good`
    by_folder     a threshold for each name of the folders that photos lie in
    fitted        instead of good photos and options of the method: a folder that `.save` wrote
    layers        blocks whose patch tokens are taken, 0 the first and -1 the last; None: those that
                  were measured the best, as in the embedded models; else the one in the middle
                  of a network that was trained by words or classes; else the last
    short_side    pixels to which a photo's shorter side is resized, seen in tiles of the network's
                  own size; None: one tile

    Of some methods alone: neighbours, coreset, reweight, half, patches, how many are kept at most,
    foreground, above which a patch is the object, and mask_good, whether only such patches of good
    photos are kept (`memory`, see `Memory`); variance, components (`subspace`), rotations (both);
    subject, what photos show, and exact, every window by itself (`winclip`).
    progress: called with the photos done and all of them.
    Raises ImageError, and UnsupportedError for options that cannot be; CheckpointError for a
    folder of `fitted` that is damaged, or was fitted with another model.
    """
    own = {
        "layers": layers, "short_side": short_side, "neighbours": neighbours,
        "rotations": rotations, "coreset": coreset, "reweight": reweight, "half": half,
        "patches": patches, "foreground": foreground, "mask_good": mask_good,
        "variance": variance, "components": components, "subject": subject, "exact": exact,
    }  # fmt: skip
    numbers = {"false_alarms": false_alarms, "confidence": confidence, "threshold": threshold}
    given = {name: value for name, value in numbers.items() if value is not None}
    if fitted is not None:
        extra = any(value is not None for value in own.values()) or method != "memory"
        if good is not None or calibration is not None or by_folder or extra:
            raise UnsupportedError(
                "fitted stands for good photos, calibration, by_folder, method and its options"
            )
        return reopened(model, fitted, given)
    way = chosen(method, own)
    if good is None and way.needs.good:
        raise UnsupportedError(
            "give good photos, or fitted, the folder of a saved inspector; "
            f"{' and '.join(needless())} need neither"
        )
    return fit(
        model, () if good is None else _photos(good), way, changed(Rule(), given),
        calibration=None if calibration is None else _photos(calibration), grouped=by_folder,
        progress=progress,
    )  # fmt: skip


def _photos(images: Images) -> Images:
    """Images, or those in a folder. Raises the ImageError of what cannot be listed, and
    UnsupportedError for a folder without any."""
    if not isinstance(images, (str, os.PathLike)) or not os.path.isdir(images):
        return images
    found = in_folder(images)
    if not found:
        raise UnsupportedError(f"no images in {os.fspath(images)}")
    return found
