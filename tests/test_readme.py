"""The README does what it says."""

import json
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import typer

from nni_nas_consistency.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def commands():
    return [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("nni-consistency")])
def test_every_command_of_the_readme_has_words_that_the_command_line_takes(line):
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    option_of = {spelling: option.name for option in command.params for spelling in option.opts}
    read = command.make_context(command.name, list(words))
    typed = {name for name in read.params if read.get_parameter_source(name).name == "COMMANDLINE"}
    assert {option_of[word] for word in words if word.startswith("--")} <= typed and not read.args
    with pytest.raises(Exception, match="No such option: --no-such-word"):
        command.make_context(command.name, [*words, "--no-such-word"])


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {shlex.split(line, comments=True)[1] for line in commands() if line.startswith("make ")}
    assert named == {"quickstart", "test", "reproduce"} and named <= targets


def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    shortened = code.replace("DIGITS.optimization,", "replace(DIGITS.optimization, epochs=1),")
    assert shortened != code
    shortened = "from dataclasses import replace\n" + shortened
    check = "\nassert weights['stages.19.linear.weight'].shape == (10, 1), weights['stages.19.linear.weight'].shape\n"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", shortened + check]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)


def test_the_verbs_of_the_readme_are_those_of_the_command_line():
    verbs = set(re.findall(r"^\| `(?!nni)(\w+)", README, re.MULTILINE))
    command = typer.main.get_command(app)
    assert verbs == set(command.commands)


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_numbers_of_the_benchmark_are_those_of_the_shipped_files():
    about = json.loads((files("nni_nas_consistency") / "assets" / "digits" / "about.json").read_text())
    told = README[README.index("## The embedded benchmark") :]
    assert about["command"] in told
    assert f"{about['seeds']} seeds" in told
    assert f"{about['split_half_kendall_tau']:.2f}" in told


def test_the_table_of_the_readme_is_what_the_committed_report_holds():
    shown = json.loads((ROOT / "docs" / "quickstart.json").read_text())["consistency"]
    for name in ("kendall", "pearson", "spearman"):
        assert re.search(rf"{name} +{shown[name]['value']:.4f}", README)
