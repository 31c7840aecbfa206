"""The journal: kills, torn lines, full disks, other settings and second processes. Real processes, killed for real."""

import signal
import subprocess
import sys

import pytest
import torch
from helpers import random_archs, random_batch, tiny_supernet, wait_for
from test_scoring import scoring
from test_shards import ARCHS, MADE_BY, counting, score_shard

from nni_nas_consistency.archs.arch import DIGITS
from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.scoring.arch_list import blocks_of, score_list
from nni_nas_consistency.scoring.journal import Journal, read_journal
from nni_nas_consistency.scoring.plain import Scoring
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.supernet.checkpoint import save_supernet

WORDS = [sys.executable, "-W", "ignore", "-m", "nni_nas_consistency", "score", "--space", "digits", "--data", "digits"]


class Killed(BaseException):
    """Stands for the moment of a kill, where a process of its own would be slow."""


def killed_after(finished):
    """Return a scorer that dies after so many blocks."""

    def scorer(supernet, blocks, scoring, *, advance):
        for number, scores in enumerate(score_prefixes(supernet, blocks, scoring, advance=advance)):
            if number == finished:
                raise Killed
            yield scores

    scorer.__name__ = "score_prefixes"
    return scorer


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_a_run_goes_on_after_the_last_finished_block_and_ends_with_the_same_bytes(tmp_path, finished):
    whole, out, scored = tmp_path / "whole.json", tmp_path / "scores.json", []
    score_shard("1/1", whole)
    with pytest.raises(Killed):
        score_shard("1/1", out, scorer=killed_after(finished))
    assert not out.exists()
    assert len(read_journal(tmp_path / "scores.journal").blocks) == finished
    score_shard("1/1", out, scorer=counting(scored))
    done = {name for block in blocks_of(ARCHS)[:finished] for name in block}
    assert {arch.code for arch in scored} == {arch.code for name, arch in ARCHS.items() if name not in done}
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 4


def test_what_a_kill_left_of_a_line_is_cut_off_wherever_it_struck(tmp_path):
    path = tmp_path / "scores.journal"
    with Journal(path, MADE_BY) as journal:
        for index in range(3):
            journal.add(index, [index + 0.1, -1e-300])
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        with Journal(path, MADE_BY) as journal:
            assert journal.blocks == {index: [index + 0.1, -1e-300] for index in range(whole - 1)}
            journal.add(7, [1.5])
        read = read_journal(path)
        assert read.identity == MADE_BY
        assert read.blocks == {index: [index + 0.1, -1e-300] for index in range(whole - 1)} | {7: [1.5]}


def other(**changes):
    """Return how to score with something else than the first time, and what the message names."""
    settings = {"metric": "loss", "bn": "batch", "seed": 0, "archs": ARCHS, "test": scoring().test, **changes}
    how = Scoring(settings["metric"], settings["bn"], settings["test"], scoring().train)
    return tiny_supernet(seed=settings["seed"]), settings["archs"], how


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "weights "),
        ({"archs": dict(list(ARCHS.items())[:-1])}, "archs "),
        ({"archs": {name: arch for name, arch in zip(ARCHS, reversed(ARCHS.values()), strict=True)}}, "archs "),
        ({"metric": "acc"}, 'metric "loss", not "acc"'),
        ({"bn": "supernet"}, 'bn "batch", not "supernet"'),
        ({"bn": "train"}, 'bn "batch", not "train"; calibration null, not '),
        ({"test": lambda: [random_batch(8, 5)]}, "scored_images "),
    ],
    ids=["checkpoint", "shorter list", "other archs", "metric", "running", "calibrated", "images"],
)
def test_a_journal_of_another_scoring_is_refused_with_what_differs(tmp_path, change, message):
    out = tmp_path / "scores.json"
    with pytest.raises(Killed):
        score_shard("1/1", out, scorer=killed_after(1))
    before = (tmp_path / "scores.journal").read_bytes()
    supernet, archs, how = other(**change)
    with pytest.raises(FileError, match=r"scores.journal: was begun with .*Go on with the same, or delete") as refused:
        score_list(supernet, archs, how, out=out, provenance=MADE_BY)
    assert message in str(refused.value)
    assert (tmp_path / "scores.journal").read_bytes() == before
    supernet, archs, how = other()
    score_list(supernet, archs, how, out=out, provenance=MADE_BY)
    assert out.exists()


def test_a_run_that_failed_before_its_first_block_binds_no_other(tmp_path):
    out = tmp_path / "scores.json"
    with pytest.raises(Killed):
        score_shard("1/1", out, {"batch_size": 512}, scorer=killed_after(0))
    score_shard("1/1", out, {"batch_size": 256})
    assert read_scores(out, DIGITS).provenance["batch_size"] == 256


