"""The example of CVPR 2022 on folders of images, run to the end as a reader would run it, on small data."""

import json
import pickle
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from command import run
from helpers import keep_nni_in, random_archs
from image_folders import truncate
from PIL import Image
from safetensors.torch import load_file

from nni_nas_consistency.archs.codecs import RESNET48_CODEC
from nni_nas_consistency.archs.domains import RELEASED
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images import datasets
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.strategies import oneshot

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "cvpr2022"
README = (EXAMPLE / "README.md").read_text()
SMALL, IMAGENET = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line) for line in SMALL.splitlines()]
LIST = "CVPR_2022_NAS_Track1_test.json"
SHORTER = {"--limit": "9", "--epochs": "1", "--side": "8", "--val-images": "6", "--batch-size": "4"}
SHORTER["--precision"] = "32-true"  # in bf16, torch 2.12 leaves gradients unset that 3×3 kernels have on 1×1 features
"""What follows an option, in place of what the example has."""

MEASURES = ("pearson", "kendall")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which all commands of the example have run, and what each printed."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(folder, patch)
        patch.chdir(folder)
        write_released(Path(LIST), {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(random_archs(RELEASED, 9), 1)})
        write_cifar(patch)
        printed = [run(*shorter(words[1:])) for words in COMMANDS[2:-1]]
        return folder, [*printed, run(*COMMANDS[-1][1:], "--resamples", 20)]


def write_cifar(patch):
    """Run the script of the example on a CIFAR-100 of random images, of which three classes are written."""
    Path("data/cifar-100-python").mkdir(parents=True)
    Path("data/cifar-100-python/meta").write_bytes(pickle.dumps({"fine_label_names": ["cat", "dog", "owl"]}))
    patch.setattr(datasets, "cifar100", random_cifar)
    words = [word.replace("10", "3").replace("200", "8") for word in COMMANDS[1][2:]]
    patch.setattr(sys, "argv", ["write_folder.py", *words])
    runpy.run_path(str(EXAMPLE / "write_folder.py"), run_name="__main__")


def random_cifar(root, *, train):
    generator = torch.Generator().manual_seed(int(train))
    labels = torch.arange(60) % 4
    return Images(torch.randint(256, (60, 3, 32, 32), generator=generator).to(torch.uint8), labels, 4)


def shorter(words):
    """Return the words of a command with less to do."""
    options = ["", *words[:-1]]
    changed = [SHORTER.get(option, word) for option, word in zip(options, words, strict=True)]
    changed = ["3" if words[index] == "24" else word for index, word in enumerate(changed)]
    return [word.replace("phase0_epochs=5", "phase0_epochs=1").replace("size=16", "size=8") for word in changed]


