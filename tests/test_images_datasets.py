"""The data sets: what is read, from where, and what is said where it is not there."""

import pickle
import runpy
import shutil
from urllib.error import URLError

import numpy as np
import pytest
import torch
from codes import shared_data
from fake_cifar import take_for_published, write_fake
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms.v2 import functional as F

from nni_nas_consistency.errors import DataError
from nni_nas_consistency.images.augmentation import CIFAR100_TEST
from nni_nas_consistency.images.datasets import Images, cifar10, cifar100, digits

KRIZ = "https://www.cs.toronto.edu/~kriz"


def numbered(count):
    """Images that are told apart by their grey and their label."""
    x = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Images(x, torch.arange(count), count)


def test_images_keep_their_first_n_and_refuse_more_than_there_are():
    first = numbered(7).first(3)
    assert first.y.tolist() == [0, 1, 2] and first.x[:, 0, 0, 0].tolist() == [0, 1, 2] and first.num_classes == 7
    for n in (8, 0, -1):
        with pytest.raises(
            DataError, match=f"^the first {n} images were requested; the data set has 7: choose 1 to 7$"
        ):
            numbered(7).first(n)


def test_images_are_moved_together_with_their_labels():
    nothing = Images(torch.zeros(0, 1, 4, 4).byte(), torch.zeros(0).long(), 3)
    moved = nothing.to("meta")
    assert (moved.x.device.type, moved.y.device.type, moved.num_classes) == ("meta", "meta", 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2).long(),
            r"images are torch.float32 \[2, 1, 4, 4\]; they must be uint8",
        ),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"images are torch.uint8 \[2, 4, 4\]; they must be uint8"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2), r"labels are torch.float32 \[2\]; they must be int64 \[2\]"),
        (
            torch.zeros(2, 1, 4, 4).byte(),
            torch.zeros(3).long(),
            r"labels are torch.int64 \[3\]; they must be int64 \[2",
        ),
        (
            torch.zeros(2, 1, 4, 4).byte(),
            torch.tensor([0, 5]),
            "labels range from 0 to 5; with 5 classes they must lie",
        ),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([-1, 4]), "labels range from -1 to 4; .* must lie in 0 to 4$"),
    ],
)
def test_images_refuse_other_types_shapes_and_labels(x, y, message):
    with pytest.raises(DataError, match=message):
        Images(x, y, 5)


FAKES = {
    CIFAR100: {"train": 5, "test": 3},
    CIFAR10: {"data_batch_1": 2, "data_batch_2": 3, "test_batch": 4},
}


@pytest.fixture(scope="module")
def folder_of_fakes(tmp_path_factory):
    """Folders of a few random images, as published."""
    root = tmp_path_factory.mktemp("fakes")
    for reader, counts in FAKES.items():
        write_fake(reader, root, counts)
    return root


@pytest.fixture
def fakes(folder_of_fakes, monkeypatch):
    """The folder of the fakes, whose checksums torchvision takes for the published ones."""
    for reader, counts in FAKES.items():
        take_for_published(reader, folder_of_fakes, counts, monkeypatch)
    return folder_of_fakes


def pixels_of(path):
    return pickle.loads(path.read_bytes())["data"].reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(("train", "name"), [(True, "train"), (False, "test")])
def test_cifar100_gives_images_by_channel_with_fine_labels(fakes, train, name):
    images = cifar100(fakes, train=train)
    written = pixels_of(fakes / "cifar-100-python" / name)
    assert images.x.dtype == torch.uint8 and images.x.is_contiguous()
    assert np.array_equal(images.x.numpy(), written)
    assert images.y.tolist() == list(range(len(written))) and images.num_classes == 100


def test_cifar10_joins_its_training_files(fakes):
    folder = fakes / "cifar-10-batches-py"
    images = cifar10(str(fakes), train=True)
    written = [pixels_of(folder / name) for name in ("data_batch_1", "data_batch_2")]
    assert np.array_equal(images.x.numpy(), np.concatenate(written))
    assert images.y.tolist() == [0, 1, 0, 1, 2] and images.num_classes == 10
    assert np.array_equal(cifar10(fakes, train=False).x.numpy(), pixels_of(folder / "test_batch"))


def test_a_home_folder_may_be_abbreviated(fakes, monkeypatch):
    monkeypatch.setenv("HOME", str(fakes.parent))
    assert len(cifar100(f"~/{fakes.name}", train=False)) == 3