@pytest.mark.parametrize("content", [b"hello\n", b'{"format": "other"}\n', b"[1, 2]\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "scores.journal"
    path.write_bytes(content)
    with pytest.raises(FileError, match="scores.journal: is no journal of scores; move it away"):
        Journal(path, MADE_BY)
    assert path.read_bytes() == content


def test_scores_that_are_not_finite_stop_the_run_and_name_the_arch(tmp_path):
    supernet = tiny_supernet()
    with torch.no_grad():
        supernet.stages[19].linear.bias[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"the score of arch\d+ is nan; the supernet has diverged: take an earlier"):
        score_list(supernet, ARCHS, scoring(), out=tmp_path / "scores.json", provenance=MADE_BY)
    assert read_journal(tmp_path / "scores.journal").blocks == {}


def test_a_folder_that_is_missing_is_said(tmp_path):
    with pytest.raises(FileError, match=r"scores.journal: cannot be written \(No such file.*choose another --out"):
        score_shard("1/1", tmp_path / "none" / "scores.json")


HOLD = """
import sys, time
from pathlib import Path
from nni_nas_consistency.scoring.journal import Journal
with Journal(Path(sys.argv[1]), {"seed": 3}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_on_a_shard_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path / "scores.shard1of2.journal"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileError, match="another process is scoring this shard; wait for it, or take another"):
            Journal(path, {"seed": 3})
        with Journal(tmp_path / "scores.shard2of2.journal", {"seed": 3}):
            pass
    finally:
        holder.kill()
        holder.wait()
    with Journal(path, {"seed": 3}) as journal:
        assert journal.blocks == {}


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv[1:] = sys.argv[2:]
from nni_nas_consistency.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list, a supernet, and what an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("scored")
    supernet = tiny_supernet(torch.float32)
    save_supernet(folder / "supernet.safetensors", supernet, {"seed": 0})
    archs = {f"arch{i}": Entry(arch, 0) for i, arch in enumerate(random_archs(DIGITS, 200), 1)}
    write_released(folder / "list.json", archs)
    subprocess.run(command(folder, folder / "whole.json"), check=True, capture_output=True, timeout=300)
    return folder


def command(folder, out):
    files = ["--checkpoint", folder / "supernet.safetensors", "--archs", folder / "list.json", "--out", out]
    return [*WORDS, *files, "--scorer", "subnet", "--device", "cpu"]


def test_killed_for_real_the_same_command_ends_with_the_same_bytes(folder, tmp_path):
    out, journal = tmp_path / "scores.json", tmp_path / "scores.journal"
    sizes = [0]
    for _ in range(2):
        process = subprocess.Popen(command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: journal.exists() and len(read_journal(journal).blocks) > sizes[-1], seconds=120)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        sizes.append(len(read_journal(journal).blocks))
        assert not out.exists()
    assert 0 < sizes[1] < sizes[2] < len(blocks_of(dict.fromkeys(range(200), DIGITS.arch([1] * 20))))
    done = subprocess.run(command(folder, out), check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [str(out), str(tmp_path / "scores.submission.json")]
    assert out.read_bytes() == (folder / "whole.json").read_bytes()
    assert not journal.exists()


def test_a_full_disk_is_a_clear_error_and_what_was_scored_is_kept(folder, tmp_path):
    out, journal = tmp_path / "scores.json", tmp_path / "scores.journal"
    limited = [sys.executable, "-W", "ignore", "-c", FULL, "2500", *command(folder, out)[5:]]
    failed = subprocess.run(limited, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2
    (message,) = [line for line in failed.stderr.splitlines() if line.startswith("error")]
    assert "scores.journal: nothing more can be written (File too large); what was scored is kept: make room" in message
    kept = read_journal(journal)
    assert kept.length == journal.stat().st_size and 0 < len(kept.blocks) < 8
    subprocess.run(command(folder, out), check=True, capture_output=True, timeout=300)
    assert out.read_bytes() == (folder / "whole.json").read_bytes()


def test_a_block_is_on_disk_before_the_next_is_scored(tmp_path):
    sizes = []
    out = tmp_path / "scores.json"

    def scorer(supernet, blocks, scoring, *, advance):
        for scores in score_prefixes(supernet, blocks, scoring, advance=advance):
            yield scores
            sizes.append(len(read_journal(tmp_path / "scores.journal").blocks))

    scorer.__name__ = "score_prefixes"
    score_shard("1/1", out, scorer=scorer)
    assert sizes == list(range(1, len(blocks_of(ARCHS)) + 1))
