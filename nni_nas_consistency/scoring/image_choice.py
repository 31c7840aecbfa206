"""Choose few images on which archs rank as on all of them.

The score of an arch is the mean of its images' losses. Of the images of a set, some hundreds are chosen whose mean
follows that of all from arch to arch: subset selection by exchange (Fedorov 1972, as for optimal designs), on archs
whose losses on all images are known. Neither reference accuracies nor labels of archs take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.files.progress import Progress
from nni_nas_consistency.scoring.memory import image_chunks
from nni_nas_consistency.scoring.plain import evaluation_mode
from nni_nas_consistency.scoring.scoring import Scoring, image_scores
from nni_nas_consistency.scoring.trie import Walk, sorted_by_keys
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.statistics import OfEachBatch

ROUNDS = 20
"""Exchanges per chosen image, after which hardly any lowers the error."""


RANDOM_DRAWS = 3
"""How often as many images are drawn at random, for comparison."""


@torch.no_grad()
def scores_of_images(supernet: ChainSpace, archs: Sequence[Arch], scoring: Scoring, *, progress: Progress) -> Tensor:
    """Return the negative cross-entropy of every image in every arch, with the statistics of its batch.

    Args:
        supernet: A chain space after `make_supernet`, whose links share prefixes.
        archs: A archs.
        scoring: The images, in batches; `bn` must be `batch`.
        progress: Progress callback, counted in archs times images.

    Returns:
        float32 [A, N] on the CPU.
    """
    distinct = sorted_by_keys(supernet, archs)
    places_of: dict[str, list[int]] = {arch.code: [] for arch in distinct}
    for place, arch in enumerate(archs):
        places_of[arch.code].append(place)
    active = active_of(supernet)
    before = active.run
    columns = []
    try:
        with evaluation_mode(cast("nn.Module", supernet)):
            for chunk in image_chunks(scoring.test(), 1):
                columns.append(torch.empty(len(archs), len(chunk.labels)))
                walk = Walk(supernet, distinct, 1, chunk, lambda run: OfEachBatch(1))
                for (place,), logits in walk.leaves():
                    columns[-1][places_of[distinct[place].code]] = image_scores(logits, chunk.labels)[0].float().cpu()
                    progress(len(chunk.labels))
    finally:
        active.run = before
    return torch.cat(columns, 1)


def select_images(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the images whose mean score differs from the mean over all by the same amount in every arch, or nearly.

    Images are exchanged one by one, each for the one that lowers the sum of squared differences most, until none does.

    Args:
        scores: Of every image in every arch, [A, N]; an offset that all archs share changes no ranking.
        count: Number of images, 1 to N.
        generator: Where the first choice and the order of the exchanges come from.

    Returns:
        int64 [count], ascending.
    """
    offsets = scores.double() - scores.double().mean(0)
    offsets -= offsets.mean(1, keepdim=True)
    norms = offsets.square().sum(0)
    order = torch.randperm(scores.shape[1], generator=generator)
    chosen = order[:count].tolist()
    free = torch.zeros(scores.shape[1], dtype=torch.float64)
    free[chosen] = torch.inf
    total = offsets[:, chosen].sum(1)
    places = torch.randint(count, (ROUNDS * count,), generator=generator).tolist()
    for place in places:
        old = chosen[place]
        without = total - offsets[:, old]
        errors = norms + 2 * (without @ offsets)
        new = int((errors + free).argmin())
        if errors[new] < errors[old]:
            free[old], free[new] = 0.0, torch.inf
            chosen[place], total = new, without + offsets[:, new]
    return torch.tensor(sorted(chosen))


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between the ranking by some images and the ranking by all.

    Args:
        chosen: By the images that were chosen.
        random: By as many images at random, of each draw.
    """

    chosen: float
    random: tuple[float, ...]


def agreement_of(
    scores: Tensor, chosen: Tensor, generator: torch.Generator, scores_on: Callable[[Sequence[int]], Tensor]
) -> Agreement:
    """Return how archs rank that are scored anew on chosen images, in the batches which these make.

    Args:
        scores: Of every image in every arch, [A, N]; of archs that took no part in the choice.
        chosen: The images, int64 [count].
        generator: Where the random images come from.
        scores_on: Returns the scores of images, given by their indices, in the same archs: [A, count].
    """
    by_all = scores.double().mean(1).tolist()

    def tau(images: Tensor) -> float:
        return float(kendalltau(scores_on(images.tolist()).double().mean(1).tolist(), by_all).statistic)

    draws = [torch.randperm(scores.shape[1], generator=generator)[: len(chosen)] for _ in range(RANDOM_DRAWS)]
    return Agreement(tau(chosen), tuple(tau(images) for images in draws))