@pytest.mark.parametrize(
    ("load", "folder", "archive"),
    [
        (cifar100, "cifar-100-python", "cifar-100-python.tar.gz"),
        (cifar10, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ],
)
@pytest.mark.parametrize("root_exists", [True, False])
def test_a_missing_folder_is_named_with_the_ways_to_get_it(tmp_path, load, folder, archive, root_exists):
    root = tmp_path if root_exists else tmp_path / "nowhere"
    with pytest.raises(DataError) as error:
        load(root, train=True)
    message = str(error.value)
    assert f"is not in {root} (no folder {root / folder})" in message
    assert message.endswith(f": add --download (download=True in Python), or unpack {KRIZ}/{archive} in {root}")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_or_missing_file_is_named(fakes, tmp_path, name):
    path = shutil.copytree(fakes / "cifar-100-python", tmp_path / "cifar-100-python") / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=f"^{path} is damaged .*: add --download .*, or unpack {KRIZ}/.* in {tmp_path}$"
    ):
        cifar100(tmp_path, train=True)
    path.unlink()
    with pytest.raises(DataError, match=f"^{path} is missing: add --download .*, or unpack {KRIZ}/.* in {tmp_path}$"):
        cifar100(tmp_path, train=True)


def test_nothing_is_downloaded_unless_asked_for(fakes, monkeypatch, tmp_path):
    asked = []

    def download(self):
        asked.append(self.root)
        shutil.copytree(fakes, tmp_path, dirs_exist_ok=True)

    monkeypatch.setattr(CIFAR100, "download", download)
    with pytest.raises(DataError):
        cifar100(tmp_path, train=True)
    assert asked == []
    assert len(cifar100(tmp_path, train=True, download=True)) == 5
    assert asked == [tmp_path]


@pytest.mark.parametrize("failure", [URLError("no route to host"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_says_why_and_what_to_do(monkeypatch, tmp_path, failure):
    def download(self):
        raise failure

    monkeypatch.setattr(CIFAR100, "download", download)
    with pytest.raises(DataError, match="check the network, or unpack the archive there") as error:
        cifar100(tmp_path, train=True, download=True)
    assert str(failure) in str(error.value) and CIFAR100.url in str(error.value) and str(tmp_path) in str(error.value)


def test_the_published_cifar100_is_read_and_has_the_recipes_mean(tmp_path):
    runpy.run_path(str(shared_data("cifar100", "build.py")))["main"](str(tmp_path))
    train, test = cifar100(tmp_path, train=True), cifar100(tmp_path, train=False)
    assert train.x.shape == (50_000, 3, 32, 32) and test.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(train.y).tolist() == [500] * 100 and torch.bincount(test.y).tolist() == [100] * 100
    assert train.y[:5].tolist() == [19, 29, 0, 11, 1] and test.y[:5].tolist() == [49, 33, 72, 51, 71]
    assert train.x.numpy().mean((0, 2, 3)) / 255 == pytest.approx(CIFAR100_TEST.mean, rel=0, abs=2e-4)


def test_the_digits_are_split_once_and_for_all_without_overlap():
    train, test = digits(train=True), digits(train=False)
    assert (len(train), len(test), train.num_classes) == (1200, 597, 10)
    both = torch.cat([torch.cat([part.x.flatten(1), part.y[:, None]], 1) for part in (train, test)]).numpy()
    data = load_digits()
    whole = np.column_stack([np.rint(data.data * 255 / 16), data.target])
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, whole.tolist()))
    assert train.y[:12].tolist() == [8, 2, 2, 1, 7, 3, 9, 7, 9, 8, 8, 4] and torch.equal(train.x, digits(train=True).x)
    assert min(torch.bincount(train.y)) > 100 and min(torch.bincount(test.y)) > 45


@pytest.mark.parametrize("size", [9, 16, 32])
def test_larger_digits_are_upsampled_bilinearly(size):
    small, large = digits(train=False).first(20), digits(train=False, size=size).first(20)
    expected = F.resize(small.x.float(), [size, size], antialias=False).round()
    assert torch.equal(large.x.float(), expected) and torch.equal(large.y, small.y)


def test_digits_are_not_made_smaller():
    with pytest.raises(
        DataError, match="^size is 7; the digits have 8×8 pixels and are only upsampled: give 8 or more$"
    ):
        digits(train=True, size=7)
