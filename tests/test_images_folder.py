"""Folders of images: which images are read, what becomes of them, and the cache of decoded ones."""

import os
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from image_folders import CLASSES, truncate, write_images
from PIL import Image
from torchvision.transforms import v2

from nni_nas_consistency.errors import DataError, FileError, InputError
from nni_nas_consistency.images.augmentation import IMAGENET_TEST, IMAGENET_TRAIN
from nni_nas_consistency.images.draws import generator_of, seed_of
from nni_nas_consistency.images.folder import image_files
from nni_nas_consistency.images.folder_options import FolderOptions, Resizing, resizing_to
from nni_nas_consistency.images.loader import TrainingLoader
from nni_nas_consistency.images.prepared import prepared
from nni_nas_consistency.images.transforms import augment

SMALL = FolderOptions(resizing_to(8), workers=0)


def paths(files):
    return [files.path(index).relative_to(files.folder).as_posix() for index in range(len(files))]


def test_images_have_the_label_of_their_folder_and_one_order_in_which_classes_are_mixed(tmp_path):
    root = write_images(tmp_path, train=20)
    files = image_files(root, SMALL, 3, train=True)
    assert files.shape == (3, 3, 8) and len(files) == 60
    assert [CLASSES[label] for label in files.y.tolist()] == [path.split("/")[0] for path in paths(files)]
    assert len(set(paths(files))) == 60 and set(files.y[:20].tolist()) == {0, 1, 2}
    assert paths(image_files(root, SMALL, 3, train=True)) == paths(files)
    assert paths(files.first(7)) == paths(files)[:7]
    assert {path.split("/")[1] for path in paths(image_files(root, SMALL, 3, train=False))} == {
        f"{i}.png" for i in range(3)
    }


def test_a_share_of_every_class_is_held_out_of_training_and_stands_for_val(tmp_path):
    root = write_images(tmp_path, train=10, val=1)
    options = replace(SMALL, val_fraction=0.3)
    train, test = (image_files(root, options, 3, train=is_train) for is_train in (True, False))
    assert test.y.bincount().tolist() == [3] * 3 and train.y.bincount().tolist() == [7] * 3
    every = paths(image_files(root, SMALL, 3, train=True))
    assert sorted(paths(train) + paths(test)) == sorted(every)
    assert test.folder == root / "train"


def test_the_images_of_a_list_are_held_out(tmp_path):
    root = write_images(tmp_path)
    (tmp_path / "list.txt").write_text("dog/2.png\n\ncat/0.png\n")
    options = replace(SMALL, val_files=tmp_path / "list.txt")
    train, test = (image_files(root, options, 3, train=is_train) for is_train in (True, False))
    assert sorted(paths(test)) == ["cat/0.png", "dog/2.png"] and not {*paths(test)} & {*paths(train)}
    assert len(train) == 10


def test_training_images_are_torchvision_s_random_crops_of_seed_epoch_batch_and_place(tmp_path):
    files = image_files(write_images(tmp_path), SMALL, 3, train=True)
    loader = TrainingLoader(files, IMAGENET_TRAIN, batch_size=5, seed=3)
    crop = v2.Compose([v2.RandomResizedCrop(8, (0.08, 1.0)), v2.PILToTensor()])
    for epoch in range(2):
        order = torch.randperm(12, generator=generator_of(3, epoch))
        batches = list(loader)
        assert [len(y) for _, y in batches] == [5, 5, 2]
        for batch, (x, y) in enumerate(batches):
            chosen = order[5 * batch : 5 * batch + 5]
            crops = []
            for place, index in enumerate(chosen.tolist()):
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(seed_of(3, epoch, batch, place))
                    crops.append(crop(Image.open(files.path(index))))
            assert torch.equal(x, augment(torch.stack(crops), IMAGENET_TRAIN, generator_of(3, epoch, batch)))
            assert torch.equal(y, files.y[chosen])


