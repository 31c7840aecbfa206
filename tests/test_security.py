"""What files from elsewhere must not do: run code, write to the terminal, reach the network. See docs/security.md."""

import io
import json
import os
import pickle
import re
import shutil
import socket
import stat
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from command import SHORT_TRAINING, run
from helpers import keep_nni_in, random_archs, tiny_supernet
from safetensors.torch import load_file, save_file

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.cli.main import main
from nni_nas_consistency.errors import CheckpointError, DataError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.images.datasets import cifar100
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.training.checkpoints import AtomicCheckpoints

QUICK = ("--common", "--resamples", 2)
EVIL = "\x1b]0;owned\x07\x9b31m\u202e\u2066evil"
"""Sets the title of a terminal, its colour, and the direction of the text."""


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a checkpoint, a list, scores, a run that can go on, and a journal."""
    folder = tmp_path_factory.mktemp("made")
    save_supernet(folder / "supernet.safetensors", tiny_supernet(torch.float32), {"data": "digits"})
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 9), 1)}
    write_released(folder / "list.json", {name: Entry(arch, index) for index, (name, arch) in enumerate(archs.items())})
    run(*scoring(folder))
    run(*SHORT_TRAINING, "--out", folder / "run")
    (folder / "run" / "supernet.safetensors").unlink()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "folder")


def scoring(folder):
    supernet, archs, out = (folder / name for name in ("supernet.safetensors", "list.json", "scores.json"))
    return ("score", "--checkpoint", supernet, "--archs", archs, "--images", 40, "--out", out)


# pickles


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_the_payload_of_these_tests_does_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


READERS = {
    "supernet.safetensors": lambda folder: scoring(folder),
    "list.json": lambda folder: scoring(folder),
    "scores.json": lambda folder: ("rank", folder / "scores.json", folder / "list.json", "--space", "digits"),
    "out.journal": lambda folder: (*scoring(folder)[:-1], folder / "out.json"),
    "run/settings.json": lambda folder: (*SHORT_TRAINING, "--out", folder / "run"),
    "run/checkpoints/last.ckpt": lambda folder: (*SHORT_TRAINING, "--out", folder / "run"),
}


@pytest.mark.parametrize("name", READERS)
def test_no_file_that_a_verb_reads_is_unpickled(folder, name):
    (folder / name).write_bytes(pickle.dumps(Payload(folder / "ran")))
    assert str(folder / name) in run(*READERS[name](folder), code=2).error
    assert not (folder / "ran").exists()


def test_a_checkpoint_of_the_very_run_with_a_pickle_inside_is_refused_and_not_run(folder):
    path = folder / "run" / "checkpoints" / "last.ckpt"
    content = AtomicCheckpoints().load_checkpoint(path)
    AtomicCheckpoints().save_checkpoint({**content, "loops": Payload(folder / "ran")}, path)  # sealed, and of this run
    assert "last.ckpt: cannot be read" in run(*SHORT_TRAINING, "--out", folder / "run", code=2).error
    with pytest.raises(CheckpointError, match="cannot be read"):
        AtomicCheckpoints().load_checkpoint(path)  # what Lightning calls
    with pytest.raises(TypeError, match="others can run any code"):
        AtomicCheckpoints().load_checkpoint(path, weights_only=False)
    assert not (folder / "ran").exists()


def test_a_pickle_among_the_published_images_is_refused_by_its_checksum_before_it_is_read(tmp_path):
    images = tmp_path / "cifar-100-python"
    images.mkdir()
    for name in ("train", "test", "meta"):
        (images / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(DataError, match="is damaged .its MD5 is not the published one."):
        cifar100(tmp_path, train=False)
    assert not (tmp_path / "ran").exists()


# terminals


def changed_texts(value):
    """Yield copies of a JSON value with one text or key in it that is evil."""
    if isinstance(value, str):
        yield value + EVIL
    elif isinstance(value, dict):
        for key, item in value.items():
            yield {(name + EVIL if name == key else name): each for name, each in value.items()}
            yield from ({**value, key: changed} for changed in changed_texts(item))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in changed_texts(item))


def first_archs(document):
    """Return a list or score file with its first two archs only: all are alike."""
    if "scores" in document:
        return {**document, "scores": dict(list(document["scores"].items())[:2])}
    return dict(list(document.items())[:2])


def control_characters(words):
    """Return what a command prints that a terminal does not show but does, whether the command fails or not."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        main([str(word) for word in words])
    return {each for each in printed.getvalue() if unicodedata.category(each) in ("Cc", "Cf") and each != "\n"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("list.json", lambda folder: ("archs", "check", "--space", "digits", folder / "list.json")),
        ("list.json", lambda folder: ("rank", folder / "scores.json", folder / "list.json", *QUICK)),
        ("scores.json", lambda folder: ("rank", folder / "scores.json", folder / "list.json", *QUICK)),
        (
            "scores.json",
            lambda folder: ("rank", folder / "scores.json", folder / "list.json", *QUICK, "--space", "resnet20"),
        ),
        ("run/settings.json", lambda folder: (*SHORT_TRAINING, "--out", folder / "run")),
    ],
)
def test_no_text_in_a_file_controls_the_terminal(folder, name, words):
    document = json.loads((folder / name).read_text())
    variants = list(changed_texts(first_archs(document) if name != "run/settings.json" else document))
    assert len(variants) > 3
    for changed in variants:
        (folder / name).write_text(json.dumps(changed))
        assert not control_characters(words(folder)), changed


@pytest.mark.parametrize("key", ["format", "space", "about"])
def test_no_text_in_a_checkpoint_controls_the_terminal(folder, key):
    path = folder / "supernet.safetensors"
    with open(path, "rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    texts = metadata[key] if key == "format" else json.loads(metadata[key])
    for changed in changed_texts(texts):
        text = changed if key == "format" else json.dumps(changed)
        save_file(load_file(path), path, {**metadata, key: text})
        assert not control_characters((*scoring(folder), "--overwrite")), text


# network and files


def test_nothing_reaches_the_network_or_opens_a_port_unless_a_download_is_asked_for(folder, monkeypatch):
    reached = []

    def refuse(*words):
        reached.append(words)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)
    run(*SHORT_TRAINING, "--out", folder / "run")
    run(*scoring(folder), "--limit", 3, "--overwrite")
    run("rank", folder / "scores.json", folder / "list.json", "--common", "--report", folder / "report")
    run("search", "--checkpoint", folder / "supernet.safetensors", "--trials", 2, "--out", folder / "searched.json")
    words = ("train", "--data", "cifar100", "--data-root", folder, "--out", folder / "other")
    assert "add --download" in run(*words, code=2).error
    assert not reached
    assert "could not be downloaded" in run(*words, "--download", code=2).error
    assert reached


def test_the_report_of_an_unforeseen_error_is_for_its_owner_alone(folder, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(jobs, "rank", fail)
    error = run("rank", folder / "scores.json", folder / "list.json", code=1).error
    report = Path(error.rsplit(maxsplit=1)[1])
    assert "ZeroDivisionError" in report.read_text()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    report.unlink()


def test_the_tests_that_the_threat_model_names_exist():
    tests = Path(__file__).parent
    threat_model = (tests.parent / "docs" / "security.md").read_text()
    source = "".join(path.read_text() for path in tests.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", threat_model))
    files = {name for name in named if (tests / f"{name}.py").exists()}
    assert len(named - files) > 10
    assert not {name for name in named - files if f"def {name}(" not in source}
