"""What a BLIP is trained for (Li et al. 2022, section 3.2): image and text features told apart,
pairs judged, captions written, questions answered; from one encoding of each image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from patchword import losses
from patchword.data import Batch, positives
from patchword.models.blip import Blip
from patchword.train import distributed
from patchword.train.initial_model import Start
from patchword.train.objectives.base import Objective, Work
from patchword.train.parallel import World
from patchword.train.recipe import Recipe

LEAST = 1e-4  # the chance of an easy negative (salesforce/BLIP, models/blip_pretrain.py)


class Grounded(Objective):
    """A BLIP and the losses of `BlipLosses`.

    Hard negatives are drawn within the rows of one process that are in memory at a time, in
    proportion to the softmax of their cosines, never one that is true. Captions and answers count
    by their words and by themselves: all words of a batch's captions weigh the same, and so do its
    answers, whatever the number of processes and micro-batches.

    Of a step's `Work`: `each` is how many words of captions, and how many answers, an image has in
    the mean of the whole batch; `teacher` what momentum encoders see in each row, and how much of
    the targets that decides.
    """

    network: Blip

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        blip, model = recipe.blip, recipe.model
        captions = {"captions"} if blip.contrast or blip.match or blip.caption else set()
        # A new model that shall answer later knows the words of questions from the beginning.
        asks = blip.answer or (model is not None and model.answers_questions)
        return frozenset(captions | ({"questions"} if asks else set()))

    def __init__(self, student: Start, recipe: Recipe, world: World, teacher: None = None) -> None:
        super().__init__(student, recipe, world)
        self.blip = recipe.blip
        self.prompt: list[int] = []
        if self.blip.prompt and student.tokenizer:
            self.prompt = student.tokenizer.rows([self.blip.prompt])[0][1:-1]
        width = student.config.embed_dim
        # The momentum encoders' features of the steps before, newest first.
        self.images, self.texts = torch.empty(2, 0, width, device=world.device)
        self.says = torch.empty(0, dtype=torch.int64, device=world.device)
        self.noted: dict[str, float] = {}

    # --- before the network

    def prepare(self, batch: Batch, step: int) -> Work:
        ids, captions, device = batch.ids, batch.captions, batch.pixels.device
        assert ids is not None
        assert captions is not None
        says = [each for every in self.world.everyones(batch.says) for each in every]
        truths = [each for every in self.world.everyones(batch.truths) for each in every]
        rows = self.world.rows(len(says))
        true = torch.from_numpy(positives(says, truths)).to(device)  # (N, N): image, text
        both = torch.stack([true[rows], true.mT[rows]], dim=1)
        known: tuple[Tensor, ...] = ()
        teacher: tuple[Tensor, ...] = ()
        if self.blip.momentum:
            both = torch.cat([both, self._repeated(batch, device)], dim=2)
            teacher, known = self._momentum(batch.pixels, ids, says, step)
        asked = batch.asked if self.blip.answer else None
        words = (captions[..., 1:] != self._pad).sum().item()
        questions = 0.0 if asked is None else asked.sum().item()
        counts = torch.tensor(self.world.everyones((words, questions)), dtype=torch.float64)
        return Work(
            batch.pixels,
            ids,
            captions=captions,
            questions=captions if batch.questions is None else batch.questions,
            answers=captions if batch.answers is None else batch.answers,
            asked=asked,
            wrong=batch.wrong,
            misled=batch.misled,
            true=both,
            apart=~true[rows, rows],
            known=known,
            teacher=teacher,
            each=tuple((counts.sum(dim=0) / len(says)).tolist()),
        )

    @property
    def _pad(self) -> int:
        assert self.tokenizer is not None
        return self.tokenizer.pad_token

    def _repeated(self, batch: Batch, device: torch.device) -> Tensor:
        """(n, 2, Q): which images and texts of the queue belong to a row: those said to be the
        same."""
        keys = _keys(batch.says).to(device)
        return (keys[:, None] == self.says)[:, None].expand(-1, 2, -1)

    def _momentum(
        self, pixels: Tensor, ids: Tensor, says: Sequence[frozenset[str]], step: int
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The features of this process's rows with how far they are trusted, and the features of
        all rows and the queue; the rows go into the queue."""
        buffers = {name for name, _ in self.network.named_buffers()}
        weights = {
            f"network.{name}": value.clone() if name in buffers else value
            for name, value in self.average.items()
        }
        with torch.no_grad(), self.precision():
            image, text = functional_call(_Features(self.network), weights, (pixels, ids))
        images, texts = image, text
        if self.world.size > 1:
            images, texts = distributed.gather(image), distributed.gather(text)
        images, texts = torch.cat([images, self.images]), torch.cat([texts, self.texts])
        keys = torch.cat([_keys(says).to(self.says.device), self.says])
        size = self.blip.queue
        self.images, self.texts, self.says = images[:size], texts[:size], keys[:size]
        share = self.blip.soft * min(1.0, step / self.blip.ramp if self.blip.ramp else 1.0)
        return (image, text, image.new_tensor(share)), (images, texts)

    # --- the network

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        """Unit features of images and texts (n, D), the scale, matching logits (3 n, 2), and minus
        the log-likelihoods of captions and answers (n K,); empty where they are not learned."""
        blip, network, ids = self.blip, self.network, work.ids
        assert ids is not None
        tokens = network.image_tokens(work.pixels)
        image = text = matching = captions = answers = tokens.new_zeros(0)
        if blip.contrast:
            image = network.image_features(tokens)
            text = F.normalize(network.text(ids).float(), dim=-1)
        if blip.match:
            matching = self._matching(work, ids, tokens, image, text)
        if blip.caption:
            assert work.captions is not None
            written = self._prompted(work.captions.flatten(0, 1))
            captions = self._said(written, tokens, network.image_mask(tokens), len(self.prompt))
        if blip.answer:
            answers = self._answers(work, tokens)
        return image, text, network.scale, matching, captions, answers

    def _matching(
        self, work: Work, ids: Tensor, tokens: Tensor, image: Tensor, text: Tensor
    ) -> Tensor:
        """Logits (3 n, 2) of each image with its text, with a text that is not true of it, and of
        each text with an image of which it is not true; those that cannot be are left out. The
        wrong text of an image is that which the data says is wrong, or another's."""
        assert work.apart is not None
        count = len(ids)
        with torch.no_grad():
            likely = self.network.scale * image @ text.mT if self.blip.contrast else None
            texts, has_text = negatives(likely, work.apart)
            images, has_image = negatives(None if likely is None else likely.mT, work.apart.mT)
        wrong = ids[texts]
        if work.wrong is not None:
            assert work.misled is not None
            width = max(ids.shape[1], work.wrong.shape[1])
            ids, wrong, told = (self._padded(each, width) for each in (ids, wrong, work.wrong))
            wrong = torch.where(work.misled[:, None], told, wrong)
            has_text = has_text | work.misled
        beside = torch.stack([ids, wrong], dim=1).flatten(0, 1)
        logits = self.network.match(tokens, beside)
        assert isinstance(logits, Tensor)
        right, wrong = logits.view(count, 2, 2).unbind(dim=1)
        turned = self.network.match(tokens[images], ids)
        assert isinstance(turned, Tensor)
        return torch.cat([right, wrong[has_text], turned[has_image]])

    def _padded(self, ids: Tensor, width: int) -> Tensor:
        """Texts (n, L) as (n, width)."""
        return F.pad(ids, (0, width - ids.shape[1]), value=self._pad)

    def _prompted(self, ids: Tensor) -> Tensor:
        """Ids with the prompt before each caption, cut to the decoder's context."""
        assert self.config.decoder is not None
        if self.prompt:
            prompt = ids.new_tensor(self.prompt).expand(len(ids), -1)
            ids = torch.cat([ids[:, :1], prompt, ids[:, 1:]], dim=1)
        return ids[:, : self.config.decoder.context]

    def _answers(self, work: Work, tokens: Tensor) -> Tensor:
        """Minus the log-likelihoods of the answers, of the images of which something was asked, 0
        for what was not; all 0, from a look at the first image, where nothing was asked of any: all
        processes do the same."""
        questions, answers, asked = work.questions, work.answers, work.asked
        assert questions is not None
        assert answers is not None
        assert asked is not None
        rows = asked.any(dim=1).nonzero()[:, 0]
        if not len(rows):
            rows = asked.new_zeros(1, dtype=torch.int64)
        ids = questions[rows].flatten(0, 1)
        states = self.network.cross_attend(ids, tokens[rows])
        said = self._said(
            answers[rows].flatten(0, 1), states, self.network.question_mask(ids, states)
        )
        return said * asked[rows].flatten()

    def _said(
        self, ids: Tensor, context: Tensor, mask: Tensor | None = None, skip: int = 0
    ) -> Tensor:
        """Minus the log-likelihood (R,) of texts (R, L) but for their first `skip` words."""
        assert self.config.decoder is not None
        given = ids[:, :-1].clone()
        given[:, 0] = self.config.decoder.start_token
        wanted = ids[:, 1:].masked_fill(ids[:, 1:] == self._pad, losses.IGNORED)
        wanted[:, :skip] = losses.IGNORED
        logits = self.network.words(self.network.decode(given, context, mask))
        return losses.language_modelling(logits, wanted, self.recipe.smoothing)

    # --- behind the network

    def loss(self, work: Work, *outputs: Tensor) -> Tensor:
        image, text, scale, matching, captions, answers = outputs
        blip, rows = self.blip, len(work)
        words, questions = work.each
        parts: dict[str, tuple[float, Tensor]] = {}
        self.noted = {}
        if blip.contrast:
            parts["contrast"] = blip.contrast, self._contrast(work, image, text, scale)
        if blip.match:
            together = torch.arange(len(matching), device=matching.device) < rows
            parts["match"] = blip.match, losses.matching(matching, together)
            right = (matching.argmax(dim=1) == together).float().mean()
            self.noted["match accuracy"] = right.item()
        if blip.caption:
            parts["caption"] = blip.caption, captions.sum() / (rows * words)
        if blip.answer and questions:
            parts["answer"] = blip.answer, answers.sum() / (rows * questions)
        self.noted |= {name: value.item() for name, (_, value) in parts.items()}
        return torch.stack([weight * value for weight, value in parts.values()]).sum()

    def _contrast(self, work: Work, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """The mean over both ways."""
        assert work.true is not None
        images, texts = work.known or (image, text)
        if not work.known and self.world.size > 1:
            images, texts = distributed.gather(image), distributed.gather(text)
        guesses: list[Tensor | None] = [None, None]
        share: Tensor | float = 0.0
        if work.teacher:
            seen, read, share = work.teacher
            guesses = [scale.detach() * seen @ texts.mT, scale.detach() * read @ images.mT]
        true = work.true.unbind(dim=1)
        ways = (scale * image @ texts.mT, scale * text @ images.mT)
        both = [
            losses.soft_contrastive(logits, each, guess, share)
            for logits, each, guess in zip(ways, true, guesses, strict=True)
        ]
        return (both[0] + both[1]) / 2

    def metrics(self) -> dict[str, float]:
        """The parts of the loss, and the share of pairs judged right, of this process's last rows.
        An accuracy of 2/3, with a match of 0.63, is that of one who says "apart" to everything."""
        if self.config.embed_dim:
            return {**self.noted, "scale": float(self.network.scale.detach())}
        return self.noted

    def kept(self) -> dict[str, Tensor]:
        return {"images": self.images, "texts": self.texts, "says": self.says}

    def resume(self, kept: Mapping[str, Tensor]) -> None:
        for name, value in kept.items():
            setattr(self, name, value.to(self.world.device))


class _Features(nn.Module):
    """What is asked of momentum encoders."""

    def __init__(self, network: Blip) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        image = self.network.image_features(self.network.image_tokens(pixels))
        return image, F.normalize(self.network.text(ids).float(), dim=-1)


def negatives(likely: Tensor | None, apart: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n rows a column (n,) that is apart from it, the likelier the more often, by
    logits (n, n) or evenly; and whether it has one (n,)."""
    chances = apart.float() if likely is None else (likely.softmax(dim=1) + LEAST) * apart
    has = apart.any(dim=1)
    chances[~has] = 1.0  # something to draw from
    return torch.multinomial(chances, 1)[:, 0], has


def _keys(says: Sequence[frozenset[str]]) -> Tensor:
    """A number (n,) for what each text says, the same in every process and run."""
    texts = ["\n".join(sorted(facts)) for facts in says]
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(each, "big", signed=True) for each in digests])
