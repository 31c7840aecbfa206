"""A list of archs, and ways to score it that stop in between; for the tests of lists, shards and journals."""

from contextlib import nullcontext

from helpers import random_archs, random_batch, tiny_supernet

from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring.arch_list import Shard, score_list
from nni_nas_consistency.scoring.scoring import Scoring

TEST = [random_batch(size, seed) for seed, size in enumerate((8, 8, 5))]
TRAIN = [random_batch(size, seed) for seed, size in enumerate((6, 3), 10)]
ARCHS = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 21, seed=5), 1)}
MADE_BY = {"seed": 3, "checkpoint": "a"}


def scoring(metric="loss", bn="batch"):
    return Scoring(metric, bn, lambda: iter(TEST), lambda: iter(TRAIN))


def score_shard(out, index=1, count=1, *, made_by=MADE_BY, archs=ARCHS, how=None, **settings):
    how = how or scoring()
    return score_list(tiny_supernet(), archs, how, out=out, provenance=made_by, shard=Shard(index, count), **settings)


class Killed(BaseException):
    """Stands for the moment of a kill, where a process of its own would be slow."""


def killed_after(segments):
    """Return a progress that dies while the segment after so many, of three archs each, is scored."""

    def progress(total, what):
        left = [3 * segments]

        def advance(done):
            left[0] -= done
            if left[0] < -1e-6:
                raise Killed

        return nullcontext(advance)

    return progress


def counting(calls):
    """Return a progress that notes totals and what is counted, with the calls that follow."""

    def progress(total, what):
        calls.append((total, what, done := []))
        return nullcontext(done.append)

    return progress


def scores_in(path, codec=DIGITS.codec):
    return {name: score for name, (_, score) in read_scores(path, codec).scores.items()}
