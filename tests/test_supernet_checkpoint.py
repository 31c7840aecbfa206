"""Supernet checkpoints: what comes back is what went in, and every file that is not one is refused in one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chains import OperatorChain
from helpers import randomize, tiny_space, tiny_supernet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nni_nas_consistency.errors import CheckpointError
from nni_nas_consistency.files.checkpoint_header import checkpoint_path, read_checkpoint_header, shipped_supernets
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet import checkpoint
from nni_nas_consistency.supernet.checkpoint import load_supernet, save_supernet, weights_sha256
from nni_nas_consistency.supernet.make import make_supernet
from spaces import EVERY_SPACE

ABOUT = {"recipe": "nazarick", "seed": 3, "lr": 0.1, "data": {"name": "digits", "sizes": [1200, 597]}}
SHIPPED = "resnet20-cifar100"


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def supernet_of(case, seed, dtype=torch.float32):
    supernet = make_supernet(case.make()).to(dtype)
    randomize(supernet, seed)
    return supernet


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [case for case in EVERY_SPACE if case.is_chain], ids=str)
def test_a_supernet_comes_back_bit_for_bit_with_what_made_it(case, dtype, tmp_path):
    saved, loaded = supernet_of(case, 1, dtype), supernet_of(case, 2, dtype)
    save_supernet(tmp_path / "a.safetensors", saved, ABOUT)
    assert load_supernet(tmp_path / "a.safetensors", loaded) == ABOUT
    assert_same(loaded.state_dict(), saved.state_dict())


def test_saving_leaves_one_file_which_replaces_an_older_one(tmp_path):
    path = tmp_path / "a.safetensors"
    save_supernet(path, tiny_supernet(seed=1), {"seed": 1})
    save_supernet(path, tiny_supernet(seed=2), {"seed": 2})
    assert load_supernet(path, tiny_supernet()) == {"seed": 2}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_module_in_two_places_is_saved_under_both_names(tmp_path):
    saved, loaded = make_supernet(OperatorChain()), make_supernet(OperatorChain())
    for supernet in (saved, loaded):
        supernet.links.append(supernet.links[3])
    save_supernet(tmp_path / "a", saved, {})
    load_supernet(tmp_path / "a", loaded)
    assert_same(loaded.state_dict(), saved.state_dict())
    assert "links.4.linear.weight" in saved.state_dict()


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ((10, 1, 8, "standalone", 1), "shortcut 'projection' instead of 'standalone'; use the space and the data it"),
        ((11, 1, 9, "projection", 1), "image_size 8 instead of 9, num_classes 10 instead of 11; use the space"),
        ((10, 1, 8, "projection", 4), "width_unit 1 instead of 4; use the space and the data it was trained with"),
    ],
)
def test_a_checkpoint_of_a_different_space_is_refused_and_says_what_differs(tmp_path, other, different):
    path = tmp_path / "a.safetensors"
    save_supernet(path, tiny_supernet(), ABOUT)
    supernet = make_supernet(ResNet20Space(*other))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    with pytest.raises(
        CheckpointError, match="a.safetensors: was trained for a different space: " + different
    ) as error:
        load_supernet(path, supernet)
    assert "\n" not in str(error.value)
    assert_same(supernet.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("links.3.conv1.bn.bias"), "links.3.conv1.bn.bias is None instead of (4,); train"),
        (lambda tensors: tensors.update(other=torch.ones(2)), "other is (2,) instead of None; train it again"),
        (
            lambda tensors: tensors.update({"links.0.conv.bn.bias": torch.ones(2)}),
            "bias is (2,) instead of (4,); train",
        ),
    ],
)
def test_a_file_with_other_tensors_is_refused_before_any_is_loaded(tmp_path, change, message):
    save_supernet(tmp_path / "a", tiny_supernet(seed=1), ABOUT)
    with safe_open(tmp_path / "a", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "a")
    change(tensors)
    save_file(tensors, tmp_path / "a", metadata)
    supernet, before = tiny_supernet(), tiny_supernet().state_dict()
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_supernet(tmp_path / "a", supernet)
    assert_same(supernet.state_dict(), before)


def name_in_format_1(name):
    """Return the name that a tensor of a ResNet20 supernet had in version 0.1."""
    old = re.sub(r"^links\.", "stages.", name)
    old = re.sub(r"\.(conv1|conv2|project)\.", ".", old)
    return re.sub(r"^stages\.0\.conv\.", "stages.0.", old)


def test_a_file_of_version_0_1_loads_to_the_same_weights(tmp_path):
    saved = tiny_supernet(seed=1)
    names = {name: name_in_format_1(name) for name in saved.state_dict()}
    assert names["links.0.conv.conv.weight"] == "stages.0.conv.weight"
    assert names["links.4.conv2.bn.running_var"] == "stages.4.bn.running_var"
    assert names["links.4.shortcut.project.conv.weight"] == "stages.4.shortcut.conv.weight"
    tensors = {names[name]: tensor.clone() for name, tensor in saved.state_dict().items()}
    space = {"class": "ResNet20Space", "num_classes": 10, "in_channels": 1, "image_size": 8}
    space |= {"shortcut": "projection", "width_unit": 1}
    metadata = {"format": "nni-nas-consistency supernet 1", "space": json.dumps(space), "about": json.dumps(ABOUT)}
    save_file(tensors, tmp_path / "old", metadata)

    loaded = tiny_supernet(seed=2)
    assert load_supernet(tmp_path / "old", loaded) == ABOUT
    assert_same(loaded.state_dict(), saved.state_dict())
    assert weights_sha256(loaded) == weights_sha256(saved)


def test_the_shipped_supernet_is_of_version_0_1_and_loads_tensor_by_tensor():
    supernet = make_supernet(ResNet20Space())
    header = read_checkpoint_header(Path(SHIPPED))
    assert header.format == "nni-nas-consistency supernet 1"
    assert load_supernet(Path(SHIPPED), supernet) == header.about
    tensors = load_file(shipped_supernets()[SHIPPED])
    assert_same({name_in_format_1(name): tensor for name, tensor in supernet.state_dict().items()}, tensors)


def test_the_sha256_of_a_supernet_tells_weights_and_statistics_apart():
    supernet = tiny_supernet()
    first = weights_sha256(supernet)
    assert weights_sha256(tiny_supernet()) == first
    supernet.links[3].conv1.bn.running_mean[0] += 1e-12
    assert weights_sha256(supernet) != first


def test_only_tensors_and_text_are_in_the_file(tmp_path):
    save_supernet(tmp_path / "a", tiny_supernet(), ABOUT)
    with safe_open(tmp_path / "a", framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(tiny_supernet().state_dict())
    assert metadata["format"] == "nni-nas-consistency supernet 2"
    assert json.loads(metadata["about"]) == ABOUT
    assert json.loads(metadata["space"]) == {"class": "ResNet20Space", **tiny_space().args}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="missing/a: cannot be written .*; give a folder that exists and has ro"):
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


def header(content, length=None):
    """Return the bytes of a safetensors file with this header and no tensors."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def about(**changed):
    """Return a header whose metadata are those of a checkpoint, but for what is changed."""
    metadata = {"format": "nni-nas-consistency supernet 2", "space": '{"class": "A"}', "about": "{}", **changed}
    return header({"__metadata__": {name: value for name, value in metadata.items() if value is not None}})


