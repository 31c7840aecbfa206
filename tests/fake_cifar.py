"""Folders of a few random images in the published layout of CIFAR-10 and CIFAR-100, for tests without the data sets."""

import hashlib
import pickle

import numpy as np
from torchvision.datasets import CIFAR100


def write_fake(reader, root, counts):
    """Write a folder as torchvision's reader expects it: file → how many random images, labelled 0, 1, … in turn."""
    folder = root / reader.base_folder
    folder.mkdir()
    classes = 100 if reader is CIFAR100 else 10
    meta = {reader.meta["key"]: [str(i) for i in range(classes)]}
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps(meta))
    labels = "fine_labels" if reader is CIFAR100 else "labels"
    pixels = np.random.RandomState(0)
    for name, count in counts.items():
        data = pixels.randint(0, 256, (count, 3072), dtype=np.uint8)
        content = {"data": data, labels: [i % classes for i in range(count)], "coarse_labels": [9] * count}
        (folder / name).write_bytes(pickle.dumps(content))


def take_for_published(reader, root, names, patch):
    """Let torchvision take these files' checksums for the published ones."""

    def md5(name):
        return hashlib.md5((root / reader.base_folder / name).read_bytes()).hexdigest()

    published = [[name, md5(name)] for name in names]
    patch.setattr(reader, "train_list", [each for each in published if "test" not in each[0]])
    patch.setattr(reader, "test_list", [each for each in published if "test" in each[0]])
    patch.setattr(reader, "meta", {**reader.meta, "md5": md5(reader.meta["filename"])})
