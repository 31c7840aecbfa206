"""One trial of search.yml: score one shard of a released list with the weights of a trained supernet.

NNI shows the archs done as intermediate results and the mean score of the shard as the final one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import nni

from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.images.augmentation import CIFAR100_TEST, DIGITS_TEST, Augmentation
from nni_nas_consistency.images.datasets import Images, cifar100, digits
from nni_nas_consistency.scoring.arch_list import Shard, score_list
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.checkpoint import load_supernet
from nni_nas_consistency.supernet.modules import make_supernet
from nni_nas_consistency.training.lightning import image_scoring

REPORTS = 20  # of a trial; the web page draws one point each


def main() -> None:
    options = read_options()
    shard = Shard(nni.get_next_parameter()["shard"], options.shards)
    space, test, plain = digits_task() if options.data == "digits" else cifar100_task(options.data_root)
    test = test.first(options.images or len(test))
    supernet = make_supernet(space)
    about = load_supernet(options.checkpoint, supernet)
    archs = {name: entry.arch for name, entry in read_released(options.archs, space.form).items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    provenance = {"checkpoint": about, "list": options.archs.name, "data": options.data, "images": len(test)}
    scored = score_list(
        supernet,
        archs,
        image_scoring(test, plain),
        out=options.out,
        provenance=provenance,
        shard=shard,
        progress=reports,
    )
    nni.report_final_result(sum(scored.scores.values()) / len(scored.scores))


@contextmanager
def reports(total: int, what: str) -> Iterator[Callable[[float], None]]:
    every = max(1, math.ceil(total / REPORTS))
    done, told = 0.0, 0

    def advance(more: float) -> None:
        nonlocal done, told
        done += more
        while told + every <= done + 1e-6:
            told += every
            nni.report_intermediate_result(told)

    yield advance


def digits_task() -> tuple[ResNet20Space, Images, Augmentation]:
    return ResNet20Space(10, 1, 8, width_unit=1), digits(train=False), DIGITS_TEST


def cifar100_task(root: Path) -> tuple[ResNet20Space, Images, Augmentation]:
    return ResNet20Space(100), cifar100(root, train=False), CIFAR100_TEST


def read_options() -> argparse.Namespace:
    embedded = Path(str(files("nni_nas_consistency"))) / "assets" / "digits" / "reference.json"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, required=True, help="as many as search.yml has values and trials")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/quickstart/supernet.safetensors"))
    parser.add_argument("--archs", type=Path, default=embedded, help="released list")
    parser.add_argument("--data", choices=["digits", "cifar100"], default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds cifar-100-python")
    parser.add_argument("--images", type=int, help="score on the first so many test images")
    parser.add_argument("--out", type=Path, default=Path("runs/released/scores.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
