"""How few test images rank archs as all of them do: chosen images against as many at random.

    python benchmarks/image_choice.py --checkpoint resnet20-cifar100 --archs Track1_final_archs.json --data-root data

Scores archs of the list, drawn at random, on every test image, in the batches of `score`; keeps these scores in
`--scores`, since they take most of the time. Images are chosen by one half of the archs; Kendall's tau between the
ranking by some images and by all is that of the other half. Each figure is a median over `--splits` splits into halves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import torch
from scipy.stats import kendalltau
from side_by_side import machine
from torch import Tensor

from nni_nas_consistency.cli.console import progress
from nni_nas_consistency.cli.parse import system_and_data
from nni_nas_consistency.jobs import first_archs, load_trained
from nni_nas_consistency.scoring.image_choice import scores_of_images, select_images
from nni_nas_consistency.scoring.images import image_scoring


def main() -> None:
    options = read_options()
    scores = torch.load(options.scores)["scores"] if options.scores.is_file() else score_images(options)
    figures: dict[str, float] = {}
    for count in options.counts:
        figures |= agreement(scores, count, options.splits)
        print(figures)
    told = ("checkpoint", "archs", "skip", "drawn", "splits")
    settings = {name: str(value) for name, value in vars(options).items() if name in told}
    settings["archs"] = options.archs.name
    document = {"machine": machine("cpu"), "settings": settings, "archs": len(scores), "figures": figures}
    options.json.write_text(json.dumps(document, indent=1) + "\n")


def score_images(options: argparse.Namespace) -> Tensor:
    """Return the scores of all test images in some archs of the list, [A, N], and keep them."""
    system, data = system_and_data(None, None, checkpoint=options.checkpoint)
    listed = list(first_archs(options.archs, system, None).values())[options.skip :]
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(0))[: options.drawn]
    test = data.images(options.data_root, train=False)
    supernet, _ = load_trained(system, options.checkpoint, test.shape)
    with progress(options.drawn * len(test), "images") as advance:
        scoring = image_scoring(test, data.test)
        scores = scores_of_images(supernet, [listed[index] for index in order], scoring, progress=advance)
    torch.save({"scores": scores}, options.scores)
    return scores


def agreement(scores: Tensor, count: int, splits: int) -> dict[str, float]:
    """Return the median agreement with all images of chosen images, and of random ones."""
    chosen, random = [], []
    for split in range(splits):
        generator = torch.Generator().manual_seed(split)
        order = torch.randperm(len(scores), generator=generator)
        choosing, checking = scores[order[::2]], scores[order[1::2]]
        chosen.append(tau(checking, select_images(choosing, count, generator)))
        random.append(tau(checking, torch.randperm(scores.shape[1], generator=generator)[:count]))
    return {f"kendall_chosen_of_{count}": median(chosen), f"kendall_random_of_{count}": median(random)}


def tau(scores: Tensor, images: Tensor) -> float:
    some, every = scores[:, images].double().mean(1), scores.double().mean(1)
    return float(kendalltau(some.tolist(), every.tolist()).statistic)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("resnet20-cifar100"))
    parser.add_argument("--archs", type=Path, required=True, help="the released list")
    parser.add_argument("--skip", type=int, default=300, help="leave out the first archs, whose references are known")
    parser.add_argument("--drawn", type=int, default=200, help="archs that are scored")
    parser.add_argument("--counts", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--scores", type=Path, default=Path("image-scores.pt"))
    parser.add_argument("--json", type=Path, default=Path("image-choice.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
