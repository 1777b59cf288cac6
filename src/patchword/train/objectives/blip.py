"""A BLIP's objective (Li et al. 2022, section 3.2): contrastive image and text features,
image-text matching, captions, and answers to questions. Each image is encoded once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword import losses
from patchword.data import Collate, TextBatch, collate_texts, positives
from patchword.models.blip import Blip
from patchword.train import distributed
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import PAIRWISE, Inputs, Objective
from patchword.train.parallel import World
from patchword.train.recipe import Recipe

# Added to each probability, so that easy negatives are sampled too (salesforce/BLIP,
# models/blip_pretrain.py).
MIN_PROBABILITY = 1e-4


@dataclass(frozen=True)
class BlipInputs(Inputs):
    """Images with their captions, questions and answers. Missing texts are "", and the `has_...`
    fields tell which texts exist.

    The two means are over all images of the whole batch. Dividing by them gives every token of all
    captions, and every answer, the same weight for any number of processes and micro-batches.
    """

    ids: Tensor  # (n, L): the first caption of each image
    captions: Tensor  # (n, K, L)
    wrong_captions: Tensor  # (n, L): false for their image
    has_wrong_caption: Tensor  # (n,) bool
    questions: Tensor  # (n, K, L)
    answers: Tensor  # (n, K, L)
    has_question: Tensor  # (n, K) bool
    # (n, 2, M) bool: which of the M texts are true of each image, and of which of the M images each
    # text is true; the contrastive loss compares with these M
    positives: Tensor
    negatives: Tensor = field(metadata=PAIRWISE)  # (n, n) bool: text j is false for image i
    tokens_per_image: float  # of captions, the mean
    answers_per_image: float  # the mean


InputsT = TypeVar("InputsT", bound=BlipInputs)


class BlipBase(Objective[TextBatch, InputsT]):
    """A BLIP and the losses of `BlipLosses`. Subclasses define what its features are compared with.

    Hard negatives are sampled from the samples that one process has in memory, in proportion to the
    softmax of their cosines. A text that is true of the image is never a negative. Every token of
    all captions of a batch has the same weight, and so has every answer.
    """

    network: Blip

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        blip, model = recipe.blip, recipe.model
        parts = set()
        if blip.contrast or blip.match or blip.caption:
            parts.add("captions")
        # A new model that learns to answer later needs the words of questions in its vocabulary.
        if blip.answer or (model is not None and model.answers_questions):
            parts.add("questions")
        return frozenset(parts)

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        self.blip, self.tokenizer = recipe.blip, initial.reader()
        self.pad_token = self.tokenizer.pad_token
        prompt = self.blip.prompt
        self.prompt = self.tokenizer.rows([prompt])[0][1:-1] if prompt else []
        decoder = initial.config.decoder
        self.context = decoder.context if decoder else 0
        self.start_token = decoder.start_token if decoder else -1
        self.logged: dict[str, float] = {}

    def collate(self) -> Collate[TextBatch]:
        return partial(collate_texts, self.tokenizer)

    def inputs_of(self, batch: TextBatch) -> BlipInputs:
        """The batch, and which texts of all processes are true of which images."""
        texts = list(chain.from_iterable(self.world.gather(batch.caption_facts)))
        images = list(chain.from_iterable(self.world.gather(batch.image_facts)))
        rows = self.world.rows(len(texts))
        true = torch.from_numpy(positives(texts, images)).to(batch.pixels.device)  # (image, text)
        targets = self._prompted(batch.captions.flatten(0, 1))[:, 1 + len(self.prompt) :]
        tokens = (targets != self.pad_token).sum().item()
        counts = torch.tensor(
            self.world.gather((tokens, batch.has_question.sum().item())), dtype=torch.float64
        )
        tokens_per_image, answers_per_image = (counts.sum(dim=0) / len(texts)).tolist()
        return BlipInputs(
            pixels=batch.pixels,
            ids=batch.ids,
            captions=batch.captions,
            wrong_captions=batch.wrong_captions,
            has_wrong_caption=batch.has_wrong_caption,
            questions=batch.questions,
            answers=batch.answers,
            has_question=batch.has_question,
            positives=torch.stack([true[rows], true.mT[rows]], dim=1),
            negatives=~true[rows, rows],
            tokens_per_image=tokens_per_image,
            answers_per_image=answers_per_image,
        )

    # --- forward

    def forward(self, inputs: InputsT) -> tuple[Tensor, ...]:
        """Unit features of images and texts (n, D), the logit scale, matching logits (3 n, 2), and
        the negative log-likelihoods of captions and answers (n K,). The outputs for a loss of
        weight 0 are empty."""
        blip, network = self.blip, self.network
        tokens = network.image_tokens(inputs.pixels)
        image = text = matching = captions = answers = tokens.new_zeros(0)
        if blip.contrast:
            image = network.image_features(tokens)
            text = F.normalize(network.text(inputs.ids).float(), dim=-1)
        if blip.match:
            matching = self._matching(inputs, tokens, image, text)
        if blip.caption:
            prompted = self._prompted(inputs.captions.flatten(0, 1))
            mask, skip = network.image_mask(tokens), len(self.prompt)
            captions = self._negative_log_likelihood(prompted, tokens, mask, skip)
        if blip.answer:
            answers = self._answers(inputs, tokens)
        return image, text, network.scale, matching, captions, answers

    def _matching(self, inputs: InputsT, tokens: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Logits (<= 3 n, 2) of each image with its text, of each image with a text that is false
        for it, and of each text with an image for which it is false. The false text is the sample's
        wrong caption or, without one, a hard negative. Pairs without a negative are left out."""
        ids, wrong_ids = inputs.ids, inputs.wrong_captions
        with torch.no_grad():
            logits = self.network.scale * image @ text.mT if self.blip.contrast else None
            texts, has_text = hard_negatives(logits, inputs.negatives)
            transposed = None if logits is None else logits.mT
            images, has_image = hard_negatives(transposed, inputs.negatives.mT)
        width = max(ids.shape[1], wrong_ids.shape[1])
        ids, wrong_ids = self._padded(ids, width), self._padded(wrong_ids, width)
        wrong_ids = torch.where(inputs.has_wrong_caption[:, None], wrong_ids, ids[texts])
        has_text = has_text | inputs.has_wrong_caption
        both = torch.stack([ids, wrong_ids], dim=1).flatten(0, 1)
        right_logits, wrong_logits = self.network.match(tokens, both).view(-1, 2, 2).unbind(dim=1)
        image_logits = self.network.match(tokens[images], ids)
        return torch.cat([right_logits, wrong_logits[has_text], image_logits[has_image]])

    def _padded(self, ids: Tensor, width: int) -> Tensor:
        """Texts (n, L) padded to (n, width)."""
        return F.pad(ids, (0, width - ids.shape[1]), value=self.pad_token)

    def _prompted(self, ids: Tensor) -> Tensor:
        """The ids with the prompt before each caption, cut to the decoder's context. A caption that
        is cut has an end token too."""
        if self.prompt:
            prompt = ids.new_tensor(self.prompt).expand(len(ids), -1)
            ids = torch.cat([ids[:, :1], prompt, ids[:, 1:]], dim=1)
        cut = ids[:, : self.context].clone()
        if ids.shape[1] > self.context > 0:
            cut[:, -1].masked_fill_(cut[:, -1] != self.pad_token, self.tokenizer.end_token)
        return cut

    def _answers(self, inputs: InputsT, tokens: Tensor) -> Tensor:
        """The negative log-likelihoods of the answers, of the images with a question; 0 for missing
        questions. If no image has a question, the first image is computed and multiplied by 0: all
        processes must compute the same layers."""
        rows = inputs.has_question.any(dim=1).nonzero()[:, 0]
        if not len(rows):
            rows = rows.new_zeros(1)
        ids = inputs.questions[rows].flatten(0, 1)
        states = self.network.cross_attend(ids, tokens[rows])
        answers = inputs.answers[rows].flatten(0, 1)
        values = self._negative_log_likelihood(
            answers, states, self.network.question_mask(ids, states)
        )
        return values * inputs.has_question[rows].flatten()

    def _negative_log_likelihood(
        self, ids: Tensor, context: Tensor, mask: Tensor | None, skip: int = 0
    ) -> Tensor:
        """That of texts (R, L), (R,), without their first `skip` tokens."""
        inputs = ids[:, :-1].clone()
        inputs[:, 0] = self.start_token
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == self.pad_token, losses.IGNORED)
        targets[:, :skip] = losses.IGNORED
        logits = self.network.word_logits(self.network.decode(inputs, context, mask))
        return losses.language_modelling(logits, targets, self.recipe.label_smoothing)

    # --- loss

    def loss(self, inputs: InputsT, *outputs: Tensor) -> Tensor:
        image, text, scale, matching, captions, answers = outputs
        blip, count = self.blip, len(inputs)
        parts: dict[str, tuple[float, Tensor]] = {}
        self.logged = {}
        if blip.contrast:
            parts["contrast"] = blip.contrast, self.contrast(inputs, image, text, scale)
        if blip.match:
            matches = torch.arange(len(matching), device=matching.device) < count
            parts["match"] = blip.match, losses.matching(matching, matches)
            accuracy = (matching.argmax(dim=1) == matches).float().mean()
            self.logged["match_accuracy"] = accuracy.item()
        if blip.caption:
            parts["caption"] = blip.caption, captions.sum() / (count * inputs.tokens_per_image)
        if blip.answer and inputs.answers_per_image:
            parts["answer"] = blip.answer, answers.sum() / (count * inputs.answers_per_image)
        self.logged |= {name: value.item() for name, (_, value) in parts.items()}
        return torch.stack([weight * value for weight, value in parts.values()]).sum()

    def contrast(self, inputs: InputsT, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """The contrastive loss of unit features (n, D)."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """The parts of the loss, and the accuracy of matching, on this process's last micro-batch.
        A model that answers "no match" to every pair has an accuracy of 2/3 and a matching loss of
        0.63."""
        if self.config.embed_dim:
            return {**self.logged, "logit_scale": float(self.network.scale.detach())}
        return self.logged


class BlipObjective(BlipBase[BlipInputs]):
    """A BLIP whose features are compared with those of the same batch, of all processes."""

    def prepare(self, batch: TextBatch, step: int) -> BlipInputs:
        return self.inputs_of(batch)

    def contrast(self, inputs: BlipInputs, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        images, texts = image, text
        if self.world.size > 1:
            images, texts = distributed.gather(image), distributed.gather(text)
        true_texts, true_images = inputs.positives.unbind(dim=1)
        to_texts = losses.soft_contrastive(scale * image @ texts.mT, true_texts)
        to_images = losses.soft_contrastive(scale * text @ images.mT, true_images)
        return (to_texts + to_images) / 2


def hard_negatives(logits: Tensor | None, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n rows one of the columns that are `allowed` (n, n) bool, and whether the row has
    any: (n,) each. Columns are sampled by the softmax of logits (n, n); uniformly for None."""
    if logits is None:
        weights = allowed.float()
    else:  # NaN cannot be sampled from; the loss is NaN too, and training stops with an error
        weights = (logits.softmax(dim=1) + MIN_PROBABILITY).nan_to_num(MIN_PROBABILITY) * allowed
    has_column = allowed.any(dim=1)
    weights[~has_column] = 1.0  # all 0 cannot be sampled from
    return torch.multinomial(weights, 1)[:, 0], has_column
