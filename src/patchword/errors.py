"""Everything patchword raises on purpose.

    PatchwordError
    ├── ImageError        an image that cannot be opened or used: names the image and the reason
    ├── CheckpointError   a checkpoint that is missing, unknown, unsafe, or does not fit
    ├── ConfigError       a configuration that contradicts itself
    ├── TokenizerError    a tokenizer that is missing or does not fit the model
    ├── UnsupportedError  a job or option that a model does not have: names one that does
    ├── IndexStoreError   an index that is missing, damaged, or made by another model
    └── RecipeError       a training recipe, or its data, that cannot be run

Each message says what was found, where, and what to do. Beside them, warnings:

    LongTextWarning       texts that do not fit the context and are cut
    ImageWarning          an image that may not be opened as expected
    SkippedFilesWarning   files of a folder that are or hold photos, and are not opened
    ScopeWarning          images and texts that a model knows nothing about
    UnseenWarning         photos of which a model does not see all, or all very small
    CheckpointWarning     a checkpoint that can be read in two ways
    FontWarning           signs of a text that no font can draw
    SameMapWarning        texts given to a heatmap method that is of no text
    SampledWarning        more patches of good photos than are kept
"""


class PatchwordError(Exception):
    """Base of every error that patchword raises on purpose."""


class ImageError(PatchwordError):
    """An image that cannot be opened or used. `.image` names it, `.reason` says why."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"{image}: {reason}")
        self.image = image
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.image, self.reason)


class CheckpointError(PatchwordError):
    """A checkpoint that is missing, of an unknown format, unsafe to read, or does not fit."""


class ConfigError(PatchwordError):
    """A configuration that contradicts itself or names something unknown."""


class TokenizerError(PatchwordError):
    """A tokenizer that is missing or does not fit the model."""


class UnsupportedError(PatchwordError):
    """A job or an option that a model does not have."""


class IndexStoreError(PatchwordError):
    """An index that is missing, damaged, or holds vectors of another model."""


class RecipeError(PatchwordError):
    """A training recipe, or the data it names, that cannot be run."""


class LongTextWarning(UserWarning):
    """Texts longer than the model's context, whose ends are cut off."""


class ImageWarning(UserWarning):
    """An image that may not be opened as expected: its first page alone, or so dark that its range
    is probably another."""


class SkippedFilesWarning(UserWarning):
    """Files of a folder that look like photos and cannot be opened, or may hold photos and were not
    looked into: how many, by kind."""


class ScopeWarning(UserWarning):
    """Images, words or questions unlike those that the model was trained on."""


class UnseenWarning(UserWarning):
    """Photos that a model sees in part, because the rest is cropped away, or very small: an answer
    says nothing of what was not seen."""


class CheckpointWarning(UserWarning):
    """A checkpoint that can be read in two ways: says which was taken, and how to get the other."""


class FontWarning(UserWarning):
    """Signs of a text that no font of the system has: pictures show boxes in their places."""


class SampledWarning(UserWarning):
    """More patches of good photos than are kept: a random sample of them."""


class SameMapWarning(UserWarning):
    """Texts given to a heatmap method that is of no text: each has the same map."""
