"""A subnet that is taken away: plain torch without NNI, batch-norm statistics, ONNX, model card."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from command import run
from helpers import keep_nni_in, random_archs, random_batch, randomize, tiny_space, tiny_supernet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import update_bn

from nni_nas_consistency import active_subnet, jobs, make_supernet, save_supernet
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.cost import resnet20_cost
from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.loader import EvaluationLoader
from nni_nas_consistency.jobs import extract_job
from nni_nas_consistency.search.costs import nni_sample
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.supernet import take_away
from nni_nas_consistency.supernet.plain_source import plain_source
from nni_nas_consistency.supernet.statistics import estimated_statistics
from nni_nas_consistency.systems import DIGITS_8, EMBEDDED_BENCHMARK
from spaces import EVERY_SPACE

NORMALISATION = ((0.5,), (0.25,))


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def subnet_of(supernet, seed=0):
    """Return the frozen network of a random arch, in evaluation mode."""
    for attempt in range(seed, seed + 100):
        try:
            (arch,) = random_archs(domain_of(supernet), 1, attempt)
        except InputError:  # a constraint of the space
            continue
        return supernet.freeze(nni_sample(supernet, arch)).eval()
    raise AssertionError("no arch")


def written(folder, network, shape, name="subnet"):
    """Write the source and the weights of a network."""
    source = plain_source(
        network, shape, about="A subnet.", module=name, weights=f"{name}.safetensors", normalisation=NORMALISATION
    )
    (folder / f"{name}.py").write_text(source)
    save_file({key: value.clone() for key, value in network.state_dict().items()}, folder / f"{name}.safetensors")


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", EVERY_SPACE, ids=str)
def test_the_plain_file_of_any_space_computes_what_the_subnet_does_for_any_number_of_images(tmp_path, case):
    supernet = make_supernet(case.make())
    if case.name.startswith(("chain-res", "nasbench")):
        randomize(supernet, 0)
    network = subnet_of(supernet.double())
    images = case.images()
    written(tmp_path, network, (case.num_classes, 3, images.shape[-1]))
    loaded = imported(tmp_path / "subnet.py").load()
    for count in (1, len(images)):
        with torch.no_grad():
            assert torch.equal(loaded.double()(images[:count]), network(images[:count]))
    assert loaded.state_dict().keys() == network.state_dict().keys()


def test_the_plain_file_can_be_trained_on(tmp_path):
    network = subnet_of(tiny_supernet(torch.float32))
    written(tmp_path, network, (10, 1, 8))
    loaded = imported(tmp_path / "subnet.py").load().train()
    images, labels = random_batch(6, dtype=torch.float32)
    gradients = []
    for each in (loaded, network.train()):
        nn.functional.cross_entropy(each(images), labels).backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    for (_, one), (_, other) in zip(loaded.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(one, other)


class Decides(nn.Module):
    """Decides by what it computed."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, images):
        x = self.linear(images.flatten(1))
        return x if x.sum() > 0 else -x


class OwnLayer(nn.Linear):
    pass


class OfTheBatch(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return self.layer(images.flatten(1)) / len(images.shape)


def test_what_cannot_be_written_is_refused_with_the_way_out():
    def source(network):
        return plain_source(network, (2, 1, 2), about="", module="m", weights="w", normalisation=NORMALISATION)

    assert "nn.Linear(in_features=4" in source(OfTheBatch(nn.Linear(4, 2)))
    with pytest.raises(
        InputError, match="^Decides: symbolically traced variables .* take the weights with sub_state_d"
    ):
        source(Decides())
    layer = OwnLayer(4, 2)
    layer.__class__.__module__ = "torch.nn.modules.own"
    with pytest.raises(InputError, match=r"^layer \(OwnLayer\): cannot be written as plain torch"):
        source(OfTheBatch(layer))
    network = OfTheBatch(nn.Linear(4, 2))
    network.register_buffer("hidden", torch.zeros(3), persistent=False)
    with pytest.raises(InputError, match="hidden, which is in no state dict: cannot be written"):
        source(network)


def test_a_file_that_would_compute_something_else_is_not_written(tmp_path):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(3, 1, 1)
            self.linear = nn.Linear(4, 2)

        def forward(self, images):
            return self.linear(self.pool(images).flatten(1))

    network = Silent().eval()
    network.pool.forward = lambda images: images + 1
    files = tmp_path / "subnet.safetensors", tmp_path / "subnet.py"
    with pytest.raises(InputError, match="what was written gives other logits; take the weights with sub_state_dict"):
        take_away.write_subnet(*files, network, (2, 1, 2), normalisation=NORMALISATION, card={})
    assert not any(path.exists() for path in files)


# batch-norm statistics


def test_statistics_are_those_of_update_bn_and_momentum_stays():
    network = subnet_of(tiny_supernet(torch.float64))
    batches = [random_batch(count, seed=count)[0] for count in (5, 7)]
    estimated = take_away.with_statistics(network, batches)
    expected = subnet_of(tiny_supernet(torch.float64)).train()
    update_bn(batches, expected)
    for (name, found), (_, buffer) in zip(estimated.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.allclose(found.double(), buffer.double(), rtol=1e-12), name
    assert {norm.momentum for norm in estimated.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}
    assert not any(module.training for module in estimated.modules())
    assert all(torch.equal(*pair) for pair in zip(estimated.parameters(), network.parameters(), strict=True))


# the command


ARCH = "-".join(map(str, random_archs(DIGITS, 1, 3)[0].choices.values()))


@pytest.fixture
def supernet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"data": "digits", "made": "for a test"})
    return supernet


