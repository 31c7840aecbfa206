"""Every bad input ends in one line that says what is wrong, before any work begins, and leaves nothing behind."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from bad_inputs import ALONE, BEGUN, FEW, HALF, SCORE, SEARCH, TRAIN
from command import run
from every_bad_input import BAD_INPUTS
from helpers import keep_nni_in, tiny_supernet

from nni_nas_consistency import save_supernet
from nni_nas_consistency.cli.main import command_tree, main
from nni_nas_consistency.files.image_lists import write_image_list
from nni_nas_consistency.ranking import statistics
from nni_nas_consistency.scoring.journal import FORMAT
from nni_nas_consistency.strategies import sampling
from nni_nas_consistency.supernet.checkpoint import save_network
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import AUTOFORMER_TOY, CVPR2022
from nni_nas_consistency.training.alone import plain_network

ERRORS_PAGE = (Path(__file__).resolve().parents[1] / "docs" / "errors.md").read_text()
ON_THE_PAGE = re.findall(r"^\| (?:`+)(.+?) ?(?:`+) \| .+ <!-- (.+) --> \|$", ERRORS_PAGE, re.MULTILINE)
"""Each message of docs/errors.md, and the name of the row of BAD_INPUTS that brings it about."""


@pytest.fixture(scope="module")
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.fixture(scope="module")
def valid(tmp_path_factory, nni_home):
    """A folder with all files that the rows name, in good order."""
    folder = tmp_path_factory.mktemp("valid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_valid_files()
    return folder


def make_valid_files():
    run(*"archs sample --space digits --count 5 --out list.json".split())
    archs = json.loads(Path("list.json").read_text())
    reference = {name: {**entry, "acc": 0.5 + index / 10} for index, (name, entry) in enumerate(archs.items())}
    Path("reference.json").write_text(json.dumps(reference))
    write_image_list(Path("images.json"), "digits", range(20), {})
    save_supernet(Path("supernet.safetensors"), tiny_supernet(torch.float32), {"space": "digits", "data": "digits"})
    run(*"archs sample --space resnet48 --count 3 --out list48.json".split())
    member = make_supernet(CVPR2022.make_space((10, 3, 8)))
    save_supernet(Path("supernet48.safetensors"), member, {"data": "folder"})
    save_transformers()
    run(*SCORE.split(), "--out", "scores.json")
    run(*HALF.split())
    run(*f"train --recipe digits --epochs 1 {FEW} --out run".split())
    shutil.copytree("run", "killed")
    Path("killed/supernet.safetensors").unlink()
    run(*ALONE.split())
    run(*BEGUN.split())
    begin_again("begun")


def save_transformers():
    """Write a supernet of toy transformers, a list of its archs, and a network for ten classes of colour images."""
    supernet = make_supernet(AUTOFORMER_TOY.make_space((10, 1, 8)))
    save_supernet(Path("autoformer.safetensors"), supernet, {"data": "digits"})
    run(*"archs sample --space autoformer-digits --count 3 --out toys.json".split())
    space, arch = AUTOFORMER_TOY.make_space((10, 3, 8)), AUTOFORMER_TOY.domain.smallest
    save_network(Path("network.safetensors"), plain_network(space, arch), space, arch, {"data": "folder"})


def begin_again(search):
    """Make a finished search one that was killed after two archs."""
    content = json.loads(Path(f"{search}.json").read_text())
    Path(f"{search}.json").unlink()
    identity = {key: value for key, value in content["provenance"].items() if key != "made_by"}
    lines = [{"format": FORMAT, **identity}]
    for index, entry in enumerate(list(content["scores"].values())[:2]):
        lines.append([index, {"loss": [entry["score"]], "acc": [0.5]}])
    Path(f"{search}.journal").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(valid, tmp_path, monkeypatch):
    """A copy of the valid files, which is the current folder."""
    work = tmp_path / "work"
    shutil.copytree(valid, work)
    monkeypatch.chdir(work)
    yield work
    shutil.rmtree(work)


def contents(folder):
    """Return what every path is: the bytes of a file, where a link leads, or the type of anything else."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        else:
            found[path] = path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def no_work(*arguments, **settings):
    raise AssertionError("work has begun")


def no_work_begins(patch):
    """Let any scoring, training, ranking and sampling fail."""
    patch.setattr(torch.nn.functional, "conv2d", no_work)
    patch.setattr(statistics, "rank_consistency", no_work)
    patch.setattr(sampling, "spread_archs", no_work)


