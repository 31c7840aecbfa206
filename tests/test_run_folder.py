"""The folder of a training run: one identity, one process, and every end that is no success says so."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from command import FEW, SHORT_TRAINING, run
from helpers import keep_nni_in
from safetensors.torch import load_file

from nni_nas_consistency import jobs
from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.run_folder import open_run
from nni_nas_consistency.files.seal import sealed
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK
from nni_nas_consistency.training.checkpoints import AtomicCheckpoints, check_checkpoint
from nni_nas_consistency.training.recipes import EMBEDDED

EPOCHS = 4


class Killed(BaseException):
    """Stands for the moment of a kill, where a process of its own would be slow."""


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


def few_steps(out, **settings):
    """Return a training of four epochs, two steps each."""
    phase = EMBEDDED.phases[0]
    optimization = replace(phase.optimization, epochs=EPOCHS, warmup_steps=2)
    recipe = replace(EMBEDDED, phases=(replace(phase, n=3, optimization=optimization),))
    settings = {"train_images": 64, "val_images": 20, "device": "cpu"} | settings
    return jobs.TrainJob(EMBEDDED_BENCHMARK, EMBEDDED_BENCHMARK.data, recipe, out, **settings)


def kill_in_epoch(number):
    """Return a writer of lines that dies at the end of an epoch, before its checkpoint."""

    def write(line):
        if line.startswith(f"epoch {number}/"):
            raise Killed

    return write


def silent(line):
    """Write nothing."""


def files_in(folder):
    """Return the content of every file, the lock aside."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def same_weights(one, other):
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(*SHORT_TRAINING, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.raises(Killed):
        jobs.train(few_steps(folder), write=kill_in_epoch(3))
    assert not (folder / "supernet.safetensors").exists()
    return folder


# one identity


@pytest.mark.parametrize("resume", [(), ("--resume",)], ids=["", "resume"])
@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (("--seed", 1), "seed 0, not 1"),
        (("--epochs", 2), "epochs 1, not 2"),
        (("--set", "lr=0.25"), "not 0.25"),
        (("--step", "sliced"), "step 'auto', not 'sliced'"),
        (("--val-images", 21), "val_images 20, not 21"),
        (("--train-images", 65), "images 64, not 65"),
        (("--precision", "bf16-mixed"), "precision '32-true', not 'bf16-mixed'"),
    ],
)
def test_other_settings_are_refused_with_what_differs(finished, words, difference, resume):
    before = files_in(finished)
    error = run(*SHORT_TRAINING, *words, *resume, "--out", finished, code=2).error
    assert "holds a run with " in error and difference in error and "choose another --out, or --overwrite it" in error
    assert files_in(finished) == before


def test_a_finished_run_says_so_and_is_left_alone(finished):
    before = files_in(finished)
    done = run(*SHORT_TRAINING, "--out", finished)
    assert "is trained already, with these settings; --overwrite trains it again" in done.err
    assert done.out == f"{finished / 'supernet.safetensors'}\n"
    assert files_in(finished) == before


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    (folder / "epochs").mkdir()
    (folder / "epochs" / "epoch007.safetensors").touch()
    run(*SHORT_TRAINING, "--seed", 1, "--out", folder, "--overwrite")
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "epochs").exists()
    assert [path.name for path in (folder / "metrics").iterdir()] == ["version_0"]
    assert json.loads((folder / "settings.json").read_text())["seed"] == 1
    assert not same_weights(folder / "supernet.safetensors", finished / "supernet.safetensors")


@pytest.mark.parametrize("name", ["supernet.safetensors", "epochs/epoch000.safetensors"])
def test_weights_that_the_run_itself_would_replace_are_refused(finished, tmp_path, name):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes((finished / "supernet.safetensors").read_bytes())
    before = files_in(folder)
    error = run(*SHORT_TRAINING, "--weights", folder / name, "--out", folder, "--overwrite", code=2).error
    assert "is what this run would write; give another --out" in error
    assert files_in(folder) == before


