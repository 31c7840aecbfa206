"""What recipe cvpr2022 and a scoring of the 45,000 released archs cost on ImageNet, computed from stated rates.

    python examples/cvpr2022/cost.py --flops 100e12 --decoded 300

Nothing is run: MACs are counted and divided by the rates. A training step costs three forward passes.
"""

import argparse

from nni_nas_consistency.systems import CVPR2022, IMAGENET
from nni_nas_consistency.training.recipes import SUPERNET_2022

FORWARD_AND_BACKWARD = 3
FULL = CVPR2022.cost(CVPR2022.domain.largest, IMAGENET.shape).macs
MEAN = 2.97e9
"""MACs of an arch of the released list, the mean over its 45,000."""
SAVED = 0.486
"""Share of the MACs that shared prefixes save on that list (docs/decisions/0020-cvpr2022.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Hours that recipe cvpr2022 takes on ImageNet, from stated rates.")
    parser.add_argument("--flops", type=float, default=100e12, help="floating-point operations per second of a GPU")
    parser.add_argument("--decoded", type=float, default=300, help="training images per second that a process decodes")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode for each GPU")
    parser.add_argument("--gpus", type=int, default=4, help="GPUs that train together, and score a shard each")
    rates = parser.parse_args()
    images, tested = IMAGENET.counts
    full, subnets = SUPERNET_2022.phases
    steps = {
        "full network": full.optimization.epochs * images * FORWARD_AND_BACKWARD * FULL,
        "subnets": subnets.optimization.epochs * images * (subnets.n * FORWARD_AND_BACKWARD * MEAN + FULL),
    }
    epochs = {"full network": full.optimization.epochs, "subnets": subnets.optimization.epochs}
    for phase, macs in steps.items():
        decoding = epochs[phase] * images / (rates.decoded * rates.workers * rates.gpus) / 3600
        one = hours(macs, rates.flops)
        print(f"{phase}: {one / rates.gpus:.1f} h on {rates.gpus} GPUs, {one:.1f} on one; {decoding:.1f} h to decode")
    scoring = 45_000 * tested * MEAN * (1 - SAVED)
    one = hours(scoring, rates.flops)
    print(f"scores of 45,000 archs: {one / rates.gpus:.1f} h on {rates.gpus} GPUs, {one:.1f} on one")


def hours(macs: float, flops: float) -> float:
    return 2 * macs / flops / 3600


if __name__ == "__main__":
    main()