def extracting(*more):
    return ("extract", "--checkpoint", "supernet.safetensors", "--arch", ARCH, *more)


WITHOUT_NNI = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nni", "nni_nas_consistency", "pytorch_lightning", "torchvision"):
            raise ImportError(name)


sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file, save_file
from train_statistics import load as trained
from running import load as running

given = load_file(sys.argv[1] + "/images.safetensors")["images"]
with torch.no_grad():
    logits = {
        f"{name}-{dtype}": load().to(dtype)(given.to(dtype))
        for name, load in (("train", trained), ("supernet", running))
        for dtype in (torch.float32, torch.float64)
    }
save_file(logits, sys.argv[1] + "/logits.safetensors")
print(sorted({name.split(".")[0] for name in sys.modules} & {"nni", "nni_nas_consistency"}))
"""


def test_the_files_give_the_supernets_logits_bit_for_bit_in_a_process_that_never_imports_nni(tmp_path, supernet):
    done = run(*extracting("--out", "train_statistics.safetensors", "--images", 100, "--batch-size", 40))
    assert done.out.splitlines()[:3] == [
        "train_statistics.safetensors",
        "train_statistics.py",
        "batch-norm statistics: re-estimated on 100 training images in batches of 40",
    ]
    done = run(*extracting("--out", "running.safetensors", "--bn", "supernet"))
    assert "batch-norm statistics: running statistics of the supernet" in done.out and "accuracy" not in done.out

    images, _ = random_batch(5, dtype=torch.float32)
    save_file({"images": images}, tmp_path / "images.safetensors")
    child = [sys.executable, "-c", WITHOUT_NNI, str(tmp_path)]
    ended = subprocess.run(child, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr

    logits = load_file(tmp_path / "logits.safetensors")
    arch = DIGITS_CODEC.parse(ARCH)
    batches = [x for x, _ in EvaluationLoader(digits(train=True).first(100), DIGITS_TEST, 40)]
    network = supernet.freeze(nni_sample(supernet, arch)).eval()
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad(), active_subnet(supernet.to(dtype).eval(), arch):
            assert torch.equal(logits[f"supernet-{dtype}"], supernet(images.to(dtype)))
        with torch.no_grad(), estimated_statistics(network.float(), network, batches):
            assert torch.equal(logits[f"train-{dtype}"], network.to(dtype)(images.to(dtype)))


def test_the_metadata_has_a_model_card(tmp_path, supernet):
    done = run(*extracting("--images", 60, "--bn", "test"))
    with safe_open("subnet.safetensors", "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["about"])
    cost = resnet20_cost(DIGITS_CODEC.parse(ARCH), (10, 1, 8), "projection")
    assert (about["arch"], about["params"], about["macs"]) == (ARCH, cost.params, cost.macs)
    assert about["supernet"]["made_by"] == {"data": "digits", "made": "for a test"}
    assert about["supernet"]["class"] == "ResNet20Space"
    assert about["made_by"]["command"].startswith("nni-consistency extract --checkpoint supernet.safetensors")
    assert about["batch_norm_statistics"] == "re-estimated on 60 test images in batches of 512"
    assert f"accuracy: {about['accuracy']}\n" in done.out and about["accuracy"].endswith(" on the 597 test images")
    card = metadata["model_card"]
    assert card.startswith("# Subnet of space digits\n") and f"- **arch**: {ARCH}\n" in card
    loaded = imported(tmp_path / "subnet.py")
    test = digits(train=False)
    with torch.no_grad():
        logits = loaded.load()((test.x.float() / 255 - loaded.MEAN) / loaded.STD)
    right = (logits.argmax(1) == test.y).float().mean().item()
    assert about["accuracy"].startswith(f"{right:.4f} ")


def test_files_that_are_there_are_replaced_on_request_only(tmp_path, supernet):
    words = extracting("--bn", "supernet", "--out", "my-subnet.safetensors")
    run(*words)
    before = (tmp_path / "my-subnet.safetensors").read_bytes(), (tmp_path / "my_subnet.py").read_bytes()
    assert "my-subnet.safetensors: is there already; choose another name, or --over" in run(*words, code=2).error
    (tmp_path / "my-subnet.safetensors").unlink()
    assert "my_subnet.py: is there already" in run(*words, code=2).error
    run(*words, "--overwrite")
    assert before[1] == (tmp_path / "my_subnet.py").read_bytes()
    assert load_file("my-subnet.safetensors").keys() == imported(tmp_path / "my_subnet.py").load().state_dict().keys()


def test_onnx_gives_the_same_logits_and_carries_the_card(tmp_path, supernet):
    done = run(*extracting("--images", 60, "--onnx", "subnet.onnx"))
    assert done.out.splitlines()[2] == "subnet.onnx"
    difference = float(done.out.splitlines()[-1].removeprefix("onnxruntime differs from torch by at most "))
    assert difference <= 1e-4
    session = onnxruntime.InferenceSession("subnet.onnx", providers=["CPUExecutionProvider"])
    images, _ = random_batch(7, dtype=torch.float32)
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = imported(tmp_path / "subnet.py").load()(images)
    assert torch.allclose(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
    props = {each.key: each.value for each in onnx.load("subnet.onnx").metadata_props}
    with safe_open("subnet.safetensors", "pt") as file:
        assert props["model_card"] == file.metadata()["model_card"]


def test_onnx_that_differs_is_an_error_and_nothing_is_written(tmp_path, supernet, monkeypatch):
    monkeypatch.setattr(take_away, "ONNX_TOLERANCE", -1.0)
    error = run(*extracting("--bn", "supernet", "--onnx", "subnet.onnx"), code=1).error
    assert "subnet.onnx: onnxruntime differs by " in error
    assert {path.name for path in tmp_path.iterdir()} == {"supernet.safetensors"}


def test_onnx_without_its_packages_is_refused_before_work_begins(tmp_path, supernet, monkeypatch):
    monkeypatch.setattr(extract_job, "find_spec", lambda name: None)
    error = run(*extracting("--onnx", "subnet.onnx"), code=2).error
    assert "--onnx needs onnx and onnxruntime; pip install 'nni-nas-consistency[onnx]'" in error


@pytest.mark.parametrize(
    "case", [case for case in EVERY_SPACE if case.name in ("chain-operators", "autoformer")], ids=str
)
def test_spaces_whose_archs_are_samples_are_exported_too(tmp_path, case):
    network = subnet_of(make_supernet(case.make()))
    difference = take_away.write_onnx(tmp_path / "o.onnx", network, (10, 3, case.images().shape[-1]), {"arch": "a"})
    assert difference <= 1e-4 and (tmp_path / "o.onnx").is_file()


def test_an_arch_in_a_spelling_that_no_network_has_is_refused(tmp_path, supernet):
    job = jobs.ExtractJob(
        EMBEDDED_BENCHMARK, DIGITS_8, tmp_path / "supernet.safetensors", DIGITS.largest, tmp_path / "o"
    )
    domain = replace(DIGITS, variables=tuple(replace(each, choices=(1,)) for each in DIGITS.variables))
    with pytest.raises(InputError, match="^w1 of --arch '4-4-.*' is 4; archs of digits are drawn with 1 there"):
        jobs.extract(replace(job, system=replace(EMBEDDED_BENCHMARK, domain=domain)))


def test_a_space_that_is_no_supernet_is_left_alone_by_tracing():
    space = tiny_space()
    network = space.freeze(nni_sample(space, DIGITS.smallest)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain_source(network, (10, 1, 8), about="", module="m", weights="w", normalisation=NORMALISATION)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
