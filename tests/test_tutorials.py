"""The tutorials do what they say: their commands and their Python run, in the order of the page, at toy size."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command import run
from helpers import keep_nni_in

from nni_nas_consistency.archs.codecs import DIGITS_CODEC, RESNET20_CODEC
from nni_nas_consistency.files.score_files import read_scores

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))

SMALLER_COMMANDS = {
    "train": "--epochs 1 --n 3 --train-images 64 --val-images 20 --set warmup_steps=0 --device cpu",
    "score": "--images 50 --device cpu",
    "search": "--images 50 --trials 4 --population 2 --device cpu",
    "rank": "--resamples 20",
    "images": "--count 20 --archs-scored 4 --device cpu",
    "archs": "--count 40",
    "extract": "--images 50",
}
"""What a verb's command is followed by: of an option that is given twice, the last counts."""

SMALLER_PYTHON = {
    r"digits\(train=True\)": "digits(train=True).first(192)",
    r"for_epochs\(\d+\)": "for_epochs(1)",
    r"\[:1200\]": "[:192]",
    r"\[1200:\]": "[1700:]",
    r"max_trial_number=\d+": "max_trial_number=3",
}


def blocks_of(page):
    """Return language and text of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def follow(page):
    """Run the commands and the Python of a page, and return the names that its Python leaves."""
    names = {"__name__": page.stem}
    for language, text in blocks_of(page):
        if language == "bash":
            for line in text.splitlines():
                run_command(line)
        if language == "python":
            exec(compile(smaller(text), page.name, "exec"), names)
    return names


def run_command(line):
    program, *words = shlex.split(line)
    assert program == "nni-consistency", line
    extra = "" if words[:2] == ["archs", "check"] or "--images-file" in words else SMALLER_COMMANDS[words[0]]
    for shard in shards_of(line):
        run(*words, *shard, *extra.split())


def shards_of(line):
    """Return the last words of a command for every shard, where it is that of the first of several."""
    if not re.search(r"--shard 1/\d+$", line):
        return [[]]
    return [["--shard", f"{index}/8"] for index in range(1, 9)]  # 40 archs make no more segments


def smaller(python):
    for pattern, replacement in SMALLER_PYTHON.items():
        python = re.sub(pattern, replacement, python)
    return python


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which has the package in it as a clone has."""
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nni_nas_consistency").symlink_to(ROOT / "nni_nas_consistency")
    return tmp_path


@pytest.mark.parametrize("page", TUTORIALS, ids=[page.stem for page in TUTORIALS])
def test_a_tutorial_runs_from_its_first_line_to_its_last(page, folder):
    assert any(language in ("bash", "python") for language, _ in blocks_of(page))
    names = follow(page)
    CHECKS[page.stem](names)


def check_first_supernet(names):
    searched = read_scores(Path("runs/first/searched.json"), DIGITS_CODEC).scores
    assert names["score"] == max(score for _, score in searched.values())
    assert names["network"].links[0].conv.conv.weight.shape[0] == names["best"].choices["w1"]
    assert Path("runs/first/report/report.html").is_file() and Path("runs/first/subnet.safetensors").is_file()


def check_own_space(names):
    scores = read_scores(Path("runs/three-layers/scores.json"), names["CODEC"]).scores
    assert {code: score for code, (_, score) in scores.items()} == names["scored"].scores
    assert len(set(names["scored"].scores.values())) == 3
    assert len(list(names["strategy"].list_models())) == 3


def check_own_data(names):
    assert names["supernet"].links[-1].num_classes == 2
    assert len(names["scores"]) == len(names["accuracies"]) == 16
    assert all(score < 0 for score in names["scores"])
    assert len(list(Path("photos/train/odd").iterdir())) == 906 and Path("photos/prepared").is_dir()
    scored = read_scores(Path("runs/photos/scores.json"), RESNET20_CODEC)
    assert len(scored.scores) == 40 and scored.provenance["data"] == "folder"


def check_ten_machines(names):
    """See that ten shards give the bytes of one."""
    words = "score --checkpoint shared/run/supernet.safetensors --archs shared/list.json --out shared/whole.json"
    run_command(f"nni-consistency {words}")
    for ending in ("json", "acc.json", "submission.json"):
        assert Path(f"shared/scores.{ending}").read_bytes() == Path(f"shared/whole.{ending}").read_bytes()
    assert not list(Path("shared").glob("*.journal"))
    assert len(json.loads(Path("shared/images.json").read_text())["images"]) == 20


def check_rank_report(names):
    report = json.loads(Path("runs/report/report.json").read_text())
    assert report["consistency"]["n"] == 64 and list(report["baselines"]) == ["params", "MACs"]


CHECKS = {
    "first-supernet": check_first_supernet,
    "own-data": check_own_data,
    "own-space": check_own_space,
    "rank-report": check_rank_report,
    "ten-machines": check_ten_machines,
}
"""What must be there at the end of each page."""
