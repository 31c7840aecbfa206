"""README and the pages of docs do what they say: commands, make targets, verbs, links, Python, API reference.

Their numbers: tests/docs_check.py. The tutorials, which run from the first line to the last: tests/test_tutorials.py.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer
from helpers import keep_nni_in

from nni_nas_consistency.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NNI_IS_CALLED = "nni-consistency nnictl"


def blocks_of(page):
    """Return language and text of every block of code."""
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL)


def commands_of(page):
    texts = [text.replace("\\\n", " ") for kind, text in blocks_of(page) if kind == "bash"]
    return [line for text in texts for line in text.splitlines() if line.strip()]


COMMANDS = [line for page in PAGES for line in commands_of(page)]
OURS = [line for line in COMMANDS if line.startswith("nni-consistency") and not line.startswith(NNI_IS_CALLED)]


@pytest.mark.parametrize("line", dict.fromkeys(OURS))
def test_every_command_of_readme_and_docs_has_words_that_the_command_line_takes(line):
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    option_of = {spelling: option.name for option in command.params for spelling in option.opts}
    read = command.make_context(command.name, list(words))
    typed = {name for name in read.params if read.get_parameter_source(name).name == "COMMANDLINE"}
    assert {option_of[word] for word in words if word.startswith("--")} <= typed and not read.args
    with pytest.raises(typer.TyperException, match="No such option: --no-such-word"):
        command.make_context(command.name, [*words, "--no-such-word"])


def test_every_make_target_of_readme_and_docs_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {shlex.split(line, comments=True)[1] for line in COMMANDS if line.startswith("make ")}
    assert named == {"quickstart", "test", "reproduce"} and named <= targets


def test_the_python_of_the_page_on_python_runs(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (code,) = [text for kind, text in blocks_of(ROOT / "docs" / "python.md") if kind == "python"]
    shortened = code.replace("EMBEDDED.phases[0]", "EMBEDDED.for_epochs(1).phases[0]")
    shortened = shortened.replace("digits(train=True)", "digits(train=True).first(192)")
    assert shortened.count("for_epochs(1)") == shortened.count("first(192)") == 1
    names = {}
    exec(compile(shortened, "python.md", "exec"), names)
    weights, space = names["weights"], names["space"]
    assert weights["links.19.linear.weight"].shape == (10, 1)
    space.freeze(space.sample(space.smallest)).load_state_dict(weights, strict=True)


def test_the_verbs_of_the_readme_are_those_of_the_command_line():
    verbs = set(re.findall(r"^\| `(?!nni-)(\w+)", README, re.MULTILINE))
    assert verbs == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    for target in targets:
        assert (page.parent / target).exists(), target


def test_every_public_name_has_a_docstring_that_the_api_reference_shows():
    griffe = pytest.importorskip("griffe", reason="the reference is made with griffe: pip install '.[docs]'")
    package = griffe.load("nni_nas_consistency", search_paths=[ROOT], resolve_aliases=True)
    assert len(package.exports) > 40
    for name in package.exports:
        assert package[name].final_target.docstring is not None, name
    assert "::: nni_nas_consistency\n" in (ROOT / "docs" / "api.md").read_text()
