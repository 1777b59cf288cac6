"""What a network can be trained for, one file each: an objective turns a batch into tensors, and
those into a loss.

An objective is a module around the network, so that DistributedDataParallel or FSDP can hold it:
called with a `Work` it gives tensors, the rows of its samples or scalars. It holds no parameters of
its own, and is a function of the seed and the step: what is random is drawn in `prepare`.
"""

from __future__ import annotations

from patchword import checkpoints
from patchword.bundle import Bundle
from patchword.errors import RecipeError
from patchword.train.initial_model import Start
from patchword.train.objectives.base import Objective, Work
from patchword.train.objectives.blip import Grounded
from patchword.train.objectives.classification import Classes
from patchword.train.objectives.masked import Masked
from patchword.train.objectives.pairs import Pairs
from patchword.train.parallel import World
from patchword.train.recipe import Recipe, TeacherConfig

__all__ = ["KINDS", "Objective", "Work", "make"]

KINDS: dict[str, type[Objective]] = {
    "contrastive": Pairs,
    "sigmoid": Pairs,
    "masked": Masked,
    "classification": Classes,
    "blip": Grounded,
}


def make(student: Start, recipe: Recipe, world: World) -> Objective:
    """The recipe's objective for that network. Raises RecipeError for a teacher that cannot answer
    what the student is asked."""
    teacher = None
    if recipe.teacher:
        bundle = checkpoints.load(recipe.teacher.model, device=world.device)
        _check_teacher(bundle, student, recipe.teacher)
        teacher = bundle.network.requires_grad_(False)
    return KINDS[recipe.objective](student, recipe, world, teacher)


def _check_teacher(teacher: Bundle, student: Start, config: TeacherConfig) -> None:
    ours, theirs = student.config, teacher.config
    unlike = ""
    if ours.preprocess != theirs.preprocess:
        unlike = f"it sees images as {theirs.preprocess}, the student as {ours.preprocess}"
    elif ours.labels != theirs.labels:
        unlike = f"its classes are {', '.join(theirs.labels) or 'none'}"
    elif ours.text and (theirs.text is None or not theirs.embed_dim):
        unlike = "it has not two towers"
    elif (
        ours.text
        and student.tokenizer
        and teacher.reader().to_json() != (student.tokenizer.to_json())
    ):
        unlike = "its tokenizer is another"
    elif config.kind == "features" and ours.feature_dim != theirs.feature_dim:
        unlike = f"its features have {theirs.feature_dim} dimensions, not {ours.feature_dim}"
    if unlike:
        raise RecipeError(f"{config.model} cannot be the teacher: {unlike}")