def test_a_run_that_failed_at_once_binds_nobody_unless_it_is_resumed(tmp_path):
    with open_run(tmp_path, {"seed": 0}, made_here=["weights"]):
        pass
    with (
        pytest.raises(InputError, match="seed 0, not 1"),
        open_run(tmp_path, {"seed": 1}, made_here=["weights"], resume=True),
    ):
        pass
    with open_run(tmp_path, {"seed": 1}, made_here=["weights"]):
        (tmp_path / "weights").touch()
    with pytest.raises(InputError, match="seed 1, not 2"), open_run(tmp_path, {"seed": 2}, made_here=["weights"]):
        pass


HOLD = """
import sys, time
from pathlib import Path
from nni_nas_consistency.files.run_folder import open_run

with open_run(Path(sys.argv[1]), {}, made_here=[]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_do_not_train_into_one_folder_and_a_killed_one_leaves_it(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        before = files_in(tmp_path)
        error = run(*SHORT_TRAINING, "--out", tmp_path, "--overwrite", code=2).error
        assert "another process works here; wait for it, or choose another --out" in error
        assert files_in(tmp_path) == before
    finally:
        other.kill()
        other.wait()
    with open_run(tmp_path, {}, made_here=[]):
        pass


# the same command goes on


@pytest.mark.parametrize("resume", [False, True])
def test_the_same_command_after_a_kill_goes_on_to_the_same_weights(killed, tmp_path, resume):
    folder = shutil.copytree(killed, tmp_path / "run")
    lines = []
    path = jobs.train(few_steps(folder, resume=resume), write=lines.append)
    assert [line.split()[1] for line in lines] == ["3/4", "4/4"]
    undisturbed = jobs.train(few_steps(tmp_path / "undisturbed"), write=silent)
    assert same_weights(path, undisturbed)


def flipped(content, byte, bit):
    """Return the content of a file with one bit flipped."""
    damaged = bytearray(content)
    damaged[byte] ^= 1 << bit
    return bytes(damaged)


def middle_of(record, archive):
    """Return where the middle of a record of a zip archive is: after 30 bytes, its name and what fills up."""
    lengths = archive[record.header_offset + 26 : record.header_offset + 30]
    name, filling = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    return record.header_offset + 30 + name + filling + record.file_size // 2


@contextmanager
def killed_in_the_second_step(total, what):
    """Show a progress whose second step is the moment of a kill, before its checkpoint."""
    done = []

    def advance(steps):
        done.append(steps)
        if len(done) == 2:
            raise Killed

    yield advance


def test_a_run_that_is_killed_again_after_every_step_goes_on_to_the_same_weights(tmp_path):
    undisturbed = jobs.train(few_steps(tmp_path / "undisturbed"), write=silent)
    job = few_steps(tmp_path / "killed", checkpoint_steps=1)
    steps = 2 * EPOCHS
    for _ in range(steps - 1):
        with pytest.raises(Killed):
            jobs.train(job, write=silent, progress=killed_in_the_second_step)
    path = jobs.train(job, write=silent, progress=killed_in_the_second_step)
    assert same_weights(path, undisturbed)


def test_no_checkpoint_goes_through_the_folder_of_temporary_files(tmp_path, monkeypatch):
    """From there to another disk is a copy, half of which a kill would leave in the place of the only checkpoint."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    jobs.train(few_steps(tmp_path / "run", checkpoint_steps=1), write=silent)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_averaged_weights_are_what_a_run_ends_with_even_if_it_is_killed_before_it_writes_them(tmp_path):
    words = (*SHORT_TRAINING, "--set", "ema=0.5")
    run(*words, "--out", tmp_path / "undisturbed")
    run(*words, "--out", tmp_path / "killed")
    (tmp_path / "killed" / "supernet.safetensors").unlink()
    run(*words, "--out", tmp_path / "killed")
    assert same_weights(*(tmp_path / each / "supernet.safetensors" for each in ("undisturbed", "killed")))


