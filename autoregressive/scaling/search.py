"""Test-time scaling (NEP paper): draw an image's worst cells again, keep what a reward likes better.

batch = TaskBatch(pipeline, [Task("a red circle at the top left, gray background")])
result = search(batch, build_reward("shapes", pipeline), SearchSettings(rounds=4))[0]
result.image.save("circle.png")

The paper publishes neither the number of cells nor that of candidates: here they are settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.choices import REGIONS
from autoregressive.scaling.regions import propose_cells
from autoregressive.scaling.reward import Reward
from autoregressive.scaling.tasks import TaskBatch
from runtime.errors import UserError, require_known

REVISED_SHARE = 0.25  # of the free cells, where no number is given


@dataclass(frozen=True)
class SearchSettings:
    """How a search spends its tokens."""

    rounds: int = 4
    candidates: int = 4
    """Ways in which a round draws its cells, each in a random order of its own."""
    cells: int | None = None
    """Cells that a round draws again, at most the free ones; a quarter of these by default."""
    region: str = "lowest"
    """How they are chosen, see `propose_cells`."""
    token_budget: int | None = None
    """Codes that one task may draw in all, the first image included; no limit by default."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.candidates < 1:
            raise UserError(
                f"rounds={self.rounds}, candidates={self.candidates}: take 0 or more rounds of 1 or more"
            )
        if self.cells is not None and self.cells < 1:
            raise UserError(f"cells={self.cells}: draw at least 1 cell again")
        require_known("region", self.region, REGIONS)

    def cells_a_round(self, num_free: Tensor) -> Tensor:
        """(P,) cells that a round draws again, of (P,) free ones."""
        if self.cells is not None:
            return num_free.clamp(max=self.cells)
        return (num_free * REVISED_SHARE).ceil().long()

    def cost(self, num_free: Tensor) -> Tensor:
        """(P,) codes that a search draws in all rounds that the budget allows, of (P,) free cells."""
        per_round = self.cells_a_round(num_free) * self.candidates
        rounds = torch.full_like(num_free, self.rounds)
        if self.token_budget is not None:
            rounds = rounds.minimum((self.token_budget - num_free).clamp(min=0) // per_round)
        return num_free + rounds * per_round

    def num_images(self, num_free: Tensor) -> Tensor:
        """(P,) whole images that cost as much as a search: rounded up, unless that passes the budget."""
        images = -(-self.cost(num_free) // num_free)
        return images if self.token_budget is None else images.minimum(self.token_budget // num_free)


@dataclass(frozen=True)
class Round:
    """One attempt to improve an image; the first one of a result draws it.

    Attributes:
      best_candidate: the highest reward among the round's images.
      accepted: whether that image is kept from here on.
      reward: of the image that is kept after the round.
      cells: raster numbers of those drawn in the round.
      tokens_spent: codes drawn so far, this round's included.
      image: the accepted image, else None.
    """

    best_candidate: float
    accepted: bool
    reward: float
    cells: list[int]
    tokens_spent: int
    image: Image.Image | None


@dataclass
class SearchResult:
    """What became of one task: the best image, its codes (N,), its reward, and how it came about."""

    image: Image.Image
    codes: Tensor
    reward: float
    rounds: list[Round] = field(default_factory=list)

    @property
    def tokens_spent(self) -> int:
        return self.rounds[-1].tokens_spent

    def image_after(self, number: int) -> Image.Image:
        """The image that is kept after the round `number`; 0: the first one. A search may end earlier."""
        return [r.image for r in self.rounds[: number + 1] if r.image is not None][-1]

    def reward_after(self, token_budget: int) -> float:
        """The reward of the best image that `token_budget` codes have bought; -inf for less than one."""
        bought = [r.reward for r in self.rounds if r.tokens_spent <= token_budget]
        return max(bought, default=-torch.inf)


def search(batch: TaskBatch, reward: Reward, settings: SearchSettings | None = None) -> list[SearchResult]:
    """Draws every task once, then improves the images in rounds, all tasks side by side.

    A round drops the lowest cells, draws them again in several random orders given all others, and accepts
    the candidate with the highest reward only if it beats the image as it is. A task is done when its next
    round would pass the budget, or when its reward cannot rise.

    Returns:
      One result a task; its batch makes no difference, but for rounding in the decoder.
    Raises:
      UserError: a budget too small for one image, a reward that is not a number.
    """
    settings = settings or SearchSettings()
    num_free = batch.free.sum(1)
    _check_budget(settings, num_free)
    cells_a_round, in_all = settings.cells_a_round(num_free), settings.cost(num_free).tolist()
    results = _first_images(batch, reward)
    for number in range(1, settings.rounds + 1):
        going = [
            i
            for i, result in enumerate(results)
            if result.tokens_spent < in_all[i] and result.reward < reward.highest
        ]
        if not going:
            break
        held = [results[i] for i in going]
        part, counts = batch.rows(going), cells_a_round[going]
        _revise(part, held, reward, settings, counts, number)
    return results


def best_of_n(batch: TaskBatch, reward: Reward, settings: SearchSettings | None = None) -> list[SearchResult]:
    """The baseline: whole images for as many codes as `search` may draw; the best one stays.

    The first image is the one that `search` starts from, and each further one counts as a round.

    Args:
      settings: those of the search; see `SearchSettings.num_images`.
    """
    settings = settings or SearchSettings()
    num_free = batch.free.sum(1)
    _check_budget(settings, num_free)
    num_images = settings.num_images(num_free)
    results = _first_images(batch, reward)
    for number in range(1, int(num_images.max())):
        going = (num_images > number).nonzero().flatten().tolist()
        part = batch.rows(going)
        codes, images, scores = _whole_images(part, reward, number)
        for i, row in enumerate(going):
            one, cells = slice(i, i + 1), _numbers(part.free[i])
            _take_best(results[row], images[one], codes[one], scores[one], cells)
    return results


def _whole_images(
    batch: TaskBatch, reward: Reward, number: int
) -> tuple[Tensor, list[Image.Image], list[float]]:
    """Codes, image and reward of every task's image of that number."""
    codes = batch.draw(batch.seeds(0, 1, first=number))
    images = batch.render(codes)
    return codes, images, _score(reward, images, batch.captions)


def _first_images(batch: TaskBatch, reward: Reward) -> list[SearchResult]:
    found = zip(*_whole_images(batch, reward, 0), batch.free, strict=True)
    return [_start(image, code, score, _numbers(free)) for code, image, score, free in found]


def _numbers(cells: Tensor) -> list[int]:
    """(N,) bool → raster numbers."""
    return cells.nonzero().flatten().tolist()


def _revise(
    batch: TaskBatch,
    held: list[SearchResult],
    reward: Reward,
    settings: SearchSettings,
    counts: Tensor,
    number: int,
) -> None:
    """One round: writes into `held`, the batch's results so far."""
    codes = torch.stack([result.codes for result in held])
    current = [result.image for result in held]
    seeds = batch.seeds(number, 1)
    region = propose_cells(settings.region, batch, codes, current, reward, counts=counts, seeds=seeds)
    num = settings.candidates
    candidates = batch.draw_again(codes, region, batch.seeds(number, num))
    images = batch.render(candidates)
    scores = _score(reward, images, [text for text in batch.captions for _ in range(num)])
    for i, result in enumerate(held):
        mine = slice(i * num, (i + 1) * num)
        _take_best(result, images[mine], candidates[mine], scores[mine], _numbers(region[i]))


def _start(image: Image.Image, codes: Tensor, score: float, free: list[int]) -> SearchResult:
    return SearchResult(image, codes, score, [Round(score, True, score, free, len(free), image)])


def _take_best(
    result: SearchResult, images: list[Image.Image], codes: Tensor, scores: list[float], cells: list[int]
) -> None:
    """Adds a round to `result` and, if one of the candidates is better, takes it."""
    best = max(range(len(scores)), key=scores.__getitem__)
    accepted = scores[best] > result.reward
    if accepted:
        result.image, result.codes, result.reward = images[best], codes[best], scores[best]
    spent = result.tokens_spent + len(cells) * len(scores)
    image = images[best] if accepted else None
    result.rounds.append(Round(scores[best], accepted, result.reward, cells, spent, image))


def _score(reward: Reward, images: list[Image.Image], texts: list[str]) -> list[float]:
    try:
        scores = reward.score(images, texts)
    except SystemExit as error:  # of the user's own reward: the program would end as if it were done
        raise UserError(
            f"the reward {reward.name!r} called sys.exit({error.code!r}); let it raise an exception"
        ) from error
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).nonzero()[0])
        raise UserError(f"the reward {reward.name!r} of an image of {texts[bad]!r} is {scores[bad].item()}")
    return scores.tolist()


def _check_budget(settings: SearchSettings, num_free: Tensor) -> None:
    if settings.token_budget is not None and (num_free > settings.token_budget).any():
        raise UserError(
            f"a token budget of {settings.token_budget} is less than the {num_free.max().item()} codes of "
            "one image; raise it"
        )
