"""The examples of AutoFormer, run as a reader would run them, at toy size on digits."""

import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from fake_cifar import take_for_published, write_fake
from helpers import keep_nni_in
from official_autoformer import official_weights
from safetensors.torch import load_file
from torchvision.datasets import CIFAR10

from nni_nas_consistency.archs.autoformer import TOY
from nni_nas_consistency.cli.main import command_tree
from nni_nas_consistency.supernet.checkpoint import save_network, save_supernet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import AUTOFORMER_TOY
from nni_nas_consistency.training.alone import plain_network

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "autoformer"
SCRIPTS = ("convert", "evaluate", "finetune", "scratch", "search")
ARCH = TOY.arch(24, (1, 2), (2, 4))
MEASURES = ("kendall", "pearson")
SHORT = ("--epochs", 1, "--train-images", 64, "--val-images", 20, "--set", "warmup_epochs=0", "--device", "cpu")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path / "home", monkeypatch)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)


def script(name, *words, code=0):
    """Run a script in this process, see that it ends with this exit code, and return both outputs."""
    out, err, argv = StringIO(), StringIO(), sys.argv
    sys.argv = [f"{name}.py", "--name", "digits", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = argv
    assert end.value.code == code, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


def test_official_weights_are_converted_evaluated_and_fine_tuned():
    torch.save({"model": official_weights(24, (1, 2), (48, 96))}, "official.pth")
    out, _ = script("convert", "official.pth", "--out", "net.safetensors")
    assert ARCH.code in out
    out, _ = script("evaluate", "--weights", "net.safetensors", "--images", 50)
    assert out.startswith("top-1 ") and out.endswith(" of 50 test images\n")
    words = ("--weights", "net.safetensors", "--data", "digits", *SHORT, "--out", "tuned")
    out, err = script("finetune", *words)
    assert "epoch 1/1" in err and out.startswith("tuned/network.safetensors\ntop-1 ")
    out, err = script("finetune", *words)
    assert (out, "is trained already" in err) == ("tuned/network.safetensors\n", True)


def test_a_network_is_fine_tuned_on_cifar10_in_its_published_layout(monkeypatch):
    files = {"data_batch_1": 40, "data_batch_2": 40, "test_batch": 30}
    Path("data").mkdir()
    write_fake(CIFAR10, Path("data"), files)
    take_for_published(CIFAR10, Path("data"), files, monkeypatch)
    space = AUTOFORMER_TOY.make_space((100, 3, 16))
    save_network(Path("net.safetensors"), plain_network(space, ARCH), space, ARCH, {"data": "cifar100"})
    words = ("--weights", "net.safetensors", "--data-root", "data", *SHORT, "--out", "tuned")
    out, err = script("finetune", *words)  # of images of 32 pixels, which are resized to 16
    assert "epoch 1/1" in err and out.startswith("tuned/network.safetensors\ntop-1 ")
    assert out.endswith(" of 30 test images\n")
    settings = json.loads(Path("tuned/settings.json").read_text())
    assert (settings["data"], settings["image_size"], settings["images"]) == ("cifar10", 16, 64)
    assert load_file("tuned/network.safetensors")["head.weight"].shape == (10, 24)
    (Path("data") / CIFAR10.base_folder / "test_batch").write_bytes(b"damaged")
    _, err = script("finetune", *words[:-1], "again", code=2)
    assert err.startswith("error: data/cifar-10-batches-py/test_batch is damaged (its MD5 is not the published one)")


def test_a_subnet_is_trained_from_scratch_with_mixed_images():
    mixed = [word for name in ("mixup=0.8", "cutmix=1.0", "label_smoothing=0.1") for word in ("--set", name)]
    out, err = script("scratch", "--arch", ARCH.code, *SHORT, *mixed, "--out", "scratch")
    assert "epoch 1/1" in err and out.startswith("scratch/network.safetensors\ntop-1 ")
    settings = json.loads(Path("scratch/settings.json").read_text())
    assert (settings["mixup"], settings["optimizer"], settings["arch"]) == (0.8, "adamw", ARCH.code)


def test_a_supernet_is_searched_within_the_published_bound_or_another_one():
    torch.manual_seed(0)
    save_supernet(Path("super.safetensors"), make_supernet(AUTOFORMER_TOY.make_space((10, 1, 8))), {"data": "digits"})
    words = ("--checkpoint", "super.safetensors", "--images", 20, "--population", 2)
    script("search", *words, "--trials", 2, "--latency-batch", 4, "--out", "fast.json")
    provenance = json.loads(Path("fast.json").read_text())["provenance"]
    assert (provenance["max_latency_ms"], provenance["latency"]["batch_size"]) == (100, 4)
    script("search", *words, "--trials", 3, "--max-params", "40k", "--out", "small.json")
    found = json.loads(Path("small.json").read_text())
    assert found["provenance"]["bn"] == "supernet" and found["provenance"]["max_params"] == 40_000
    assert "max_latency_ms" not in found["provenance"]
    for entry in found["scores"].values():
        assert AUTOFORMER_TOY.cost(TOY.codec.parse(entry["arch"]), (10, 1, 8)).params <= 40_000


PAGE = (FOLDER / "README.md").read_text()
(SAMPLE,) = re.findall(r"^ARCH='(.*?)'", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", re.findall(r"^(?:nni-consistency|python) .*", PAGE, re.MULTILINE))
def test_every_command_of_the_page_has_words_that_the_command_line_takes(line, monkeypatch):
    read = []
    monkeypatch.setattr(importlib.import_module("arguments"), "main", lambda words: read.extend(words) or 0)
    program, *words = [SAMPLE if word == "$ARCH" else word for word in shlex.split(line)]
    if program == "python":
        script(Path(words[0]).stem, *words[1:])
        words = read
    command = command_tree()
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    made = command.make_context(command.name, list(words))
    assert not made.args
    if made.params.get("arch") == SAMPLE:
        TOY.codec.parse(SAMPLE)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("evaluate", ("--weights", "nowhere"), "error: nowhere: cannot be read"),
        ("convert", ("nowhere.pth", "--out", "net"), "error: nowhere.pth: cannot be read"),
        ("finetune", ("--weights", "nowhere"), "error: nowhere: cannot be read"),
        ("scratch", ("--arch", "small"), "error: --arch: the code 'small' is not JSON"),
        ("search", ("--checkpoint", "nowhere"), "error: nowhere: cannot be read"),
    ],
)
def test_bad_input_is_refused_in_one_line(name, words, said):
    out, err = script(name, *words, code=2)
    assert out == "" and err.startswith(said) and err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_help_tells_the_command():
    done = subprocess.run([sys.executable, FOLDER / "evaluate.py", "--help"], capture_output=True, text=True)
    assert "--weights tiny.safetensors" in done.stdout


def test_every_figure_of_the_page_is_in_the_committed_file():
    page, measured = PAGE, json.loads((FOLDER / "measured.json").read_text())
    for name, column in measured["digits"]["consistency"].items():
        cells = (f"{column[m]['value']:.3f} [{column[m]['low']:.3f}, {column[m]['high']:.3f}]" for m in MEASURES)
        assert f"| {name} | {' | '.join(cells)} |" in page
    for network in (measured["cifar100"]["finetuned"], measured["cifar100"]["scratch"]):
        if "top1" in network:
            assert f"| {network['top1']:.2%} / {network['top5']:.2%} |" in page
    assert " /" not in json.dumps(measured).replace(' "/', " /")  # no folder of the machine


def test_every_script_is_short_and_on_the_page():
    page = PAGE
    for name in SCRIPTS:
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 30
        assert f"examples/autoformer/{name}.py" in page
