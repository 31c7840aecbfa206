"""Random crops, colour jitter, flips, rotations and cutout for a batch of images at once, on the images' device.

The random parameters are drawn on the CPU, so that a seed gives the same images on every device. Every transform
equals torchvision's on each image by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import Augmentation

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


@dataclass(frozen=True, eq=False)
class TransformParameters:
    """The random parameters of B images; every tensor has shape [B] and is on the CPU.

    Args:
        top: First row of the crop in the padded image, int64, 0 to twice the padding.
        left: First column of the crop, likewise.
        brightness: Factor, float32; 1 changes nothing.
        contrast: Factor, float32; 1 changes nothing.
        flip: Whether the image is mirrored left to right, bool.
        angle: Degrees, counter-clockwise, float64.
        cutout_row: Row of the centre of the cutout square, int64, in the image.
        cutout_column: Column of that centre, likewise.
    """

    top: Tensor
    left: Tensor
    brightness: Tensor
    contrast: Tensor
    flip: Tensor
    angle: Tensor
    cutout_row: Tensor
    cutout_column: Tensor

    def part(self, mine: slice) -> TransformParameters:
        """Return the parameters of some of the images."""
        return TransformParameters(
            self.top[mine],
            self.left[mine],
            self.brightness[mine],
            self.contrast[mine],
            self.flip[mine],
            self.angle[mine],
            self.cutout_row[mine],
            self.cutout_column[mine],
        )


def draw_parameters(
    augmentation: Augmentation, count: int, size: tuple[int, int], generator: torch.Generator
) -> TransformParameters:
    """Return random parameters for `count` images, independent for each image.

    The generator advances by the same amount whichever transforms are switched on: a recipe keeps its crops when its
    rotation is removed.

    Args:
        augmentation: The ranges to draw from.
        count: Number of images B.
        size: Height and width of the images, in pixels.
        generator: A generator on the CPU.
    """
    offsets = 2 * augmentation.crop_padding + 1
    probability = augmentation.jitter_probability
    inside = augmentation.cutout_style == "inside"
    first_row, rows = _centres(augmentation.cutout, size[0], inside=inside)
    first_column, columns = _centres(augmentation.cutout, size[1], inside=inside)
    return TransformParameters(
        top=_integers(count, offsets, generator),
        left=_integers(count, offsets, generator),
        brightness=_factors(count, augmentation.brightness, probability, generator),
        contrast=_factors(count, augmentation.contrast, probability, generator),
        flip=(torch.rand(count, generator=generator) < 0.5) & augmentation.flip,
        angle=augmentation.rotation * _signed(count, generator),
        cutout_row=first_row + _integers(count, rows, generator),
        cutout_column=first_column + _integers(count, columns, generator),
    )


def _centres(cutout: int, side: int, *, inside: bool) -> tuple[int, int]:
    """Return the first position that the centre of a cutout may have, and how many there are.

    Raises:
        InputError: The square shall lie in the image, but is larger.
    """
    if not inside:
        return 0, side
    if cutout > side:
        raise InputError(f"cutout is {cutout}; a square inside images of {side} pixels has at most {side}")
    return cutout // 2, side - cutout + 1


def _signed(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, dtype=torch.float64, generator=generator) - 1


def _integers(count: int, end: int, generator: torch.Generator) -> Tensor:
    return torch.randint(end, (count,), generator=generator)


def _factors(count: int, spread: float, probability: float, generator: torch.Generator) -> Tensor:
    factors = (1 + spread * _signed(count, generator)).float()
    applied = torch.rand(count, generator=generator) < probability
    return torch.where(applied, factors, 1.0)


def apply_parameters(x: Tensor, augmentation: Augmentation, parameters: TransformParameters) -> Tensor:
    """Return the transformed images, each with its own parameters.

    Args:
        x: uint8 [B, C, H, W].
        augmentation: The transforms, for which `parameters` were drawn.
        parameters: The random parameters of the B images.

    Returns:
        float32 [B, C, H, W], normalised, on the device of `x`.

    Raises:
        InputError: `augmentation` is for another number of channels.
    """
    _check_channels(x, augmentation)
    images = _crop_and_flip(x, augmentation, parameters).float() / 255
    if augmentation.brightness:
        images = _adjust_brightness(images, parameters.brightness)
    if augmentation.contrast:
        images = _adjust_contrast(images, parameters.contrast)
    if augmentation.rotation:
        images = _rotate(images, parameters.angle)
    if augmentation.cutout:
        images = _cut_out(images, augmentation, parameters)
    return _standardise(images, augmentation)


def augment(
    x: Tensor, augmentation: Augmentation, generator: torch.Generator, *, batch: int | None = None, first: int = 0
) -> Tensor:
    """Return randomly transformed images: `draw_parameters`, then `apply_parameters`.

    Args:
        x: uint8 [B, C, H, W].
        augmentation: The transforms.
        generator: A generator on the CPU, whatever the device of `x`.
        batch: Images of the batch that `x` is a part of, for all of which parameters are drawn; None: it is the whole.
        first: Place in that batch of the first image of `x`.

    Returns:
        float32 [B, C, H, W], normalised, on the device of `x`.

    Raises:
        InputError: `augmentation` is for another number of channels.
    """
    height, width = x.shape[-2:]
    count = len(x) if batch is None else batch
    parameters = draw_parameters(augmentation, count, (height, width), generator)
    return apply_parameters(x, augmentation, parameters.part(slice(first, first + len(x))))


def normalise(x: Tensor, augmentation: Augmentation) -> Tensor:
    """Return images as they are evaluated: scaled to [0, 1] and normalised, nothing random.

    Args:
        x: uint8 [B, C, H, W].
        augmentation: Only its `mean` and `std` are used.

    Returns:
        float32 [B, C, H, W], on the device of `x`.

    Raises:
        InputError: `augmentation` is for another number of channels.
    """
    _check_channels(x, augmentation)
    return _standardise(x.float() / 255, augmentation)


def _check_channels(x: Tensor, augmentation: Augmentation) -> None:
    channels = len(augmentation.mean)
    if x.shape[1] != channels:
        raise InputError(
            f"the images have {x.shape[1]} channels, the augmentation has mean and std for {channels}: "
            "use the augmentation of this data set"
        )


def _standardise(images: Tensor, augmentation: Augmentation) -> Tensor:
    mean = images.new_tensor(augmentation.mean).view(-1, 1, 1)
    std = images.new_tensor(augmentation.std).view(-1, 1, 1)
    return (images - mean) / std


def _crop_and_flip(x: Tensor, augmentation: Augmentation, parameters: TransformParameters) -> Tensor:
    # The flip may precede brightness and contrast: neither depends on the order of an image's pixels.
    padding = augmentation.crop_padding
    batch, channels, height, width = x.shape
    if padding and augmentation.padding == "reflect" and padding >= min(height, width):
        raise InputError(f"crop_padding is {padding}; images of {height}×{width} pixels can be mirrored by less only")
    rows = parameters.top[:, None] + torch.arange(height)
    columns = parameters.left[:, None] + torch.arange(width)
    columns = torch.where(parameters.flip[:, None], columns.flip(1), columns)
    if augmentation.padding == "reflect":
        rows, columns, padding = _mirrored(rows - padding, height), _mirrored(columns - padding, width), 0
    # one flat gather takes 0.3 ms for 128 images of 3×32×32 on one thread, indexing by rows and columns 1.6 ms
    source = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(batch, 1, -1).to(x.device)
    padded = pad(x, [padding] * 4).flatten(2)
    return padded.gather(2, source.expand(-1, channels, -1)).view_as(x)


def _mirrored(positions: Tensor, side: int) -> Tensor:
    """Return positions in the image for those beyond its border, which is a mirror: −1 is 1, `side` is `side` − 2."""
    positions = positions.abs()
    return torch.where(positions >= side, 2 * (side - 1) - positions, positions)


def _adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    return (images * factors.to(images.device).view(-1, 1, 1, 1)).clamp_(0, 1)


def _adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    factors = factors.to(images.device).view(-1, 1, 1, 1)
    means = images.mean((2, 3))
    if images.shape[1] == 3:
        means = (means * means.new_tensor(GREY)).sum(1)
    return (images * factors + means.view(-1, 1, 1, 1) * (1 - factors)).clamp_(0, 1)


def _rotate(images: Tensor, angles: Tensor) -> Tensor:
    # Term by term, not as a matrix product: bit for bit torchvision's grid on a CPU, and no TF32 on a GPU, whose
    # 10 bits of precision would sample other pixels.
    height, width = images.shape[-2:]
    turn = torch.deg2rad(-torch.remainder(angles, 360))
    cosine = turn.cos().float().to(images.device).view(-1, 1, 1)
    sine = turn.sin().float().to(images.device).view(-1, 1, 1)
    x = torch.linspace((1 - width) * 0.5, (width - 1) * 0.5, width, device=images.device)
    y = torch.linspace((1 - height) * 0.5, (height - 1) * 0.5, height, device=images.device)[:, None]
    source_x = x * (cosine / (0.5 * width)) + y * (sine / (0.5 * width))
    source_y = x * (-sine / (0.5 * height)) + y * (cosine / (0.5 * height))
    grid = torch.stack([source_x, source_y], dim=-1)
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _cut_out(images: Tensor, augmentation: Augmentation, parameters: TransformParameters) -> Tensor:
    side = augmentation.cutout
    height, width = images.shape[-2:]
    rows = torch.arange(height) - (parameters.cutout_row[:, None] - side // 2)
    columns = torch.arange(width) - (parameters.cutout_column[:, None] - side // 2)
    square = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None, :]
    square = square.to(images.device)
    if augmentation.cutout_style == "inside":
        return torch.where(square, images.new_tensor(augmentation.mean).view(-1, 1, 1), images)
    return images.masked_fill_(square, 0)
