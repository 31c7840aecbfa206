"""Small folders of images, written for a test."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def write_images(root, *, classes=CLASSES, train=4, val=3, size=(12, 10), mode="RGB"):
    """Write root/train/CLASS/FILE and root/val/CLASS/FILE with random pixels of a hue that tells the class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            folder = Path(root, split, name)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = generator.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., label % 3] += 150
                Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    return Path(root)


def truncate(path):
    """Cut the second half of a file off."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
