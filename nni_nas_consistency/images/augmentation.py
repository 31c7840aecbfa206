"""Which transforms the training images of a recipe go through, as a value.

Nothing here imports torch, so that the command line builds and checks recipes at once; `transforms.py` and `mixing.py`
apply them. Left out: those that no recipe here uses (resizing, hue).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nni_nas_consistency.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Random transforms, applied in the order crop, brightness, contrast, flip, rotation, cutout, normalisation.

    Every image draws parameters of its own. By default images are only normalised.

    Args:
        mean: Mean of each channel, of pixels scaled to [0, 1]; it is subtracted.
        std: Standard deviation of each channel, positive; the result is divided by it.
        crop_padding: Padding on each side, in pixels, before a random crop to the image's own size; 0 for none.
        padding: What the padding is: `zeros`, or the image mirrored at its border pixels (`reflect`).
        flip: Whether an image is mirrored left to right with probability 1/2.
        rotation: In degrees, in [0, 180]; the angle is uniform in [-rotation, rotation]. Nearest-neighbour sampling,
            zeros outside the image.
        brightness: In [0, 1]; pixels are multiplied by a factor uniform in [1 - brightness, 1 + brightness].
        contrast: In [0, 1]; the distance of pixels from the mean of the greyscale image is multiplied by a factor
            uniform in [1 - contrast, 1 + contrast].
        jitter_probability: Probability that brightness changes and, independently, that contrast does.
        cutout: Side of a square of zeros, in pixels, whose centre is uniform over the image and which is clipped at the
            border (DeVries and Taylor, 2017, arXiv:1708.04552). It comes before normalisation: the square is black, not
            the mean colour.
        cutout_style: `clipped`, as above; `inside`: the square lies wholly in the image, uniformly, and has the mean
            colour.

    Raises:
        InputError: A setting is out of its range, `mean` and `std` differ in length, or `contrast` is set for a number
            of channels other than 1 and 3.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    padding: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    jitter_probability: float = 0.5
    cutout: int = 0
    cutout_style: Literal["clipped", "inside"] = "clipped"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise InputError(f"mean {self.mean} and std {self.std} differ in length; give one of each per channel")
        if not all(value > 0 for value in self.std):
            raise InputError(f"std is {self.std}; it must be positive in every channel")
        if self.contrast and len(self.mean) not in (1, 3):
            raise InputError(
                f"contrast is {self.contrast} for {len(self.mean)} channels; it needs 1 or 3: set contrast to 0"
            )
        _check_not_negative("crop_padding", self.crop_padding)
        _check_not_negative("cutout", self.cutout)
        _check_range("rotation", self.rotation, 180)
        _check_range("brightness", self.brightness, 1)
        _check_range("contrast", self.contrast, 1)
        _check_range("jitter_probability", self.jitter_probability, 1)


@dataclass(frozen=True)
class Mixing:
    """How the images of a training batch are mixed with each other, and their labels smoothed; by default not at all.

    Every batch is mixed, by mixup or cutmix with equal probability where both are set.

    Args:
        label_smoothing: In [0, 1); so much of each label is spread evenly over all classes.
        mixup: The share of the other image is drawn from Beta(mixup, mixup) (Zhang et al. 2018); 0: no mixup.
        cutmix: The area that is cut from the other image is drawn from Beta(cutmix, cutmix) (Yun et al. 2019); 0: no
            cutmix.

    Raises:
        InputError: A setting is out of its range.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} is {value}; it must be at least 0, 0 for none")

    @property
    def softens(self) -> bool:
        """Whether labels become probabilities."""
        return bool(self.label_smoothing or self.mixup or self.cutmix)


UNMIXED = Mixing()


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise InputError(f"{name} is {value}; it must be at least 0 pixels")


def _check_range(name: str, value: float, largest: float) -> None:
    if not 0 <= value <= largest:
        raise InputError(f"{name} is {value}; it must lie in [0, {largest}]")


# How the reference accuracies were trained. These std are as published; over all pixels they are 0.267, 0.256, 0.276.
CIFAR100_TEST = Augmentation(mean=(0.5071, 0.4865, 0.4409), std=(0.1942, 0.1918, 0.1958))
CIFAR100_TRAIN = Augmentation(
    CIFAR100_TEST.mean, CIFAR100_TEST.std, crop_padding=4, flip=True, rotation=15.0, brightness=0.1, contrast=0.1
)
# Recipe "ans": no colour jitter, cutout of 16 pixels.
CIFAR100_ANS = Augmentation(CIFAR100_TEST.mean, CIFAR100_TEST.std, crop_padding=4, flip=True, rotation=15.0, cutout=16)

# Mean and standard deviation over all pixels of the training images.
CIFAR10_TEST = Augmentation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CIFAR10_TRAIN = Augmentation(CIFAR10_TEST.mean, CIFAR10_TEST.std, crop_padding=4, flip=True)

# The fast training of SPOS-CIFAR's tuned network, in 24 epochs.
CIFAR10_FAST = Augmentation(
    CIFAR10_TEST.mean,
    CIFAR10_TEST.std,
    crop_padding=4,
    padding="reflect",
    flip=True,
    cutout=8,
    cutout_style="inside",
)
CIFAR100_FAST = replace(CIFAR10_FAST, mean=CIFAR100_TEST.mean, std=CIFAR100_TEST.std)

# Of ImageNet (CVPR 2022 track 1). Decoding, resizing and random resized crops are done by the reader of the folder.
IMAGENET_TEST = Augmentation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET_TRAIN = Augmentation(IMAGENET_TEST.mean, IMAGENET_TEST.std, flip=True)

# Over all pixels of the training images, at 8×8 pixels; upsampled digits keep the mean, their std is 0.32. No flip: a
# mirrored 2 is not a 2.
DIGITS_TEST = Augmentation(mean=(0.3060,), std=(0.3764,))
DIGITS_TRAIN = Augmentation(DIGITS_TEST.mean, DIGITS_TEST.std, crop_padding=1)
DIGITS_FAST = replace(DIGITS_TRAIN, padding="reflect", cutout=2, cutout_style="inside")
