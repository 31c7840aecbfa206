import hashlib
import pickle
import subprocess
import sys
from itertools import islice
from urllib.error import URLError

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from helpers import shared_data
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms.v2 import functional as F

from nni_nas_consistency import datasets
from nni_nas_consistency.errors import DataError
from nni_nas_consistency.images.augmentation import (
    CIFAR100_TEST,
    DIGITS_TEST,
    DIGITS_TRAIN,
    Augmentation,
    augment,
    normalise,
)
from nni_nas_consistency.images.datasets import Batches, Images, cifar10, cifar100, digits

PLAIN = Augmentation(mean=(0.0,), std=(1.0,))


def numbered(count):
    """Images that are told apart by their grey and their label."""
    x = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Images(x, torch.arange(count), count)


def labels(batches):
    return [y.tolist() for _, y in batches]


def test_images_keep_their_first_n_and_refuse_more_than_there_are():
    first = numbered(7).first(3)
    assert first.y.tolist() == [0, 1, 2] and first.x[:, 0, 0, 0].tolist() == [0, 1, 2] and first.num_classes == 7
    for n in (8, 0, -1):
        with pytest.raises(DataError, match=f"^{n} images were asked for; the data set has 7: ask for 1 to 7$"):
            numbered(7).first(n)


def test_images_are_moved_together_with_their_labels():
    moved = numbered(3).to("cpu")
    assert (moved.x.device.type, moved.y.device.type, moved.num_classes) == ("cpu", "cpu", 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), r"images are torch.float32 \[2, 1, 4, 4\]; uint8"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"images are torch.uint8 \[2, 4, 4\]; uint8 \[N"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2), r"labels are torch.float32 \[2\]; int64 \[2\] is needed"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"labels are torch.int64 \[3\]; int64 \[2\] is needed"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 5]), r"labels 0 to 5 are not all in \[0, 5\)"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.tensor([-1, 4]), r"labels -1 to 4 are not all in \[0, 5\)"),
    ],
)
def test_images_refuse_other_types_shapes_and_labels(x, y, message):
    with pytest.raises(DataError, match=message):
        Images(x, y, 5)


def write_fake(monkeypatch, root, reader, files, label_key, names_key, classes):
    """Write a folder as `reader` expects it; return the images by file, uint8 [count, 3, 32, 32]."""
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.RandomState(0)
    written, published = {}, {}
    for name, count in files.items():
        written[name] = pixels.randint(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        content = {
            "data": written[name].reshape(count, -1),
            label_key: list(range(count)),
            "coarse_labels": [9] * count,
        }
        published[name] = write(folder / name, content)
    monkeypatch.setattr(reader, "train_list", [[name, published[name]] for name in files if "test" not in name])
    monkeypatch.setattr(reader, "test_list", [[name, published[name]] for name in files if "test" in name])
    meta = write(folder / reader.meta["filename"], {names_key: [str(i) for i in range(classes)]})
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": meta})
    return written


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def fake_cifar100(monkeypatch, root):
    return write_fake(monkeypatch, root, CIFAR100, {"train": 5, "test": 3}, "fine_labels", "fine_label_names", 100)


def test_cifar100_gives_images_by_channel_with_fine_labels(monkeypatch, tmp_path):
    written = fake_cifar100(monkeypatch, tmp_path)
    for train, name in [(True, "train"), (False, "test")]:
        images = cifar100(tmp_path, train=train)
        assert images.x.dtype == torch.uint8 and images.x.is_contiguous()
        assert np.array_equal(images.x.numpy(), written[name])
        assert images.y.tolist() == list(range(len(written[name]))) and images.num_classes == 100


def test_cifar10_joins_its_training_files(monkeypatch, tmp_path):
    files = {"data_batch_1": 2, "data_batch_2": 3, "test_batch": 4}
    written = write_fake(monkeypatch, tmp_path, CIFAR10, files, "labels", "label_names", 10)
    images = cifar10(str(tmp_path), train=True)
    assert np.array_equal(images.x.numpy(), np.concatenate([written["data_batch_1"], written["data_batch_2"]]))
    assert images.y.tolist() == [0, 1, 0, 1, 2] and images.num_classes == 10
    assert np.array_equal(cifar10(tmp_path, train=False).x.numpy(), written["test_batch"])


def test_a_home_folder_may_be_abbreviated(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    fake_cifar100(monkeypatch, tmp_path / "data")
    assert len(cifar100("~/data", train=False)) == 3


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
    assert message.endswith(f"add --download, or unpack https://www.cs.toronto.edu/~kriz/{archive} there")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_or_missing_file_is_named(monkeypatch, tmp_path, name):
    fake_cifar100(monkeypatch, tmp_path)
    path = tmp_path / "cifar-100-python" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"^{path} is damaged .*; in {tmp_path}, add --download, or unpack "):
        cifar100(tmp_path, train=True)
    path.unlink()
    with pytest.raises(DataError, match=f"^{path} is missing; in {tmp_path}, add --download, or unpack "):
        cifar100(tmp_path, train=True)


def test_nothing_is_downloaded_unless_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        CIFAR100, "download", lambda self: (asked.append(self.root), fake_cifar100(monkeypatch, tmp_path))
    )
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
    with pytest.raises(DataError, match="check the network, or unpack it there by hand") as error:
        cifar100(tmp_path, train=True, download=True)
    assert str(failure) in str(error.value) and CIFAR100.url in str(error.value) and str(tmp_path) in str(error.value)


