"""Whatever a file holds, its reader returns a value that survives being written and read again, or refuses the file.

A refusal is an `InputError` of one line that begins with the path; any other error fails the property.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import OperatorChain
from codes import EVERY_CODEC
from helpers import randomize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.arch_lists import read_released, write_released
from nni_nas_consistency.files.checkpoint_header import DTYPES, FORMAT, FORMAT_1, read_checkpoint_header
from nni_nas_consistency.files.score_files import SCORE_FORMAT, read_scores, write_scores
from nni_nas_consistency.files.strict_json import decode
from nni_nas_consistency.scoring import journal
from nni_nas_consistency.scoring.journal import Journal, read_journal
from nni_nas_consistency.supernet.checkpoint import load_supernet, save_supernet
from nni_nas_consistency.supernet.make import make_supernet

files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# JSON as trees: an object is a tuple of its pairs, as `decode` makes it, so that a key can appear twice


@dataclass(frozen=True)
class Raw:
    """A JSON text as it is, valid or not."""

    text: str


NESTED = [Raw("[" * depth + "]" * depth) for depth in (100, 300, 450, 600, 900, 100_000)]
ODD_TEXTS = ["Infinity", "1e-999", "-0", "9" * 300, "9" * 400, "9" * 5000, "tru", "'a'", "", "\0", ","]
KEYS = ["acc", "arch", "format", "provenance", "scores", "score", "metric", "loss", "blocks", "scorer", "segments"]
KEYS += ["__metadata__", "space", "about", "sha256", "dtype", "shape", "data_offsets"]

texts = st.sampled_from(KEYS) | st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, too
numbers = st.integers() | st.floats() | st.sampled_from([Raw("NaN"), Raw("-1e999")])
leaves = st.none() | st.booleans() | numbers | texts | st.sampled_from([*map(Raw, ODD_TEXTS), *NESTED])


def containers(values):
    """Draw lists and objects of such values."""
    return st.lists(values, max_size=4) | st.lists(st.tuples(texts, values), max_size=4).map(tuple)


trees = st.recursive(leaves, containers, max_leaves=12)


def text_of(tree):
    """Return a tree as JSON text."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, tuple):
        return "{" + ", ".join(f"{json.dumps(key)}: {text_of(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(text_of, tree)) + "]"
    return json.dumps(tree)


def tree_of(value):
    """Return plain JSON as a tree."""
    return decode(json.dumps(value))


def tree_in(text):
    """Return the tree of the object or list whose JSON text a string is, or None."""
    try:
        tree = decode(text)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, (tuple, list)) else None


def parts_of(tree):
    """Return the values of an object, the items of a list, or what is in a string that is itself JSON."""
    if isinstance(tree, tuple):
        return [value for _, value in tree]
    if isinstance(tree, list):
        return tree
    inner = tree_in(tree) if isinstance(tree, str) else None
    return [] if inner is None else [inner]


def with_part(tree, index, part):
    """Return a tree with another part."""
    if isinstance(tree, tuple):
        return (*tree[:index], (tree[index][0], part), *tree[index + 1 :])
    if isinstance(tree, list):
        return [*tree[:index], part, *tree[index + 1 :]]
    return text_of(part)


def paths_to(tree):
    """Return the ways to the tree and to everything in it, as indices of parts."""
    paths = [()]
    for index, part in enumerate(parts_of(tree)):
        paths += [(index, *path) for path in paths_to(part)]
    return paths


def with_change(tree, path, change):
    """Return a tree in which one place is changed."""
    if not path:
        return change(tree)
    index, *rest = path
    return with_part(tree, index, with_change(parts_of(tree)[index], rest, change))


@st.composite
def replaced(draw, tree):
    """Draw what may stand in the place of a tree: anything, or, of an object or a list, one with an item changed."""
    if not isinstance(tree, (tuple, list)) or not tree or draw(st.booleans()):
        return draw(leaves | trees)
    index = draw(st.integers(0, len(tree) - 1))
    before, item, after = tree[:index], tree[index], tree[index + 1 :]
    others = [[*before, *after], [*before, item, item, *after], [*after, item, *before]]
    if isinstance(tree, tuple):
        key, value = item
        other_key, other_value = draw(st.sampled_from(tree))
        pairs = [(draw(texts), value), (other_key, value), (key, other_value)]
        others += [[*before, pair, *after] for pair in pairs]
    return type(tree)(draw(st.sampled_from(others)))


@st.composite
def changed(draw, tree):
    """Draw a tree with one change at any depth."""
    path = draw(st.sampled_from(paths_to(tree)))
    return with_change(tree, path, lambda place: draw(replaced(place)))


