"""Write CIFAR-100 as a folder of PNGs, root/train/CLASS/FILE and root/val/CLASS/FILE, to try out what is for ImageNet.

    python examples/cvpr2022/write_folder.py data runs/cifar-folder --classes 20 --train 100 --val 50

`data` holds the published folder `cifar-100-python`. Nothing is resized: the PNGs have 32×32 pixels.
"""

import argparse
import pickle
from pathlib import Path

from PIL import Image

from nni_nas_consistency.images.datasets import cifar100


def main() -> None:
    parser = argparse.ArgumentParser(description="Write CIFAR-100 as a folder of PNGs.")
    parser.add_argument("data", type=Path, help="folder that holds cifar-100-python")
    parser.add_argument("root", type=Path, help="folder to write")
    parser.add_argument("--classes", type=int, default=100, help="the first so many classes")
    parser.add_argument("--train", type=int, default=500, help="the first so many training images of each class")
    parser.add_argument("--val", type=int, default=100, help="the first so many test images of each class")
    words = parser.parse_args()
    for split, is_train, most in (("train", True, words.train), ("val", False, words.val)):
        write_split(words.data, words.root / split, classes=words.classes, most=most, train=is_train)


def write_split(data: Path, folder: Path, *, classes: int, most: int, train: bool) -> None:
    """Write the first images of the first classes, each into the folder of its class."""
    images = cifar100(data, train=train)
    names = pickle.loads((data / "cifar-100-python" / "meta").read_bytes())["fine_label_names"]
    written = [0] * classes
    for index, label in enumerate(images.y.tolist()):
        if label >= classes or written[label] == most:
            continue
        written[label] += 1
        path = folder / names[label] / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.x[index].permute(1, 2, 0).numpy()).save(path)


if __name__ == "__main__":
    main()