def test_the_published_cifar100_is_read_and_has_the_recipes_mean(tmp_path):
    build = shared_data("cifar100", "build.py")
    subprocess.run([sys.executable, str(build), str(tmp_path)], check=True, capture_output=True)
    train, test = cifar100(tmp_path, train=True), cifar100(tmp_path, train=False)
    assert train.x.shape == (50_000, 3, 32, 32) and test.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(train.y).tolist() == [500] * 100 and torch.bincount(test.y).tolist() == [100] * 100
    assert train.y[:5].tolist() == [19, 29, 0, 11, 1] and test.y[:5].tolist() == [49, 33, 72, 51, 71]
    mean = train.x.sum((0, 2, 3), dtype=torch.int64) / (255 * 50_000 * 32 * 32)
    torch.testing.assert_close(mean, torch.tensor(CIFAR100_TEST.mean), rtol=0, atol=2e-4)


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
    with pytest.raises(DataError, match="digits of 7 pixels were asked for; .* give 8 or more"):
        digits(train=True, size=7)


def test_test_batches_are_normalised_in_order_with_an_odd_last_one():
    images = digits(train=False).first(10)
    pairs = list(datasets.test_batches(images, DIGITS_TRAIN, 4))
    assert [len(y) for _, y in pairs] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in pairs]), normalise(images.x, DIGITS_TEST))
    assert torch.equal(torch.cat([y for _, y in pairs]), images.y)
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        datasets.test_batches(images, DIGITS_TEST, 0)


def test_batches_in_order_without_augmentation_are_the_test_batches():
    images = digits(train=False).first(10)
    batches = Batches(images, DIGITS_TEST, batch_size=4, seed=0, shuffle=False)
    for _ in range(2):
        for (x, y), (plain_x, plain_y) in zip(batches, datasets.test_batches(images, DIGITS_TEST, 4), strict=True):
            assert torch.equal(x, plain_x) and torch.equal(y, plain_y)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 3]), (True, [4, 4])])