def typed(words):
    """Run the command line with these words as a terminal would; return exit code and both outputs."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: print(message, file=sys.stderr)
        code = main(shlex.split(words))
    return code, os.fsdecode(out.buffer.getvalue()), err.buffer.getvalue().decode()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", BAD_INPUTS, ids=[row.name for row in BAD_INPUTS])
def test_a_bad_input_is_refused_in_one_line_before_work_begins_and_leaves_nothing_behind(folder, monkeypatch, row):
    row.damage()
    before = contents(folder)
    if row.code == 2:
        no_work_begins(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = typed(row.words)
    *others, error = err.splitlines() or [""]
    assert (code, out) == (row.code, ""), err
    assert error.startswith("error: ") and error.isprintable() and "Traceback" not in err
    for phrase in row.said:
        assert phrase in error
    for message in [message for message, name in ON_THE_PAGE if name == row.name]:
        assert re.fullmatch(f"error: {pattern_of(message)}", error), "docs/errors.md says something else"
    if row.code == 2:
        assert not others and contents(folder) == before


def pattern_of(message):
    """Return a message of docs/errors.md as a regular expression; `…` stands for any text."""
    return ".*".join(map(re.escape, message.split("…")))


def test_every_line_of_the_page_of_errors_has_a_row_that_brings_it_about():
    assert len(ON_THE_PAGE) == len(re.findall(r"^\| `", ERRORS_PAGE, re.MULTILINE)) > 150
    assert {name for _, name in ON_THE_PAGE} <= {row.name for row in BAD_INPUTS}


def test_names_that_are_odd_but_possible_are_no_bad_input(folder, monkeypatch):
    odd, two_lines = os.fsdecode(b"\xff list"), "two\nlines"
    Path("list.json").rename(odd)
    code, out, err = typed(f"{SCORE} --archs '{odd}' --out '{two_lines}'")
    assert code == 0, err
    code, out, err = typed(f"rank '{two_lines}' reference.json --resamples 20 --report '{odd} report'")
    assert code == 0, err
    assert out.endswith(f"{odd} report/report.html\n")
    assert r"\udcff list" in Path(f"{odd} report", "report.html").read_text()


def test_a_home_folder_that_cannot_be_written_is_not_needed(folder, monkeypatch):
    keep_nni_in(folder / "list.json" / "home", monkeypatch)
    for words in (SEARCH, TRAIN):
        code, _, err = typed(words)
        assert code == 0, err


def test_the_table_has_every_option_of_every_verb():
    typed_words = {(row.verb, word.partition("=")[0]) for row in BAD_INPUTS for word in shlex.split(row.words)}
    for verb, command in verbs(command_tree()):
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        missing = [option for option in options - {"--help"} if (verb, option) not in typed_words]
        assert not missing, verb


def test_the_table_has_every_setting_of_a_recipe():
    _, _, err = typed("train --set help")
    names = err.partition("give NAME=VALUE of ")[2].strip().split(", ")
    changed = {word.partition("=")[0] for row in BAD_INPUTS for word in shlex.split(row.words) if "=" in word}
    assert len(names) > 10 and not set(names) - changed


def verbs(command, name=""):
    """Yield every verb that somebody can type, with its command."""
    subcommands = getattr(command, "commands", {})
    for word, subcommand in subcommands.items():
        yield from verbs(subcommand, f"{name} {word}".strip())
    if not subcommands:
        yield name, command


def test_the_table_has_hundreds_of_rows_with_names_of_their_own():
    names = [row.name for row in BAD_INPUTS]
    assert len(set(names)) == len(names) >= 300


WITHOUT_TORCH = """
import shlex, sys

sys.path.insert(0, sys.argv[1])


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "nni", "pytorch_lightning"):
            raise ImportError(name)


sys.meta_path.insert(0, NotInstalled())
from damages import no_damage
from every_bad_input import BAD_INPUTS
from nni_nas_consistency.cli.main import main

for row in BAD_INPUTS:
    if not row.torch and row.damage is no_damage and main(shlex.split(row.words)) != row.code:
        print(row.name)
"""


def test_bad_inputs_are_refused_without_torch_and_nni_unless_it_takes_them_to_find_out(folder):
    words = [sys.executable, "-c", WITHOUT_TORCH, str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
