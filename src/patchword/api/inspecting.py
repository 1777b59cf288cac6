"""The public function `inspector`, which learns from photos of good products to find defects."""

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
    """Learn from good photos how others should look. The result's `.inspect(images)` gives score,
    p-value, verdict, map and boxes of each image.

    good          photos, or a folder of them; at least 2. None for "winclip" and "mutual", which
                  need none
    method        how a patch is scored. "memory": by its distance to all good patches
                  (AnomalyDINO); "subspace": by its part outside the principal components of good
                  patches (SubspaceAD); "winclip": by sentences about good and bad things, and by
                  good photos (WinCLIP); "mutual": by its difference from the other photos of a
                  batch (MuSc), which good photos join; "reference": by its difference from the same
                  place of the first good photos, up to four
    false_alarms  the share of good photos that may be rejected, 0.01 by default. This needs 99 good
                  photos from which nothing is learned. With fewer the threshold is not calibrated,
                  and `.guarantee()` reports it
    confidence    the probability with which the share holds for the good photos that were held out;
                  None: it holds in the mean over all possible choices of them
    threshold     reject scores above this instead
    calibration   good photos to hold out; None: drawn from `good`
    by_folder     a threshold for each name of the photos' folders
    fitted        a folder that `.save` wrote, instead of good photos and options of the method
    layers        blocks whose patch tokens are used, 0 the first and -1 the last. None: those that
                  are known to be best, as for the embedded models; else the middle block of a
                  network that was trained with words or classes; else the last
    short_side    pixels to which a photo's shorter side is resized; the network sees it in tiles of
                  its own size. None: one tile

    Options of some methods: neighbours, coreset, reweight, half, patches (most that are kept),
    foreground (a patch with a higher value is the object) and mask_good (keep only such patches of
    good photos) for "memory", see `Memory`; variance and components for "subspace"; rotations for
    both; subject (what photos show) and exact (compute every window) for "winclip".
    progress: called with the number of photos done and of all photos.
    Raises ImageError; UnsupportedError for options that are not possible; CheckpointError for a
    folder of `fitted` that is damaged, or was fitted with another model.
    """
    of_method = {
        "layers": layers, "short_side": short_side, "neighbours": neighbours,
        "rotations": rotations, "coreset": coreset, "reweight": reweight, "half": half,
        "patches": patches, "foreground": foreground, "mask_good": mask_good,
        "variance": variance, "components": components, "subject": subject, "exact": exact,
    }  # fmt: skip
    numbers = {"false_alarms": false_alarms, "confidence": confidence, "threshold": threshold}
    given = {name: value for name, value in numbers.items() if value is not None}
    if fitted is not None:
        has_method = any(value is not None for value in of_method.values()) or method != "memory"
        if good is not None or calibration is not None or by_folder or has_method:
            raise UnsupportedError(
                "fitted stands for good photos, calibration, by_folder, method and its options"
            )
        return reopened(model, fitted, given)
    chosen_method = chosen(method, of_method)
    if good is None and chosen_method.needs.good:
        raise UnsupportedError(
            "give good photos, or fitted, the folder of a saved inspector; "
            f"{' and '.join(needless())} need neither"
        )
    return fit(
        model, () if good is None else _photos(good), chosen_method, changed(Rule(), given),
        calibration=None if calibration is None else _photos(calibration), grouped=by_folder,
        progress=progress,
    )  # fmt: skip


def _photos(images: Images) -> Images:
    """Images, or those in a folder. Raises ImageError for a folder that cannot be listed, and
    UnsupportedError for one without images."""
    if not isinstance(images, (str, os.PathLike)) or not os.path.isdir(images):
        return images
    paths = in_folder(images)
    if not paths:
        raise UnsupportedError(f"no images in {os.fspath(images)}")
    return paths