def test_an_epoch_visits_images_once_with_their_labels_in_an_order_of_its_own(drop_last, sizes):
    batches = Batches(numbered(11), PLAIN, batch_size=4, seed=0, drop_last=drop_last)
    epochs = [list(batches) for _ in range(3)]
    assert len(batches) == len(sizes)
    orders = []
    for epoch in epochs:
        assert [len(y) for _, y in epoch] == sizes
        orders.append(torch.cat([y for _, y in epoch]).tolist())
        assert len(set(orders[-1])) == sum(sizes)
        assert (torch.cat([x[:, 0, 0, 0] for x, _ in epoch]) * 255).round().tolist() == orders[-1]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batches_follow_from_seed_epoch_and_index_alone():
    images = digits(train=True).first(30)
    batches = Batches(images, DIGITS_TRAIN, batch_size=8, seed=5)
    for epoch in range(2):
        order = torch.randperm(30, generator=documented_generator(5, epoch))
        for i, (x, y) in enumerate(batches):
            chosen = order[8 * i : 8 * i + 8]
            assert torch.equal(y, images.y[chosen])
            assert torch.equal(x, augment(images.x[chosen], DIGITS_TRAIN, documented_generator(5, epoch, i)))


def documented_generator(seed, *key):
    word = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


def test_another_seed_gives_another_order():
    assert labels(Batches(numbered(50), PLAIN, batch_size=50, seed=1)) != labels(
        Batches(numbered(50), PLAIN, batch_size=50, seed=2)
    )


