"""Score neighbours in a released list with shared prefixes, one by one, and NNI's way, side by side.

    python benchmarks/scoring.py --archs Track1_final_archs.json --limit 200 --images 1000 --data-root data

NNI's way: its own supernet, `freeze` for every arch, then the frozen network on the same batches. All three have the
same weights and score by loss with the statistics of each batch of 512, in turn, each in a process of its own. The
archs come from the middle of the sorted list. A quarter of an hour on two cores with these options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from side_by_side import add_image_options, add_options, finish, nni_supernet, read_images
from timing import interleaved, interleaved_processes

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.domains import RESNET20
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.images.augmentation import CIFAR100_TEST
from nni_nas_consistency.nni3.workarounds import repaired_freeze
from nni_nas_consistency.ranking.statistics import kendall_tau
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.plain import score_archs, score_network
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.supernet.checkpoint import load_supernet
from nni_nas_consistency.supernet.make import make_supernet

WARM_UP = 5  # archs that each way scores before anything is timed


def main() -> None:
    options = read_options()
    names = ["prefix", "plain", "nni", *(["bf16"] if options.bf16 else [])]
    if options.same_process:
        variants = {name: prepare(name, options) for name in names}
        seconds, scores = interleaved(variants, options.repeats, options.device)
    else:
        seconds, scores = interleaved_processes(prepare, names, options)
    figures = {f"speedup_vs_{name}": median(seconds[name]) / median(seconds["prefix"]) for name in ("plain", "nni")}
    figures["max_rel_diff"] = max(
        abs(fast - slow) / abs(slow)
        for name in ("plain", "nni")
        for fast, slow in zip(scores["prefix"], scores[name], strict=True)
    )
    if options.bf16:
        figures = {"kendall_bf16_float32": kendall_tau(scores["bf16"], scores["prefix"])} | figures
    finish(options, seconds, figures)


def prepare(name: str, options: argparse.Namespace) -> Callable[[], list[float]]:
    """Return what scores the archs in one of the ways, warmed up."""
    torch.manual_seed(0)
    supernet = make_supernet(ResNet20Space(100))
    if options.checkpoint:
        load_supernet(options.checkpoint, supernet)
    images = read_images(options, train=False).to(options.device)
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    scoring = image_scoring(images, CIFAR100_TEST, dtype=dtype)
    theirs = nni_supernet(ResNet20Space(100)).to(options.device) if name == "nni" else None
    if theirs is not None:
        theirs.load_state_dict(supernet.state_dict())
    supernet.to(options.device)

    def score(archs: list[Arch]) -> list[float]:
        if theirs is not None:
            with repaired_freeze():
                return [score_network(theirs.freeze(supernet.sample(arch)), scoring).loss for arch in archs]
        if name == "plain":
            return [score.loss for score in score_archs(supernet, archs, scoring)]
        return [score.loss for score in next(score_prefixes(supernet, [archs], scoring))]

    archs = neighbours(options.archs, options.limit)
    score(archs[:WARM_UP])
    return lambda: score(archs)


def neighbours(path: Path | None, limit: int) -> list[Arch]:
    """Return neighbours from the middle of the sorted list."""
    if path is None:
        archs = UniformSampler(RESNET20, torch.Generator().manual_seed(0)).draw(50_000)
    else:
        archs = [entry.arch for entry in read_released(path, RESNET20.codec).values()]
    archs = sorted(archs, key=lambda arch: tuple(arch.choices.values()))
    first = max(0, len(archs) - limit) // 2
    return archs[first : first + limit]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=Path, help="released list; without it, 50,000 uniform archs")
    parser.add_argument("--limit", type=int, default=200, help="archs to score")
    parser.add_argument("--checkpoint", type=Path, help="supernet.safetensors; without it, first weights")
    parser.add_argument("--bf16", action="store_true", help="also compare the ranking in bfloat16")
    parser.add_argument("--same-process", action="store_true", help="all in this process: quick, but less exact")
    add_image_options(parser, images=1000)
    add_options(parser, repeats=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
