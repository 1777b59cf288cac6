"""Training objectives, one file each: an objective turns a batch into tensors, and those into a
loss.

An objective is a module around the network, so that DistributedDataParallel or FSDP can wrap it.
Called with its `Inputs`, it returns tensors: rows, one for each sample, or scalars. It has no
parameters of its own. It depends only on the seed and the step: all random numbers are sampled in
`prepare`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.errors import RecipeError
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import Inputs, Objective, Teacher
from patchword.train.objectives.blip import BlipObjective
from patchword.train.objectives.classification import Classification, DistilledClassification
from patchword.train.objectives.dense import Dense
from patchword.train.objectives.masked import Masked
from patchword.train.objectives.momentum import MomentumBlipObjective
from patchword.train.objectives.pairs import DistilledPairs, Pairs
from patchword.train.parallel import World
from patchword.train.recipe import Recipe, TeacherConfig, check_shipped_model

__all__ = ["KINDS", "Inputs", "Objective", "make"]

AnyObjective = Objective[Any, Any]
KINDS: dict[str, type[AnyObjective]] = {
    "contrastive": Pairs,
    "sigmoid": Pairs,
    "masked": Masked,
    "classification": Classification,
    "blip": BlipObjective,
    "dense": Dense,
}
WITH_TEACHER: dict[str, Callable[[InitialModel, Recipe, World, Teacher], AnyObjective]] = {
    "contrastive": DistilledPairs,
    "sigmoid": DistilledPairs,
    "classification": DistilledClassification,
}


def make(student: InitialModel, recipe: Recipe, world: World) -> AnyObjective:
    """The recipe's objective for the student. Raises RecipeError for a teacher without the outputs
    that the student learns."""
    if recipe.teacher:
        check_shipped_model(recipe.teacher.model)
        bundle = checkpoints.load(recipe.teacher.model, device=world.device)
        _check_teacher(bundle, student, recipe.teacher)
        teacher = Teacher(bundle.network.requires_grad_(False), recipe.teacher)
        return WITH_TEACHER[recipe.objective](student, recipe, world, teacher)
    if recipe.objective == "blip" and recipe.blip.momentum:
        return MomentumBlipObjective(student, recipe, world)
    return KINDS[recipe.objective](student, recipe, world)


def _check_teacher(teacher: Bundle, student: InitialModel, config: TeacherConfig) -> None:
    """Raise RecipeError for a teacher whose images, texts or outputs differ from the student's."""
    ours, theirs = student.config, teacher.config
    different = ""
    if ours.preprocess != theirs.preprocess:
        different = f"it preprocesses as {theirs.preprocess}, the student as {ours.preprocess}"
    elif ours.labels != theirs.labels:
        different = f"its classes are {', '.join(theirs.labels) or 'none'}"
    elif ours.text and (theirs.text is None or not theirs.embed_dim):
        different = "it does not have two towers"
    elif ours.text and teacher.reader().to_json() != student.reader().to_json():
        different = "its tokenizer is another"
    elif config.kind == "features" and ours.feature_dim != theirs.feature_dim:
        different = f"its features have {theirs.feature_dim} dimensions, not {ours.feature_dim}"
    if different:
        raise RecipeError(f"{config.model} cannot be the teacher: {different}")
