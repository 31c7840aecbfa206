"""Supernet checkpoints: what comes back is what went in, and every file that is not one is named."""

import json
import os

import pytest
import torch
from helpers import random_archs, random_batch, randomize, tiny_space, tiny_supernet
from safetensors import safe_open
from safetensors.torch import save_file

from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet import checkpoint
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.checkpoint import load_supernet, save_supernet
from nni_nas_consistency.supernet.make import make_supernet

ABOUT = {"recipe": "nazarick", "seed": 3, "lr": 0.1, "data": {"name": "digits", "sizes": [1200, 597]}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_supernet_comes_back_bit_for_bit_with_what_made_it(tmp_path, dtype):
    saved, loaded = tiny_supernet(dtype, seed=1), tiny_supernet(dtype, seed=2)
    save_supernet(tmp_path / "a.safetensors", saved, ABOUT)
    assert load_supernet(tmp_path / "a.safetensors", loaded) == ABOUT
    weights = saved.state_dict()
    assert not [name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, weights[name])]
    images, _ = random_batch(dtype=dtype)
    for arch in random_archs(saved.form, 3):
        assert torch.equal(logits_of(saved.eval(), images, arch), logits_of(loaded.eval(), images, arch))


def test_saving_leaves_one_file_which_replaces_an_older_one(tmp_path):
    path = tmp_path / "a.safetensors"
    save_supernet(path, tiny_supernet(seed=1), {"seed": 1})
    save_supernet(path, tiny_supernet(seed=2), {"seed": 2})
    assert load_supernet(path, tiny_supernet()) == {"seed": 2}
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ((10, 1, 8, "standalone", 1), "shortcut 'projection' instead of 'standalone'; give the data"),
        ((11, 1, 9, "projection", 1), "image_size 8 instead of 9, num_classes 10 instead of 11; give the data"),
        ((10, 1, 8, "projection", 4), "width_unit 1 instead of 4; give the data"),
    ],
)
def test_a_checkpoint_of_another_space_is_refused_and_says_what_differs(tmp_path, other, different):
    path = tmp_path / "a.safetensors"
    save_supernet(path, tiny_supernet(), ABOUT)
    supernet = make_supernet(ResNet20Space(*other))
    randomize(supernet, seed=1)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    with pytest.raises(CheckpointError, match="a.safetensors: holds a supernet of another space: " + different):
        load_supernet(path, supernet)
    assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    supernet = tiny_supernet()
    text, foreign, cut = tmp_path / "text", tmp_path / "foreign", tmp_path / "cut"
    text.write_text("this is no checkpoint, however long one looks at it")
    save_file({"weight": torch.ones(2)}, foreign)
    save_supernet(cut, supernet, ABOUT)
    cut.write_bytes(cut.read_bytes()[:-1000])
    for path, message in [
        (tmp_path / "missing", "missing: cannot be read (.*; give the supernet.safetensors of a training run"),
        (tmp_path, "cannot be read (.*; give the supernet.safetensors of a training run"),
        (text, "text: cannot be read (.*; give the supernet.safetensors of a training run"),
        (cut, "cut: cannot be read (.*; give the supernet.safetensors of a training run"),
        (foreign, "foreign: is no supernet checkpoint; `nni-consistency train` writes one"),
    ]:
        with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
            load_supernet(path, supernet)


def test_only_tensors_and_text_are_in_the_file(tmp_path):
    save_supernet(tmp_path / "a", tiny_supernet(), ABOUT)
    with safe_open(tmp_path / "a", framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(tiny_supernet().state_dict())
    assert metadata["format"] == "nni-nas-consistency supernet 1"
    assert json.loads(metadata["about"]) == ABOUT
    assert json.loads(metadata["space"]) == {"class": "ResNet20Space", **tiny_space().args}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(
        CheckpointError, match="missing/a: cannot be written .*; give a folder that exists and has room"
    ):
        save_supernet(tmp_path / "missing" / "a", tiny_supernet(), ABOUT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder: cannot be written"):
        save_supernet(tmp_path / "folder", tiny_supernet(), ABOUT)

    save_supernet(tmp_path / "a", tiny_supernet(seed=1), {"seed": 1})
    older = (tmp_path / "a").read_bytes()

    def half_a_file(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half_a_file)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_supernet(tmp_path / "a", tiny_supernet(seed=2), {"seed": 2})
    assert (tmp_path / "a").read_bytes() == older
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]
    assert os.listdir(tmp_path / "folder") == []