def test_the_script_writes_the_images_of_cifar_into_folders_of_their_classes(done):
    root = done[0] / "runs/cvpr2022/images"
    written = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*/*.png"))
    assert len(written) == 3 * (8 + 15) and "train/dog/00001.png" in written and "val/owl/00058.png" in written
    pixels = random_cifar(None, train=False).x[58].permute(1, 2, 0).numpy()
    assert (Image.open(root / "val/owl/00058.png").tobytes()) == pixels.tobytes()


def test_the_list_is_scored_in_shards_in_released_form(done):
    folder, printed = done
    assert [Path(line).name for line in printed[1].out.split()] == ["scores.shard1of2.journal"]
    assert "scores.submission.json" in printed[2].out
    released = read_released(folder / LIST, RESNET48_CODEC)
    scores = read_scores(folder / "runs/cvpr2022/scores.json", RESNET48_CODEC)
    submission = read_released(folder / "runs/cvpr2022/scores.submission.json", RESNET48_CODEC)
    assert {name: arch for name, (arch, _) in scores.scores.items()} == {
        name: entry.arch for name, entry in submission.items()
    }
    assert list(submission) == list(released) and len({entry.acc for entry in submission.values()}) > 5
    assert scores.provenance["data"] == "folder" and scores.provenance["shape"] == [3, 3, 8]
    assert scores.provenance["images"] == 45


def test_archs_rank_beside_the_costs_of_the_member_that_was_trained(done):
    folder, printed = done
    assert "|pearson|" in printed[-1].out and "kendall" in printed[-1].out
    report = json.loads((folder / "runs/cvpr2022/report/report.json").read_text())
    assert [row["name"] for row in report["archs"]] == ["arch1", "arch2", "arch3"] and set(report["baselines"]) == {
        "params",
        "MACs",
    }
    assert report["settings"]["shape"] == [3, 3, 8]


def test_the_commands_for_imagenet_have_words_that_the_command_line_takes(done, monkeypatch):
    monkeypatch.chdir(done[0])
    Path("imagenet").mkdir()
    commands = [line.partition("nni-consistency ")[2].replace("$i", "1").rstrip(" &") for line in IMAGENET.splitlines()]
    train, score = (shlex.split(command) for command in commands if command)
    place = train.index("--devices")  # starts this program once more for each, by its command line
    assert train[place + 1] == "4"
    assert "neither train nor val" in run(*train[:place], *train[place + 2 :], code=2).error
    assert "runs/cvpr2022/imagenet/supernet.safetensors: cannot be read" in run(*score, code=2).error


def test_the_expected_cost_is_what_the_script_computes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cost.py"])
    runpy.run_path(str(EXAMPLE / "cost.py"), run_name="__main__")
    assert f"```text\n{capsys.readouterr().out}```" in README


def test_images_are_chosen_searched_on_and_held_out_of_the_same_folder(done, monkeypatch):
    monkeypatch.chdir(done[0])
    keep_nni_in(done[0], monkeypatch)
    trained = ("--checkpoint", "runs/cvpr2022/supernet/supernet.safetensors", "--data-root", "runs/cvpr2022/images")
    few = ("--archs-scored", 4, "--count", 12, "--batch-size", 4)
    run("images", "choose", *trained, "--archs", LIST, *few, "--out", "chosen.json")
    scored = ("--archs", LIST, "--limit", 4, "--batch-size", 4)
    run("score", *trained, *scored, "--images-file", "chosen.json", "--out", "chosen-scores.json")
    run(
        "score", *trained, *scored, "--val-fraction", 0.25, "--workers", 0, "--cache", "cache", "--out", "held-out.json"
    )
    found = [read_scores(Path(name), RESNET48_CODEC).provenance for name in ("chosen-scores.json", "held-out.json")]
    assert [provenance["images"] for provenance in found] == [12, 6] and found[1]["val_fraction"] == 0.25
    assert [path.name.split("-")[0] for path in Path("cache").glob("*.json")] == ["held"]
    run("search", *trained, "--images", 8, "--trials", 3, "--population", 2, "--out", "searched.json")
    assert read_scores(Path("searched.json"), RESNET48_CODEC).provenance["shape"] == [3, 3, 8]


def test_the_measured_page_quotes_its_report():
    page = (ROOT / "docs" / "measured-2022.md").read_text()
    report = json.loads((ROOT / "docs" / "measured" / "cvpr2022" / "report.json").read_text())
    for name, column in {"supernet, recipe": report["consistency"], **report["baselines"]}.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name}")]
        found = [f"{column[of]['value']:.3f} [{column[of]['low']:.3f}, {column[of]['high']:.3f}]" for of in MEASURES]
        assert row.endswith(f"| {' | '.join(found)} | {column['n']} |")
    accuracies = [arch["reference"] for arch in report["archs"]]
    assert f"from {min(accuracies):.3f} to {max(accuracies):.3f}" in page


def test_a_killed_training_on_a_folder_ends_with_the_same_weights(done, monkeypatch):
    """Killed in the middle of an epoch, with as many workers as the other run has not."""
    monkeypatch.chdir(done[0])
    keep_nni_in(done[0], monkeypatch)
    words = [*shorter(COMMANDS[2][1:]), "--checkpoint-steps", "1"]
    words[words.index("--out") + 1] = "killed"
    words[words.index("--workers") + 1] = "0"
    steps = 0

    def dies(self, *arguments, **settings):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return forward(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        forward = oneshot.SandwichModule.training_step
        patch.setattr(oneshot.SandwichModule, "training_step", dies)
        run(*words, code=130)
    run(*words, "--resume")
    one, other = (Path(f"{out}/supernet.safetensors") for out in ("killed", "runs/cvpr2022/supernet"))
    weights, expected = load_file(one), load_file(other)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_training_image_that_cannot_be_decoded_ends_the_training_in_one_line(done, tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    root = tmp_path / "images"
    shutil.copytree(done[0] / "runs/cvpr2022/images", root)
    truncate(root / "train/cat/00000.png")
    words = shorter(COMMANDS[2][1:])
    words[words.index("--data-root") + 1] = root
    words[words.index("--out") + 1] = tmp_path / "new"
    (root / "prepared").rename(tmp_path / "prepared")
    error = run(*words, code=2).error
    assert f"{root / 'train/cat/00000.png'}: cannot be decoded" in error and "\n" not in error