def garbage(path):
    path.write_bytes(b"garbage")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flipped_in_the_weights(path):
    content = path.read_bytes()
    path.write_bytes(flipped(content, len(content) // 2, 3))


def of_other_settings(path):
    content = torch.load(path, weights_only=True)
    AtomicCheckpoints().save_checkpoint({**content, "run": "0" * 64}, path)


def of_no_settings(path):
    content = torch.load(path, weights_only=True)
    del content["run"]
    AtomicCheckpoints().save_checkpoint(content, path)


def no_training(path):
    AtomicCheckpoints().save_checkpoint([1, 2], path)


def other_pickles(path):
    AtomicCheckpoints().save_checkpoint({"optimizer_states": [], "run": path}, path)


def without_seal(path):
    torch.save(torch.load(path, weights_only=True), path)


CUT_OFF = "is cut off, or is no checkpoint of a training run; delete it, and the run begins anew"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (garbage, CUT_OFF),
        (truncated, CUT_OFF),
        (without_seal, CUT_OFF),
        (
            flipped_in_the_weights,
            "is damaged: the SHA-256 of its content is [0-9a-f]{12}…, expected [0-9a-f]{12}…; del",
        ),
        (other_pickles, "cannot be read"),
        (of_other_settings, "was made with other settings"),
        (of_no_settings, "was made with other settings"),
        (no_training, "is no checkpoint of a training run"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run_is_refused_in_one_line(killed, tmp_path, damage, message):
    folder = shutil.copytree(killed, tmp_path / "run")
    damage(folder / "checkpoints" / "last.ckpt")
    before = files_in(folder)
    with pytest.raises(InputError, match=f"last.ckpt: {message}") as error:
        jobs.train(few_steps(folder), write=silent)
    assert "\n" not in str(error.value)
    assert files_in(folder) == before


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(killed, tmp_path):
    path = tmp_path / "last.ckpt"
    content = (killed / "checkpoints" / "last.ckpt").read_bytes()
    with zipfile.ZipFile(BytesIO(content)) as archive:
        records = [middle_of(record, content) for record in archive.infolist()]
        tables = range(archive.start_dir, len(content), 11)  # a flag there makes torch read noise, whatever the CRC-32
    assert len(records) > 100
    for byte in [*records, *tables, *range(0, len(content), 5003)]:
        path.write_bytes(flipped(content, byte, byte % 8))
        with pytest.raises(CheckpointError, match=f"^{path}: is (damaged|cut off)"):
            check_checkpoint(path, None)
        with pytest.raises(CheckpointError, match=f"^{path}: is (damaged|cut off)"):
            AtomicCheckpoints().load_checkpoint(path)


def test_no_cut_of_a_checkpoint_goes_unnoticed(killed, tmp_path):
    path = tmp_path / "last.ckpt"
    content = (killed / "checkpoints" / "last.ckpt").read_bytes()
    for length in [*range(0, len(content), 2003), *range(len(content) - 100, len(content))]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"^{path}: is (damaged|cut off)"):
            check_checkpoint(path, None)


def test_a_seal_is_put_on_once():
    file = BytesIO()
    torch.save([1, 2], file)
    once = sealed(file.getvalue())
    assert torch.load(BytesIO(once), weights_only=True) == [1, 2]
    with pytest.raises(ValueError, match="has a comment already"):
        sealed(once)


# ends that are no success


def test_a_warm_up_that_is_not_shorter_than_the_training_is_refused_and_can_be_corrected(tmp_path):
    words = ("train", "--recipe", "digits", "--epochs", 1, *FEW[:-2], "--out", tmp_path)
    error = run(*words, "--set", "warmup_steps=2", code=2).error
    assert "a warm-up of 2 steps is not shorter than the training of 2 steps" in error
    run(*words, "--set", "warmup_steps=1")
    assert (tmp_path / "supernet.safetensors").is_file()


def test_a_training_that_ends_far_above_guessing_is_one_line_and_exit_1(tmp_path):
    wild = ("--set", "lr=1000", "--set", "grad_clip=none")
    error = run(*SHORT_TRAINING, *wild, "--out", tmp_path, code=1).error
    assert "the training ended at a loss of " in error and "where guessing has 2.30: it diverged" in error
    assert run(*SHORT_TRAINING, *wild, "--out", tmp_path, code=1).error == error  # which has nothing left to do
    assert not (tmp_path / "supernet.safetensors").exists()


def test_sigterm_ends_a_training_with_exit_143_without_a_supernet(tmp_path):
    words = ("train", "--recipe", "digits", "--epochs", 500, *FEW, "--out", tmp_path)
    command = [sys.executable, "-m", "nni_nas_consistency", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("epoch 2/500") for line in lines)
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert (
        f"terminated; {tmp_path / 'checkpoints' / 'last.ckpt'} is kept: give the same command again to go on" in shown
    )
    assert "Traceback" not in shown
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file() and not (tmp_path / "supernet.safetensors").exists()