def test_workers_decode_the_same_and_a_resumed_run_goes_on_in_the_middle_of_an_epoch(tmp_path):
    files = image_files(write_images(tmp_path), SMALL, 3, train=True)
    before = torch.random.get_rng_state()
    whole = [batch for _ in range(2) for batch in TrainingLoader(files, IMAGENET_TRAIN, batch_size=4, seed=1)]
    assert torch.equal(whole[0][0], whole[3][0])  # two loaders begin alike
    one = TrainingLoader(files, IMAGENET_TRAIN, batch_size=4, seed=1)
    expected = [*one, *one]
    stopped = TrainingLoader(replace(files, workers=2), IMAGENET_TRAIN, batch_size=4, seed=1)
    begun = list(islice(stopped, 2))
    resumed = TrainingLoader(replace(files, workers=2), IMAGENET_TRAIN, batch_size=4, seed=1)
    resumed.load_state_dict(stopped.state_dict())
    for (x, y), (other_x, other_y) in zip([*begun, *resumed, *resumed], expected, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_processes_that_share_batches_decode_their_part_alone_as_in_the_whole_batch(tmp_path, monkeypatch):
    files = image_files(write_images(tmp_path), SMALL, 3, train=True)
    whole = list(TrainingLoader(files, IMAGENET_TRAIN, batch_size=5, seed=1))
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, real=Image.open: opened.append(path) or real(path))
    parts = [list(TrainingLoader(files, IMAGENET_TRAIN, batch_size=5, seed=1, part=(i, 2))) for i in range(2)]
    assert len(opened) == len(files)
    for (x, y), *of_batch in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([images for images, _ in of_batch]), x)
        assert torch.equal(torch.cat([labels for _, labels in of_batch]), y)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_test_images_are_resized_and_their_centre_cut_out_once(tmp_path, monkeypatch, interpolation):
    root = write_images(tmp_path / "root", size=(30, 21))
    resizing = Resizing(8, 11, interpolation)
    files = image_files(root, FolderOptions(resizing, workers=0), 3, train=False)
    images = prepared(files, tmp_path / "cache")
    mode = v2.InterpolationMode(interpolation)
    transform = v2.Compose([v2.Resize(11, mode), v2.CenterCrop(8), v2.PILToTensor()])
    assert torch.equal(images.x, torch.stack([transform(Image.open(files.path(index))) for index in range(9)]))
    assert torch.equal(images.y, files.y) and images.num_classes == 3
    name = f"val-8-11-{interpolation}"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [f"{name}.json", f"{name}.uint8"]

    def no_decoding(*arguments, **settings):
        raise AssertionError("an image is decoded again")

    monkeypatch.setattr(Image, "open", no_decoding)
    again = prepared(files, tmp_path / "cache")
    assert torch.equal(again.x, images.x)
    again.x[:] = 0  # is not written to the file
    assert torch.equal(prepared(files, tmp_path / "cache").x, images.x)


def test_every_mode_of_images_becomes_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1"):
        files = image_files(write_images(tmp_path / mode, mode=mode, train=1, val=1), SMALL, 3, train=False)
        assert prepared(files, tmp_path / mode / "cache").x.shape == (3, 3, 8, 8)


def touched(path):
    os.utime(path, ns=(1, 1))


def replaced(path):
    Image.new("RGB", (5, 5)).save(path)


def renamed(path):
    path.rename(path.with_name("new.png"))


@pytest.mark.parametrize("change", [touched, replaced, renamed])
def test_a_cache_of_other_images_is_refused(tmp_path, change):
    root = write_images(tmp_path / "root")
    prepared(image_files(root, SMALL, 3, train=False), tmp_path / "cache")
    change(root / "val" / "dog" / "1.png")
    with pytest.raises(FileError, match=r"val-8-9-bilinear.json: belongs to other images than those in .*/val, or to"):
        prepared(image_files(root, SMALL, 3, train=False), tmp_path / "cache")