NOT_SAFETENSORS = "is not a safetensors file; `nni-consistency train` writes one"
NO_CHECKPOINT = "is not a supernet checkpoint; `nni-consistency train` writes one"
BAD_FILES = {
    "text": (b"this is no checkpoint, however long one looks at it", NO_CHECKPOINT),
    "empty": (b"", NOT_SAFETENSORS),
    "shorter than its header": (header({"a": 1}, length=500)[:14], NOT_SAFETENSORS),
    "not JSON": (header(b"{'a': 1}"), NOT_SAFETENSORS),
    "not UTF-8": (header(b'{"\xff": 1}'), NOT_SAFETENSORS),
    "nested deeply": (header(b"[" * 100_000), NOT_SAFETENSORS),
    "a list": (header([1, 2]), NO_CHECKPOINT),
    "no metadata": (header({}), NO_CHECKPOINT),
    "metadata of another kind": (header({"__metadata__": "nni"}), NO_CHECKPOINT),
    "another format": (about(format="nni-nas-consistency supernet 99"), NO_CHECKPOINT),
    "no space": (about(space=None), "its metadata has no 'space' that can be read; train or copy it again"),
    "space of another kind": (about(space={"class": "A"}), "its metadata has no 'space' that can be read; train or"),
    "space that is not JSON": (about(space="{"), "its metadata has no 'space' that can be read; train or copy it ag"),
    "about is a list": (about(about="[]"), "'about' of its metadata is not a JSON object; train or copy it again"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_files_that_are_no_checkpoints_are_refused_by_reader_and_loader(tmp_path, bad):
    content, message = BAD_FILES[bad]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (read_checkpoint_header, lambda path: load_supernet(path, tiny_supernet())):
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")) as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_regular_file_is_refused_with_what_comes_with_the_package(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, flaw in (
        (tmp_path / "missing", "cannot be read"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a p"),
    ):
        with pytest.raises(CheckpointError, match=f"^{path}: {flaw}.*come with the package: {SHIPPED}$"):
            read_checkpoint_header(path)


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "cut"
    save_supernet(path, tiny_supernet(), ABOUT)
    path.write_bytes(path.read_bytes()[:-1000])
    assert read_checkpoint_header(path).about == ABOUT
    with pytest.raises(CheckpointError, match="cut: cannot be read .*; copy or train it again"):
        load_supernet(path, tiny_supernet())


def test_a_file_comes_before_a_shipped_supernet_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_path(Path(SHIPPED)) == shipped_supernets()[SHIPPED]
    save_supernet(Path(SHIPPED), tiny_supernet(), {"seed": 9})
    assert read_checkpoint_header(Path(SHIPPED)).about == {"seed": 9}


def test_headers_are_read_without_torch():
    program = (
        "import sys; from pathlib import Path; from nni_nas_consistency.files.checkpoint_header import *;"
        f"print(read_checkpoint_header(Path({SHIPPED!r})).space['class'], 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["ResNet20Space", "False"]
