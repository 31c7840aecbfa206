"""Supernet checkpoints: what comes back is what went in, and every file that is not one is refused in one line."""

import hashlib
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
        (
            lambda tensors: tensors.pop("links.3.conv1.bn.bias"),
            "'links.3.conv1.bn.bias' is missing, expected float64 (4,)",
        ),
        (lambda tensors: tensors.update(other=torch.ones(2)), "'other' is float32 (2,), expected none of this name"),
        (lambda tensors: tensors.update(bits=torch.ones(1).cfloat()), "'bits' is C64 (1,), expected none of this name"),
        (
            lambda tensors: tensors.update({"links.0.conv.bn.bias": torch.ones(2)}),
            "'links.0.conv.bn.bias' is float32 (2,), expected float64 (4,)",
        ),
        (
            lambda tensors: tensors.update({"links.0.conv.bn.bias": torch.ones(4, dtype=torch.int64)}),
            "'links.0.conv.bn.bias' is int64 (4,), expected float64 (4,)",
        ),
        (
            lambda tensors: tensors.update({"links.0.conv.bn.num_batches_tracked": torch.tensor(7.0)}),
            "'links.0.conv.bn.num_batches_tracked' is float32 (), expected int64 ()",
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
    expected = f"{tmp_path / 'a'}: the tensor {message}; train it again with this version"
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        load_supernet(tmp_path / "a", supernet)
    assert_same(supernet.state_dict(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_floating_point_type_are_converted(tmp_path, dtype):
    saved, loaded = tiny_supernet(dtype, seed=1), tiny_supernet(torch.float32, seed=2)
    save_supernet(tmp_path / "a", saved, ABOUT)
    load_supernet(tmp_path / "a", loaded)
    assert_same(loaded.state_dict(), saved.float().state_dict())


# damage


def layout(content):
    """Return the header of a safetensors file, and where each tensor begins and ends in it."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    places = {name: [8 + length + offset for offset in of["data_offsets"]] for name, of in header.items()}
    return metadata, header, places


def flipped(content, byte, bit=0):
    """Return the content of a file with one bit flipped."""
    damaged = bytearray(content)
    damaged[byte] ^= 1 << bit
    return bytes(damaged)


def test_one_flipped_bit_in_any_tensor_is_refused_and_leaves_the_supernet(tmp_path):
    path = tmp_path / "a"
    save_supernet(path, tiny_supernet(seed=1), ABOUT)
    content, supernet = path.read_bytes(), tiny_supernet()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    metadata, _, places = layout(content)
    assert places.keys() == before.keys()
    line = "a: is damaged: the SHA-256 of its content is [0-9a-f]{12}…, "
    line += f"expected {metadata['sha256'][:12]}…; copy or train it again$"
    for index, (first, end) in enumerate(places.values()):
        path.write_bytes(flipped(content, first + index % (end - first), index % 8))
        with pytest.raises(CheckpointError, match=line):
            load_supernet(path, supernet)
    assert_same(supernet.state_dict(), before)


def test_no_flipped_bit_in_the_header_changes_what_is_loaded(tmp_path):
    path, supernet = tmp_path / "a", tiny_supernet()
    save_supernet(path, tiny_supernet(seed=1), ABOUT)
    content, weights = path.read_bytes(), tiny_supernet(seed=1).state_dict()
    end = min(first for first, _ in layout(content)[2].values())
    harmless = 0
    for byte in range(0, end, 31):
        path.write_bytes(flipped(content, byte, byte % 8))
        try:
            assert load_supernet(path, supernet) == ABOUT
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert_same(supernet.state_dict(), weights)
            harmless += 1
    assert harmless < 5  # padding, and the name of the digest's own field


def test_the_digest_is_the_one_that_the_documentation_defines(tmp_path):
    save_supernet(tmp_path / "a", tiny_supernet(), ABOUT)
    content = (tmp_path / "a").read_bytes()
    metadata, tensors, places = layout(content)
    types = {"F64": "torch.float64", "I64": "torch.int64"}
    digest = hashlib.sha256()
    for key in ("about", "format", "space"):
        digest.update(f"{key} {metadata[key]}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name} {types[tensors[name]['dtype']]} {tensors[name]['shape']}\n".encode())
        digest.update(content[slice(*places[name])])
    assert metadata["sha256"] == digest.hexdigest() == read_checkpoint_header(tmp_path / "a").sha256


def test_a_file_from_before_there_was_a_digest_is_read(tmp_path):
    save_supernet(tmp_path / "a", tiny_supernet(seed=1), ABOUT)
    with safe_open(tmp_path / "a", framework="pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(load_file(tmp_path / "a"), tmp_path / "a", metadata)
    loaded = tiny_supernet()
    assert load_supernet(tmp_path / "a", loaded) == ABOUT
    assert_same(loaded.state_dict(), tiny_supernet(seed=1).state_dict())


def test_the_shipped_supernet_carries_its_digest_and_one_flipped_bit_is_refused(tmp_path):
    content = shipped_supernets()[SHIPPED].read_bytes()
    assert read_checkpoint_header(Path(SHIPPED)).sha256 is not None
    (tmp_path / "a").write_bytes(flipped(content, len(content) - 1000))
    with pytest.raises(CheckpointError, match="a: is damaged"):
        load_supernet(tmp_path / "a", make_supernet(ResNet20Space()))


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
    assert sorted(metadata) == ["about", "format", "sha256", "space"]
    assert json.loads(metadata["about"]) == ABOUT
    assert json.loads(metadata["space"]) == {"class": "ResNet20Space", **tiny_space().args}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="missing/a: there is no folder .*/missing; create it first$"):
        save_supernet(tmp_path / "missing" / "a", tiny_supernet(), ABOUT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder: is a folder or a device; give the name of a file$"):
        save_supernet(tmp_path / "folder", tiny_supernet(), ABOUT)

    save_supernet(tmp_path / "a", tiny_supernet(seed=1), {"seed": 1})
    older = (tmp_path / "a").read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match="a: cannot be written .No space left on device.; free some space"):
        save_supernet(tmp_path / "a", tiny_supernet(seed=2), {"seed": 2})
    assert (tmp_path / "a").read_bytes() == older
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]
    assert os.listdir(tmp_path / "folder") == []


def test_a_checkpoint_has_the_permissions_that_the_umask_gives(tmp_path):
    save_supernet(tmp_path / "a", tiny_supernet(), ABOUT)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_number_that_is_not_finite_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="a: cannot be written: about lr is NaN; expected a finite number$"):
        save_supernet(tmp_path / "a", tiny_supernet(), {"lr": float("nan")})
    assert not os.listdir(tmp_path)


def header(content, length=None):
    """Return the bytes of a safetensors file with this header and no tensors."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def about(**changed):
    """Return a header whose metadata are those of a checkpoint, but for what is changed."""
    metadata = {"format": "nni-nas-consistency supernet 2", "space": '{"class": "A"}', "about": "{}", **changed}
    return header({"__metadata__": {name: value for name, value in metadata.items() if value is not None}})


def tensor(described):
    """Return a header whose metadata are those of a checkpoint, and one tensor."""
    metadata = {"format": "nni-nas-consistency supernet 2", "space": "{}", "about": "{}"}
    return header({"__metadata__": metadata, "a": described})


TENSOR = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
NOT_SAFETENSORS = "is not a safetensors file; `nni-consistency train` writes one"
NO_CHECKPOINT = "is not a supernet checkpoint; `nni-consistency train` writes one"
BAD_FILES = {
    "text": (b"this is no checkpoint, however long one looks at it", NO_CHECKPOINT),
    "empty": (b"", NOT_SAFETENSORS),
    "shorter than its header": (header({"a": 1}, length=500)[:14], NOT_SAFETENSORS),
    "not JSON": (header(b"{'a': 1}"), NOT_SAFETENSORS),
    "not UTF-8": (header(b'{"\xff": 1}'), NOT_SAFETENSORS),
    "nested deeply": (header(b"[" * 100_000), NOT_SAFETENSORS),
    "a list": (header([1, 2]), NOT_SAFETENSORS),
    "no metadata": (header({}), NO_CHECKPOINT),
    "metadata of another kind": (header({"__metadata__": "nni"}), NO_CHECKPOINT),
    "another format": (about(format="nni-nas-consistency supernet 99"), NO_CHECKPOINT),
    "twice the same metadata": (header(b'{"__metadata__": {}, "__metadata__": {}}'), NOT_SAFETENSORS),
    "no space": (about(space=None), "its metadata has no text 'space'; copy or train it again"),
    "space of another kind": (about(space={"class": "A"}), "its metadata has no text 'space'; copy or train it again"),
    "space that is not JSON": (about(space="{"), "'space' of its metadata is not JSON; copy or train it again"),
    "about nested deeply": (about(about="[" * 100_000), "its metadata is nested too deeply; copy or train it again"),
    "about is a list": (about(about="[]"), "about is a list; expected an object in braces; copy or train it again"),
    "about with a NaN": (
        about(about='{"lr": NaN}'),
        "about lr is NaN; expected a finite number; copy or train it again",
    ),
    "about with a line break": (about(about='{"l\\nr": NaN}'), r"about l\nr is NaN; expected a finite number; copy"),
    "no digest": (about(sha256="ab"), 'its sha256 is "ab"; expected 64 hexadecimal digits; copy or train it again'),
    "a tensor that is none": (tensor([]), "tensor a is a list; expected an object in braces; copy or train it again"),
    "a tensor without a type": (tensor({"shape": []}), "tensor a lacks the field 'dtype'; required are dtype, shape"),
    "a type that is none": (tensor({**TENSOR, "dtype": 32}), "dtype of tensor a is 32; expected a name such as F32"),
    "a type in two lines": (tensor({**TENSOR, "dtype": "F\n"}), r'dtype of tensor a is "F\n"; expected a name such as'),
    "a size that no tensor has": (
        tensor({**TENSOR, "shape": [2**63]}),
        "shape of tensor a is no list of sizes; copy or",
    ),
    "a negative size": (tensor({**TENSOR, "shape": [2, -1]}), "shape of tensor a is no list of sizes; copy or train"),
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