@st.composite
def damaged(draw, content):
    """Draw what is left of a file after one accident: a flipped bit, a part that is missing, foreign or there twice."""
    first = draw(st.integers(0, len(content)))
    end = draw(st.integers(first, len(content)) | st.just(len(content)))
    before, part, after = content[:first], content[first:end], content[end:]
    what = draw(st.sampled_from(["flip", "missing", "foreign", "twice", "zeros"]))
    if what == "flip" and after:
        return before + part + bytes([after[0] ^ 1 << draw(st.integers(0, 7))]) + after[1:]
    if what == "foreign":
        return before + draw(st.binary(max_size=20)) + after
    return before + {"twice": part + part, "zeros": b"\0" * len(part)}.get(what, b"") + after


# the readers


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Args:
        name: What is read.
        read: Returns the value of a file.
        write: Writes such a value into a new file.
        valid: Draws the trees of a valid file, given codes of a codec.
        content: Returns the bytes of a file from the JSON texts of its trees.
    """

    name: str
    read: Callable[[Path, Codec], Any]
    write: Callable[[Path, Any], None]
    valid: Callable[[list[str]], st.SearchStrategy[list[Any]]]
    content: Callable[[list[str]], bytes]

    def __str__(self) -> str:
        return self.name


def document(texts):
    """Return the bytes of a file that is one JSON text."""
    return "".join(texts).encode()


def lines(texts):
    """Return the bytes of a file with a JSON text a line."""
    return "".join(f"{text}\n" for text in texts).encode()


def header(texts):
    """Return the bytes of a safetensors file with this header and no tensors."""
    text = document(texts)
    return len(text).to_bytes(8, "little") + text


PROVENANCE = {"space": "a", "seed": 3, "images": [1, 0.1, None, True, "ä\n", {"deep": {}}]}


def list_of(codes):
    return st.just([tree_of({f"arch{n}": {"acc": n / 3, "arch": code} for n, code in enumerate(codes)})])


def score_file_of(codes):
    scores = {f"arch{n}": {"arch": code, "score": -n / 3} for n, code in enumerate(codes)}
    return st.just([tree_of({"format": SCORE_FORMAT, "provenance": PROVENANCE, "scores": scores})])


def journal_of(codes):
    segments = [[n, {"loss": [-n / 3, 1.5], "acc": [0.5, n / 7]}] for n in range(len(codes))]
    old_segments = [[n, [n / 3, 1.5]] for n in range(len(codes))]
    head = {"format": journal.FORMAT, **PROVENANCE, "metric": "loss", "segments": 7, "scorer": "prefix"}
    old_head = {"format": journal.FORMAT_1, "metric": "acc", "blocks": 7, "scorer": "score_prefixes"}
    return st.sampled_from([tree_of([head, *segments]), tree_of([old_head, *old_segments])])


def header_of(codes):
    metadata = {"format": FORMAT, "space": '{"class": "A", "sizes": [1, 2]}', "about": json.dumps(PROVENANCE)}
    tensors = {f"a{n}": {"dtype": dtype, "shape": [n, 2], "data_offsets": [0, 0]} for n, dtype in enumerate(DTYPES)}
    formats = [metadata, {**metadata, "sha256": "0123456789abcdef" * 4}, {**metadata, "format": FORMAT_1}]
    return st.sampled_from([[tree_of({"__metadata__": chosen, **tensors})] for chosen in formats])


def read_whole_journal(path, codec):
    written = read_journal(path)
    return written.identity, written.segments


def write_journal(path, value):
    identity, segments = value
    if identity is None:
        path.touch()
        return
    with Journal(path, identity) as new:
        for index, scores in segments.items():
            new.add(index, scores)


def write_header(path, value):
    metadata = {"format": value.format, "space": json.dumps(value.space), "about": json.dumps(value.about)}
    if value.sha256 is not None:
        metadata["sha256"] = value.sha256
    written_as = {name: short for short, name in DTYPES.items()}
    tensors = {}
    for name, tensor in value.tensors.items():
        dtype = written_as.get(tensor.dtype, tensor.dtype)
        tensors[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, 0]}
    path.write_bytes(header([json.dumps({"__metadata__": metadata, **tensors})]))


READERS = [
    Reader("arch list", read_released, write_released, list_of, document),
    Reader("score file", read_scores, write_scores, score_file_of, document),
    Reader("journal", read_whole_journal, write_journal, journal_of, lines),
    Reader("checkpoint header", lambda path, codec: read_checkpoint_header(path), write_header, header_of, header),
]
every_reader = pytest.mark.parametrize("reader", READERS, ids=str)


def value_or_refusal(reader, folder, content, codec):
    """Return the value of a file of this content, which reads back the same, or None if it is refused."""
    path, again = folder / "file", folder / "again"
    path.write_bytes(content)
    try:
        value = reader.read(path, codec)
    except InputError as refusal:
        message = str(refusal).removeprefix(f"{path}: ")
        assert message != str(refusal) and message.isprintable() and len(message) < 800
        return None
    assert all(map(math.isfinite, numbers_in(value)))
    again.unlink(missing_ok=True)
    reader.write(again, value)
    assert reader.read(again, codec) == value
    return value


def numbers_in(value):
    """Return every number in a value, whatever it consists of."""
    if isinstance(value, (int, float)):
        return [value]
    if is_dataclass(value):
        value = vars(value)
    parts = list(value.values()) if isinstance(value, Mapping) else value
    return [number for part in parts for number in numbers_in(part)] if isinstance(parts, (list, tuple)) else []


@st.composite
def valid_files(draw, reader):
    """Draw a codec and the trees of a valid file of its codes."""
    codec, codes = draw(st.sampled_from(EVERY_CODEC))
    drawn = draw(st.lists(codes, min_size=1, max_size=3, unique_by=codec.canonical))
    return codec, draw(reader.valid(drawn))


@every_reader
@settings(files, max_examples=20)
@given(data=st.data())
def test_valid_files_are_read(tmp_path, reader, data):
    codec, valid = data.draw(valid_files(reader))
    assert value_or_refusal(reader, tmp_path, reader.content(map(text_of, valid)), codec) is not None


@every_reader
@settings(files, max_examples=100)
@given(data=st.data())
def test_any_bytes_are_a_valid_value_or_refused(tmp_path, reader, data):
    content = data.draw(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    value_or_refusal(reader, tmp_path, content, EVERY_CODEC[0][0])


@every_reader
@settings(files, max_examples=150)
@given(data=st.data())
def test_any_json_is_a_valid_value_or_refused(tmp_path, reader, data):
    drawn = data.draw(st.lists(trees, min_size=1, max_size=2))
    value_or_refusal(reader, tmp_path, reader.content(map(text_of, drawn)), EVERY_CODEC[0][0])


@every_reader
@settings(files, max_examples=250)
@given(data=st.data())
def test_a_valid_file_with_one_value_changed_is_a_valid_value_or_refused(tmp_path, reader, data):
    codec, valid = data.draw(valid_files(reader))
    index = data.draw(st.integers(0, len(valid) - 1))
    one_changed = [*valid[:index], data.draw(changed(valid[index])), *valid[index + 1 :]]
    value_or_refusal(reader, tmp_path, reader.content(map(text_of, one_changed)), codec)


@every_reader
@settings(files, max_examples=150)
@given(data=st.data())
def test_a_valid_file_after_an_accident_is_a_valid_value_or_refused(tmp_path, reader, data):
    codec, valid = data.draw(valid_files(reader))
    content = data.draw(damaged(reader.content(map(text_of, valid))))
    value_or_refusal(reader, tmp_path, content, codec)


# whole checkpoints


ABOUT = {"seed": 3, "lr": 0.1}


def chain(seed):
    """Return a small supernet with random weights."""
    supernet = make_supernet(OperatorChain())
    randomize(supernet, seed)
    return supernet


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Return the bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "supernet.safetensors"
    save_supernet(path, chain(1), ABOUT)
    return path.read_bytes()


def loaded_or_refused(path, content):
    """See that a file is refused, or gives the very weights of the checkpoint that it once was."""
    path.write_bytes(content)
    supernet = chain(2)
    try:
        assert load_supernet(path, supernet) == ABOUT
    except CheckpointError as refusal:
        message = str(refusal).removeprefix(f"{path}: ")
        assert message != str(refusal) and message.isprintable()
    else:
        weights = chain(1).state_dict()
        assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, weights[name])]


@settings(files, max_examples=150)
@given(data=st.data())
def test_a_checkpoint_after_an_accident_gives_the_same_weights_or_is_refused(tmp_path, content, data):
    loaded_or_refused(tmp_path / "a", data.draw(damaged(content)))


@settings(files, max_examples=150)
@given(data=st.data())
def test_a_checkpoint_with_a_change_in_its_header_gives_the_same_weights_or_is_refused(tmp_path, content, data):
    end = 8 + int.from_bytes(content[:8], "little")
    one_changed = data.draw(changed(decode(content[8:end].decode())))
    loaded_or_refused(tmp_path / "a", header([text_of(one_changed)]) + content[end:])