def test_a_cache_that_is_cut_off_is_refused(tmp_path):
    files = image_files(write_images(tmp_path), SMALL, 3, train=False)
    prepared(files, tmp_path / "cache")
    truncate(tmp_path / "cache" / "val-8-9-bilinear.uint8")
    with pytest.raises(FileError, match=r"has 864 bytes, not 1728; delete val-8-9-bilinear.json, and it is made again"):
        prepared(files, tmp_path / "cache")


def no_image(path):
    path.write_text("no image")


def other_type(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


@pytest.mark.parametrize("damage", [truncate, no_image, other_type])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, damage, workers):
    root = write_images(tmp_path / "root", size=(40, 40))
    bad = {split: root / split / "owl" / "1.png" for split in ("train", "val")}
    for path in bad.values():
        damage(path)
    options = replace(SMALL, workers=workers)
    with pytest.raises(DataError, match=rf"^{re.escape(str(bad['val']))}: cannot be decoded \(.*\); replace the image"):
        prepared(image_files(root, options, 3, train=False), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    loader = TrainingLoader(image_files(root, options, 3, train=True), IMAGENET_TEST, batch_size=12, seed=0)
    with pytest.raises(DataError, match=rf"^{re.escape(str(bad['train']))}: cannot be decoded \(.*\); replace the"):
        list(loader)


def make_empty(root):
    for path in (root / "val" / "dog").iterdir():
        path.unlink()


def drop_class(root):
    make_empty(root)
    (root / "val" / "dog").rmdir()


def rename_class(root):
    (root / "val" / "dog").rename(root / "val" / "eel")


def drop_split(root):
    (root / "val").rename(root / "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_empty, r"val/dog: has no image \(\.jpg, .*\); fill the folder, or remove the class"),
        (drop_class, r"val: has 2 class folder\(s\) where 3 are expected"),
        (rename_class, r"train and val have different class folders; give both the same ones"),
        (drop_split, r"val: is no folder; name another --data-root, or hold out some of train, by --val-fraction or"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path, change, message):
    root = write_images(tmp_path)
    change(root)
    with pytest.raises(DataError, match=rf"^{re.escape(str(root))}.*{message}"):
        image_files(root, SMALL, 3, train=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog/9.png\n", r"list.txt: names 'dog/9.png', which is no image of .*/train"),
        ("dog/1.png\ndog/1.png\n", r"list.txt: 'dog/1.png' appears twice; keep one of them"),
        ("\n", r"list.txt: names no images; give one CLASS/FILE a line"),
    ],
)
def test_a_bad_list_of_held_out_images_is_refused(tmp_path, text, message):
    root = write_images(tmp_path)
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        image_files(root, replace(SMALL, val_files=tmp_path / "list.txt"), 3, train=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FolderOptions(val_fraction=1.0),
            r"--val-fraction 1.0: it is a share of the images, above 0 and below 1",
        ),
        (lambda: FolderOptions(workers=-1), r"--workers -1: choose 0 to 256 processes"),
        (lambda: Resizing(9, 8), r"side is 9; choose 1 to 8"),
        (lambda: Resizing(smallest_crop=0.0), r"smallest_crop is 0.0; it is a share of the area"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_as_few_images_as_asked_for_must_be_there(tmp_path):
    files = image_files(write_images(tmp_path), SMALL, 3, train=True)
    for n in (0, 13):
        with pytest.raises(DataError, match=f"the first {n} images were requested; the data set has 12"):
            files.first(n)


def test_imagenet_is_resized_as_published_and_other_sides_in_proportion():
    assert resizing_to(224) == Resizing() == Resizing(224, 256, "bilinear", 0.08)
    assert (resizing_to(64).shorter_side, resizing_to(1).shorter_side) == (73, 1)
    assert np.isclose(resizing_to(112).shorter_side / 112, 256 / 224)
