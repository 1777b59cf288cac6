"""A BLIP's objective (Li et al. 2022, section 3.2): contrastive image and text features,
image-text matching, captions, answers to questions; from one encoding of each image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword import losses
from patchword.data import Collate, TextBatch, collate_texts, positives
from patchword.models.blip import Blip
from patchword.train import distributed
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SQUARE, Objective, Work
from patchword.train.parallel import World
from patchword.train.recipe import Recipe

LEAST = 1e-4  # the probability of an easy negative (salesforce/BLIP, models/blip_pretrain.py)


@dataclass(frozen=True)
class BlipWork(Work):
    """Images with their captions, questions and answers. Texts that do not exist are "", and the
    `has_...` fields say which ones do.

    The two means are over all images of the whole batch: they make every token of all captions,
    and every answer, weigh the same, whatever the number of processes and micro-batches.
    """

    ids: Tensor  # (n, L): the first caption of each image
    captions: Tensor  # (n, K, L)
    wrong_captions: Tensor  # (n, L): false for their image
    has_wrong_caption: Tensor  # (n,) bool
    questions: Tensor  # (n, K, L)
    answers: Tensor  # (n, K, L)
    has_question: Tensor  # (n, K) bool
    # (n, 2, M) bool: of each image the texts that are true of it, of each text the images, among
    # the M that the contrastive loss compares with
    positives: Tensor
    negatives: Tensor = field(metadata=SQUARE)  # (n, n) bool: text j is false for image i
    tokens_per_image: float  # of captions, on average
    answers_per_image: float


WorkT = TypeVar("WorkT", bound=BlipWork)


class BlipBase(Objective[TextBatch, WorkT]):
    """A BLIP and the losses of `BlipLosses`; subclasses define what features are compared with.

    Hard negatives are sampled among the samples of one process that are in memory at a time, in
    proportion to the softmax of their cosines, and never a text that is true of the image. Every
    token of all captions of a batch has the same weight, and so has every answer.
    """

    network: Blip

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        blip, model = recipe.blip, recipe.model
        captions = {"captions"} if blip.contrast or blip.match or blip.caption else set()
        # A new model that is to answer later has the words of questions in its vocabulary.
        questions = blip.answer or (model is not None and model.answers_questions)
        return frozenset(captions | ({"questions"} if questions else set()))

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        self.blip, self.tokenizer = recipe.blip, initial.reader()
        self.pad_token = self.tokenizer.pad_token
        prompt = self.blip.prompt
        self.prompt = self.tokenizer.rows([prompt])[0][1:-1] if prompt else []
        decoder = initial.config.decoder
        self.context, self.start_token = (
            (decoder.context, decoder.start_token) if decoder else (0, -1)
        )
        self.logged: dict[str, float] = {}

    def collate(self) -> Collate[TextBatch]:
        return partial(collate_texts, self.tokenizer)

    def work(self, batch: TextBatch) -> BlipWork:
        """The batch, and which texts of all processes are true of which images."""
        texts = [each for every in self.world.gather(batch.caption_facts) for each in every]
        images = [each for every in self.world.gather(batch.image_facts) for each in every]
        rows = self.world.rows(len(texts))
        true = torch.from_numpy(positives(texts, images)).to(batch.pixels.device)  # image, text
        written = self._prompted(batch.captions.flatten(0, 1))[:, 1 + len(self.prompt) :]
        tokens = (written != self.pad_token).sum().item()
        counts = torch.tensor(
            self.world.gather((tokens, batch.has_question.sum().item())), dtype=torch.float64
        )
        tokens_per_image, answers_per_image = (counts.sum(dim=0) / len(texts)).tolist()
        return BlipWork(
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

    def forward(self, work: WorkT) -> tuple[Tensor, ...]:
        """Unit features of images and texts (n, D), the logit scale, matching logits (3 n, 2), and
        the negative log-likelihoods of captions and answers (n K,); empty for a loss of weight
        0."""
        blip, network = self.blip, self.network
        tokens = network.image_tokens(work.pixels)
        image = text = matching = captions = answers = tokens.new_zeros(0)
        if blip.contrast:
            image = network.image_features(tokens)
            text = F.normalize(network.text(work.ids).float(), dim=-1)
        if blip.match:
            matching = self._matching(work, tokens, image, text)
        if blip.caption:
            prompted = self._prompted(work.captions.flatten(0, 1))
            mask, skip = network.image_mask(tokens), len(self.prompt)
            captions = self._negative_log_likelihood(prompted, tokens, mask, skip)
        if blip.answer:
            answers = self._answers(work, tokens)
        return image, text, network.scale, matching, captions, answers

    def _matching(self, work: WorkT, tokens: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Logits (<= 3 n, 2) of each image with its text, of each image with a text that is false
        for it, and of each text with an image that it is false for. The false text is the sample's
        own wrong caption, else a hard negative; a pair for which there is none is left out."""
        ids, wrong = work.ids, work.wrong_captions
        with torch.no_grad():
            logits = self.network.scale * image @ text.mT if self.blip.contrast else None
            texts, has_text = hard_negatives(logits, work.negatives)
            turned = None if logits is None else logits.mT
            images, has_image = hard_negatives(turned, work.negatives.mT)
        width = max(ids.shape[1], wrong.shape[1])
        ids, wrong = self._padded(ids, width), self._padded(wrong, width)
        wrong = torch.where(work.has_wrong_caption[:, None], wrong, ids[texts])
        has_text = has_text | work.has_wrong_caption
        own = torch.stack([ids, wrong], dim=1).flatten(0, 1)
        right_logits, wrong_logits = self.network.match(tokens, own).view(-1, 2, 2).unbind(dim=1)
        image_logits = self.network.match(tokens[images], ids)
        return torch.cat([right_logits, wrong_logits[has_text], image_logits[has_image]])

    def _padded(self, ids: Tensor, width: int) -> Tensor:
        """Texts (n, L) as (n, width)."""
        return F.pad(ids, (0, width - ids.shape[1]), value=self.pad_token)

    def _prompted(self, ids: Tensor) -> Tensor:
        """Ids with the prompt before each caption, cut to the decoder's context; a caption that is
        cut ends as others do."""
        if self.prompt:
            prompt = ids.new_tensor(self.prompt).expand(len(ids), -1)
            ids = torch.cat([ids[:, :1], prompt, ids[:, 1:]], dim=1)
        cut = ids[:, : self.context].clone()
        if ids.shape[1] > self.context > 0:
            cut[:, -1].masked_fill_(cut[:, -1] != self.pad_token, self.tokenizer.end_token)
        return cut

    def _answers(self, work: WorkT, tokens: Tensor) -> Tensor:
        """The negative log-likelihoods of the answers of the images that have a question, 0 for
        questions that do not exist. Without any question the first image is computed, times 0: all
        processes must compute the same layers."""
        rows = work.has_question.any(dim=1).nonzero()[:, 0]
        if not len(rows):
            rows = rows.new_zeros(1)
        ids = work.questions[rows].flatten(0, 1)
        states = self.network.cross_attend(ids, tokens[rows])
        answers = work.answers[rows].flatten(0, 1)
        values = self._negative_log_likelihood(
            answers, states, self.network.question_mask(ids, states)
        )
        return values * work.has_question[rows].flatten()

    def _negative_log_likelihood(
        self, ids: Tensor, context: Tensor, mask: Tensor | None, skip: int = 0
    ) -> Tensor:
        """Of texts (R, L) without their first `skip` tokens, (R,)."""
        inputs = ids[:, :-1].clone()
        inputs[:, 0] = self.start_token
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == self.pad_token, losses.IGNORED)
        targets[:, :skip] = losses.IGNORED
        logits = self.network.word_logits(self.network.decode(inputs, context, mask))
        return losses.language_modelling(logits, targets, self.recipe.label_smoothing)

    # --- loss

    def loss(self, work: WorkT, *outputs: Tensor) -> Tensor:
        image, text, scale, matching, captions, answers = outputs
        blip, count = self.blip, len(work)
        parts: dict[str, tuple[float, Tensor]] = {}
        self.logged = {}
        if blip.contrast:
            parts["contrast"] = blip.contrast, self.contrast(work, image, text, scale)
        if blip.match:
            matches = torch.arange(len(matching), device=matching.device) < count
            parts["match"] = blip.match, losses.matching(matching, matches)
            right = (matching.argmax(dim=1) == matches).float().mean()
            self.logged["match_accuracy"] = right.item()
        if blip.caption:
            parts["caption"] = blip.caption, captions.sum() / (count * work.tokens_per_image)
        if blip.answer and work.answers_per_image:
            parts["answer"] = blip.answer, answers.sum() / (count * work.answers_per_image)
        self.logged |= {name: value.item() for name, (_, value) in parts.items()}
        return torch.stack([weight * value for weight, value in parts.values()]).sum()

    def contrast(self, work: WorkT, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """The contrastive loss of unit features (n, D)."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """The parts of the loss, and the accuracy of matching, of this process's last micro-batch.
        An accuracy of 2/3, at a matching loss of 0.63, is that of answering "no match" to every
        pair."""
        if self.config.embed_dim:
            return {**self.logged, "logit_scale": float(self.network.scale.detach())}
        return self.logged


class BlipObjective(BlipBase[BlipWork]):
    """A BLIP whose features are compared with those of the same batch, of all processes."""

    def prepare(self, batch: TextBatch, step: int) -> BlipWork:
        return self.work(batch)

    def contrast(self, work: BlipWork, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        images, texts = image, text
        if self.world.size > 1:
            images, texts = distributed.gather(image), distributed.gather(text)
        of_image, of_text = work.positives.unbind(dim=1)
        to_texts = losses.soft_contrastive(scale * image @ texts.mT, of_image)
        return (to_texts + losses.soft_contrastive(scale * text @ images.mT, of_text)) / 2


def hard_negatives(logits: Tensor | None, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n rows a column (n,) among the `allowed` (n, n) bool, sampled by the softmax of
    logits (n, n), or evenly without them; and whether the row has one (n,)."""
    if logits is None:
        weights = allowed.float()
    else:  # without NaN, which cannot be sampled from: the loss is NaN then, and says so
        weights = (logits.softmax(dim=1) + LEAST).nan_to_num(LEAST) * allowed
    has = allowed.any(dim=1)
    weights[~has] = 1.0  # something to sample from
    return torch.multinomial(weights, 1)[:, 0], has
