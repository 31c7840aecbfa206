"""One transformer: official weights converted, evaluated, fine-tuned with a new head, trained from scratch."""

import json
from dataclasses import replace

import pytest
import torch
from command import run
from helpers import keep_nni_in
from official_autoformer import official_logits, official_weights
from PIL import Image
from safetensors.torch import load_file, save_file

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.autoformer import TOY
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import IMAGENET_TEST
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.checkpoint import save_network, save_supernet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import AUTOFORMER_TOY, CIFAR10, DIGITS_8, EMBEDDED_BENCHMARK
from nni_nas_consistency.training.alone import plain_network

SHAPE = (10, 1, 8)
SUPER = {"width": 40, "heads": (2, 2, 2, 2), "hidden": (160,) * 4}
"""A supernet that is wider than the widest subnet, as the official ones are."""
SUBNET = TOY.arch(24, (1, 2, 1), (2, 4, 1))
SIZES = {"width": 24, "heads": (1, 2, 1), "hidden": (48, 96, 24)}
FULL_HEADS = TOY.arch(16, (2, 2), (4, 1))
SPACE = ("--space", "autoformer-digits")


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


def images(count=5, seed=1):
    return torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(path, arch=None):
    return jobs.network_of(AUTOFORMER_TOY, path, arch)[0].double().eval()


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_official_subnet_has_the_same_logits_and_tells_its_arch(wrapped, tmp_path):
    weights = official_weights(**SIZES)
    torch.save({"model": weights, "epoch": 3} if wrapped else weights, tmp_path / "official.pth")
    done = run("convert", tmp_path / "official.pth", *SPACE, "--out", tmp_path / "net.safetensors")
    assert SUBNET.code in done.out
    x = images()
    expected = official_logits(weights, x, **SIZES)
    assert expected.std() > 0.1
    weights32 = {name: tensor.float().double() for name, tensor in weights.items()}  # as they are kept
    expected = official_logits(weights32, x, **SIZES)
    torch.testing.assert_close(network(tmp_path / "net.safetensors")(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", [SUBNET, TOY.domain.largest, TOY.domain.smallest])
def test_a_subnet_cut_out_of_an_official_supernet_has_the_same_logits(arch, tmp_path):
    weights = official_weights(**SUPER)
    torch.save(weights, tmp_path / "super.pth")
    run("convert", tmp_path / "super.pth", *SPACE, "--arch", arch.code, "--out", tmp_path / "net.safetensors")
    weights = {name: tensor.float().double() for name, tensor in weights.items()}
    depth, width = arch.choices["depth"], arch.choices["embed_dim"]
    heads = [arch.choices[f"num_head_{block}"] for block in range(depth)]
    hidden = [int(width * arch.choices[f"mlp_ratio_{block}"]) for block in range(depth)]
    expected = official_logits(weights, images(), width, heads, hidden)
    torch.testing.assert_close(network(tmp_path / "net.safetensors")(images()), expected, rtol=1e-9, atol=1e-9)


def test_an_official_supernet_is_exact_at_full_heads_and_says_so(tmp_path):
    weights = official_weights(**SUPER)
    torch.save(weights, tmp_path / "super.pth")
    done = run("convert", tmp_path / "super.pth", *SPACE, "--out", tmp_path / "super.safetensors")
    assert "fewer heads" in done.err
    supernet, about = jobs.load_trained(AUTOFORMER_TOY, tmp_path / "super.safetensors", SHAPE)
    assert about["converted_from"] == "super.pth"
    supernet.double().eval()
    weights = {name: tensor.float().double() for name, tensor in weights.items()}
    expected = official_logits(weights, images(), 16, (2, 2), (64, 16))
    torch.testing.assert_close(logits_of(supernet, images(), FULL_HEADS), expected, rtol=1e-9, atol=1e-9)
    sliding = official_logits(weights, images(), **SIZES)
    assert not torch.allclose(logits_of(supernet, images(), SUBNET), sliding, atol=1e-3)


def test_weights_of_nnis_own_networks_and_supernets_are_taken_as_they_are(tmp_path):
    torch.manual_seed(0)
    supernet = make_supernet(AUTOFORMER_TOY.make_space(SHAPE)).eval()
    x = images().float()
    expected = logits_of(supernet, x, SUBNET)
    torch.save(supernet.state_dict(), tmp_path / "super.pth")
    save_file(supernet.freeze(SUBNET.sample).state_dict(), tmp_path / "net.plain.safetensors")
    for source, words in (("super.pth", ("--arch", SUBNET.code)), ("net.plain.safetensors", ())):
        run("convert", tmp_path / source, *SPACE, *words, "--out", tmp_path / "net.safetensors", "--overwrite")
        assert torch.equal(network(tmp_path / "net.safetensors").float()(x), expected)
    run("convert", tmp_path / "super.pth", *SPACE, "--out", tmp_path / "super.safetensors")
    again, _ = jobs.load_trained(AUTOFORMER_TOY, tmp_path / "super.safetensors", SHAPE)
    assert torch.equal(logits_of(again.eval(), x, SUBNET), expected)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    torch.manual_seed(1)
    supernet = make_supernet(AUTOFORMER_TOY.make_space(SHAPE))
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    save_supernet(path, supernet, {"data": "digits"})
    return path


def test_an_evaluation_counts_the_largest_and_the_five_largest_logits(supernet, tmp_path):
    words = ("--weights", supernet, "--arch", SUBNET.code, "--images", 90, "--batch-size", 40)
    found = json.loads(run("evaluate", *words, "--json").out)
    test = DIGITS_8.images(None, train=False).first(90)
    x = (test.x.double() / 255 - DIGITS_8.test.mean[0]) / DIGITS_8.test.std[0]
    order = network(supernet, SUBNET)(x).argsort(1, descending=True)
    right = order == test.y[:, None]
    assert found == {"top1": int(right[:, 0].sum()) / 90, "top5": int(right[:, :5].sum()) / 90, "images": 90}
    assert run("evaluate", *words).out == f"top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%} of 90 test images\n"


def test_a_network_is_evaluated_on_a_folder_of_images(tmp_path):
    space = AUTOFORMER_TOY.make_space((10, 3, 8))
    torch.manual_seed(2)
    net = plain_network(space, SUBNET).eval()
    save_network(tmp_path / "net.safetensors", net, space, SUBNET, {})
    colours = torch.randint(256, (10, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    for split in ("train", "val"):
        for name, colour in zip("abcdefghij", colours.tolist(), strict=True):
            path = tmp_path / "images" / split / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (11, 9), tuple(colour)).save(path)
    words = ("--data", "folder", "--data-root", tmp_path / "images", "--workers", 0, "--json")
    found = json.loads(run("evaluate", "--weights", tmp_path / "net.safetensors", *words).out)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_TEST.mean, IMAGENET_TEST.std))
    x = (colours[:, :, None, None].float().expand(-1, -1, 8, 8) / 255 - mean) / std
    best = net(x).topk(5).indices == torch.arange(10)[:, None]
    assert found == {"top1": best[:, 0].sum().item() / 10, "top5": best.sum().item() / 10, "images": 10}


def fitting(out, data=DIGITS_8, **changes):
    plan = replace(AUTOFORMER_TOY.finetune, epochs=2, warmup_epochs=1, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    few = {"train_images": 64, "val_images": 20, "device": "cpu", "checkpoint_steps": 1}
    return jobs.FitJob(AUTOFORMER_TOY, data, SUBNET, out, **{"optimization": plan, **few, **changes})


def silently(line):
    pass


def test_fine_tuning_draws_the_head_anew_and_keeps_all_other_weights(supernet, tmp_path):
    frozen = replace(fitting(tmp_path).optimization, lr=0.0, end_lr=0.0)
    path, _ = jobs.fit(fitting(tmp_path / "run", weights=supernet, optimization=frozen), write=silently)
    before, after = network(supernet, SUBNET).float().state_dict(), load_file(path)
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_an_interrupted_training_of_a_network_says_so(tmp_path):
    def interrupt(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.fit(fitting(tmp_path / "run"), write=interrupt)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("from_weights", [False, True])
def test_a_killed_training_of_a_network_ends_with_the_same_weights(from_weights, supernet, tmp_path):
    class Killed(BaseException):
        pass

    def kill(line):
        if line.startswith("epoch 2/"):
            raise Killed

    weights = supernet if from_weights else None
    whole, accuracy = jobs.fit(fitting(tmp_path / "whole", weights=weights), write=silently)
    with pytest.raises(Killed):
        jobs.fit(fitting(tmp_path / "killed", weights=weights), write=kill)
    assert (tmp_path / "killed" / "checkpoints" / "last.ckpt").is_file()
    torch.randn(7)  # a process of its own would begin with another state
    resumed, again = jobs.fit(fitting(tmp_path / "killed", weights=weights), write=silently)
    assert again == accuracy
    assert all(torch.equal(tensor, load_file(whole)[name]) for name, tensor in load_file(resumed).items())
    lines = []
    assert jobs.fit(fitting(tmp_path / "killed", weights=weights), write=lines.append) == (resumed, None)
    assert "is trained already" in lines[0]
    with pytest.raises(InputError, match="holds a run with seed 0, not 1"):
        jobs.fit(fitting(tmp_path / "killed", weights=weights, seed=1), write=silently)


def test_a_network_goes_on_to_images_of_another_size_which_are_resized(supernet, tmp_path):
    words = ("--arch", SUBNET.code, "--image-size", 16, "--train-images", 64, "--epochs", 1, "--set", "warmup_epochs=0")
    run("fit", *SPACE, *words, "--out", tmp_path / "large")
    weights = tmp_path / "large" / "network.safetensors"
    found = json.loads(run("evaluate", "--weights", weights, "--images", 20, "--json").out)
    trained = load_file(weights)
    assert trained["pos_embed.pos_embed"].shape == (1, 65, 24)
    test = DIGITS_8.images(None, train=False).first(20)
    x = (test.x.double() / 255 - DIGITS_8.test.mean[0]) / DIGITS_8.test.std[0]
    x = torch.nn.functional.interpolate(x, (16, 16), mode="bicubic", antialias=True)
    right = int((network(weights)(x).argmax(1) == test.y).sum())
    assert found["top1"] == right / 20


def test_a_chain_space_is_fitted_and_evaluated_too(tmp_path):
    code = "-".join(["2"] * 20)
    words = ("--train-images", 64, "--epochs", 1, "--set", "warmup_steps=0", "--val-images", 20)
    done = run("fit", "--space", "digits", "--arch", code, *words, "--out", tmp_path / "run")
    weights = tmp_path / "run" / "network.safetensors"
    assert done.out.splitlines()[1] == run("evaluate", "--weights", weights).out.strip()
    with pytest.raises(InputError, match="different space than autoformer-digits"):
        jobs.network_header(AUTOFORMER_TOY, weights, None)
    assert jobs.network_header(EMBEDDED_BENCHMARK, weights, None).arch == code


def test_what_does_not_fit_is_refused_before_work(supernet, tmp_path):
    with pytest.raises(InputError, match="1 channel.s., cifar10 has 3"):
        jobs.fit(fitting(tmp_path / "run", weights=supernet, data=CIFAR10, data_root=tmp_path))
    with pytest.raises(InputError, match="image_size 16: .* is for images of 8 pixels"):
        jobs.fit(fitting(tmp_path / "run", weights=supernet, image_size=16))
    assert not (tmp_path / "run").exists()