@pytest.mark.parametrize("taken", range(9))
def test_a_loaded_state_goes_on_at_the_batch_that_comes_next(taken):
    def fresh():
        return Batches(digits(train=True).first(11), DIGITS_TRAIN, batch_size=4, seed=3)

    whole = fresh()
    uninterrupted = [pair for _ in range(4) for pair in whole]
    stopped = fresh()
    for _ in range(taken // 3):
        list(stopped)
    running = iter(stopped)
    list(islice(running, taken % 3))
    state = stopped.state_dict()
    assert state == {"seed": 3, "epoch": taken // 3, "batch": taken % 3}
    resumed = fresh()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state and len(resumed) == 3
    epochs = [list(resumed) for _ in range(4 - taken // 3)]
    assert [len(epoch) for epoch in epochs] == [3 - taken % 3] + [3] * (3 - taken // 3)
    assert_same([pair for epoch in epochs for pair in epoch], uninterrupted[taken:])


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for (x, y), (other_x, other_y) in zip(batches, expected, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_the_state_after_the_last_batch_is_the_next_epoch_even_if_no_more_is_asked_for():
    batches = Batches(numbered(6), PLAIN, batch_size=2, seed=0)
    list(islice(iter(batches), 3))
    assert batches.state_dict() == {"seed": 0, "epoch": 1, "batch": 0}


def test_an_epoch_left_early_is_not_gone_on_with_and_one_never_begun_is_not_lost():
    batches, expected = (Batches(numbered(30), PLAIN, batch_size=10, seed=0) for _ in range(2))
    first, second = labels(expected), labels(expected)
    iter(batches)
    assert next(iter(batches))[1].tolist() == first[0]
    assert batches.state_dict()["batch"] == 1
    assert labels(batches) == second


def test_set_epoch_chooses_the_next_epoch_but_keeps_the_place_in_a_loaded_one():
    batches, expected = (Batches(numbered(30), PLAIN, batch_size=10, seed=0) for _ in range(2))
    orders = [labels(expected) for _ in range(4)]
    batches.sampler.set_epoch(2)
    assert batches.state_dict() == {"seed": 0, "epoch": 2, "batch": 0}
    assert labels(batches) == orders[2]
    batches.load_state_dict({"seed": 0, "epoch": 1, "batch": 2})
    batches.sampler.set_epoch(1)
    assert labels(batches) == orders[1][2:]
    batches.load_state_dict({"seed": 0, "epoch": 1, "batch": 2})
    batches.sampler.set_epoch(3)
    assert labels(batches) == orders[3]
    next(iter(batches))
    assert batches.state_dict() == {"seed": 0, "epoch": 4, "batch": 1}
    batches.sampler.set_epoch(5)
    assert batches.state_dict() == {"seed": 0, "epoch": 5, "batch": 0}


def test_two_runs_through_one_object_do_not_disturb_each_other():
    batches, expected = (Batches(numbered(30), PLAIN, batch_size=10, seed=0) for _ in range(2))
    orders = [labels(expected) for _ in range(2)]
    pairs = list(zip(batches, batches, strict=True))
    assert [labels(run) for run in zip(*pairs, strict=True)] == orders
    assert batches.state_dict() == {"seed": 0, "epoch": 2, "batch": 0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seed": 4, "epoch": 0, "batch": 0}, "the saved batches had seed 4, these have 3: use the same seed"),
        ({"seed": 3, "epoch": 2, "batch": 5}, "the saved batch 5 of epoch 2 is none of the 5 here"),
        ({"seed": 3, "epoch": 0, "batch": -1}, "the saved batch -1 of epoch 0 is none of the 5 here"),
        ({"seed": 3, "epoch": -1, "batch": 0}, "the saved batch 0 of epoch -1 is none of the 5 here"),
        ({"seed": 3, "batch": 0}, r"a state of Batches has seed, epoch and batch; this one has \['batch', 'seed'\]"),
    ],
)
def test_a_state_of_other_batches_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        Batches(numbered(10), PLAIN, batch_size=2, seed=3).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0, "seed": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 2, "seed": -1}, "seed is -1; it must be at least 0"),
        ({"batch_size": 11, "seed": 0, "drop_last": True}, "10 images make no batch of 11"),
    ],
)
def test_batches_refuse_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        Batches(numbered(10), PLAIN, **settings)


class Recorder(lightning.LightningModule):
    """Trains next to nothing and keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen, self.validated = [], []

    def training_step(self, batch, index):
        self.seen.append(batch)
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, index):
        if not self.trainer.sanity_checking:
            self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(lightning.Callback):
    """Saves a checkpoint at each place where Lightning's own callback may."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, trainer, place):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{place}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer, *rest):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, module):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch")


def fit(*, validate, callbacks=(), checkpoint=None, **settings):
    """Train for three epochs of three batches on fresh objects; return the module."""
    module, images = Recorder(), digits(train=True).first(21)
    train = Batches(images, DIGITS_TRAIN, batch_size=8, seed=1)
    test = Batches(images, DIGITS_TEST, batch_size=8, seed=1, shuffle=False) if validate else None
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=3, callbacks=list(callbacks), **quiet, **settings)
    trainer.fit(module, train, test, ckpt_path=checkpoint)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("validate", [False, True])
def test_a_lightning_run_resumed_from_any_checkpoint_sees_what_it_would_have_seen(tmp_path, validate, limit):
    settings = {"validate": validate, "limit_train_batches": limit}
    whole = fit(callbacks=[SaveEverywhere(tmp_path)], **settings)
    steps = 3 * (limit or 3)
    assert len(whole.seen) == steps
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) == steps + 3 + 3 * validate
    for checkpoint in checkpoints:
        done = int(checkpoint.stem.split("-")[1])
        assert_same(fit(checkpoint=checkpoint, **settings).seen, whole.seen[done:])


@pytest.mark.filterwarnings("ignore")
def test_lightning_validates_on_every_image_in_order_after_its_sanity_check():
    module = fit(validate=True, num_sanity_val_steps=2)
    images = digits(train=True).first(21)
    assert_same(module.validated, list(datasets.test_batches(images, DIGITS_TEST, 8)) * 3)


@pytest.mark.filterwarnings("ignore")
def test_lightning_sees_each_epoch_as_it_is_drawn():
    batches = Batches(digits(train=True).first(21), DIGITS_TRAIN, batch_size=8, seed=1)
    assert_same(fit(validate=False).seen, [batch for _ in range(3) for batch in batches])
