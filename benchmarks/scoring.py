"""Score neighbours of a released list by shared prefixes, one by one, and NNI's way, side by side.

    python benchmarks/scoring.py --archs Track1_final_archs.json --limit 200 --images 1000 --data-root data

NNI's way: its own supernet, `freeze` for every arch, then the frozen network over the same batches. All three have the
same weights and score by loss with the statistics of each batch of 512. The archs are sorted; those scored stand in the
middle of the list. 20 minutes on two cores with the options above.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import torch
from side_by_side import add_image_options, add_options, finish, interleaved, nni_supernet, read_images

from nni_nas_consistency.arch import RESNET20, Arch
from nni_nas_consistency.augmentation import CIFAR100_TEST
from nni_nas_consistency.evaluators import image_scoring
from nni_nas_consistency.ranking import kendall_tau
from nni_nas_consistency.released import read_released
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.scoring.subnet import score_archs, score_network
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.supernet.checkpoint import load_supernet
from nni_nas_consistency.supernet.slimmable import make_supernet

WARM_UP = 5  # archs that each way scores before anything is timed


def main() -> None:
    options = read_options()
    torch.manual_seed(0)
    supernet = make_supernet(ResNet20Space(100))
    if options.checkpoint:
        load_supernet(options.checkpoint, supernet)
    theirs = nni_supernet(ResNet20Space(100))
    theirs.load_state_dict(supernet.state_dict())
    supernet.to(options.device)
    theirs.to(options.device)
    images = read_images(options, train=False).to(options.device)
    scoring = image_scoring(images, CIFAR100_TEST)
    archs = neighbours(options.archs, options.limit)
    scores: dict[str, list[float]] = {}

    def prefix(archs: list[Arch]) -> None:
        scores["prefix"] = next(score_prefixes(supernet, [archs], scoring))

    def plain(archs: list[Arch]) -> None:
        scores["plain"] = list(score_archs(supernet, archs, scoring))

    def nni(archs: list[Arch]) -> None:
        scores["nni"] = [score_network(theirs.freeze(supernet.sample(arch)), scoring) for arch in archs]

    ways = {"prefix": prefix, "plain": plain, "nni": nni}
    for way in ways.values():
        way(archs[:WARM_UP])
    seconds = interleaved(
        {name: lambda way=way: way(archs) for name, way in ways.items()}, options.repeats, options.device
    )
    figures = {}
    if options.bf16:
        half = image_scoring(images, CIFAR100_TEST, dtype=torch.bfloat16)
        figures["kendall_bf16_float32"] = kendall_tau(next(score_prefixes(supernet, [archs], half)), scores["prefix"])
    figures |= {f"speedup_vs_{name}": median(seconds[name]) / median(seconds["prefix"]) for name in ("plain", "nni")}
    figures["max_rel_diff"] = max(
        abs(fast - slow) / abs(slow)
        for name in ("plain", "nni")
        for fast, slow in zip(scores["prefix"], scores[name], strict=True)
    )
    finish(options, seconds, figures)


def neighbours(path: Path | None, limit: int) -> list[Arch]:
    """Return archs that stand side by side in the middle of the sorted list."""
    if path is None:
        archs = UniformSampler(RESNET20, torch.Generator().manual_seed(0)).draw(50_000)
    else:
        archs = [entry.arch for entry in read_released(path, RESNET20).values()]
    archs = sorted(archs, key=lambda arch: arch.choices)
    first = max(0, len(archs) - limit) // 2
    return archs[first : first + limit]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=Path, help="released list; without it, 50,000 uniform archs")
    parser.add_argument("--limit", type=int, default=200, help="archs to score")
    parser.add_argument("--checkpoint", type=Path, help="supernet.safetensors; without it, first weights")
    parser.add_argument("--bf16", action="store_true", help="also compare the ranking in bfloat16")
    add_image_options(parser, images=1000)
    add_options(parser, repeats=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
