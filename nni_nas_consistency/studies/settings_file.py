"""The settings of a study as a YAML file describes them: words and texts, whose meaning is up to the command line.

The published studies are such files too, in `assets/studies`. Every value is kept as the text that the file has, so
that it is read by the same rules as `--set`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from nni_nas_consistency.files.doors import check_input
from nni_nas_consistency.files.strict_json import file_errors

Words: TypeAlias = "Mapping[str, str]"
"""The name of a setting, such as `lr`, and its text."""

LARGEST = 1_000_000
"""Bytes of the largest file that is read."""

NAME = r"[A-Za-z0-9][A-Za-z0-9 .,:=+%_-]{0,59}"

KEYS = ("title", "published", "baseline", "spaces", "all", "settings")
REQUIRED = ("baseline", "settings")

RESERVED = ("study", "baseline", "space", "data", "images", "reference")
"""What stands beside the names of settings in the folder of a study."""


@dataclass(frozen=True)
class Described:
    """A study as its file describes it.

    Args:
        name: The name of the file, without its ending.
        title: What is compared.
        published: The conclusion that was published, or an empty text.
        baseline: The name of the setting that the others are compared with.
        spaces: What all settings have in common on a search space, by its name; empty: nothing, on any space.
        common: What all settings have in common; it wins over `spaces`.
        settings: The trainings of each setting by its name, each as what it changes against all that come before it.
    """

    name: str
    title: str
    published: str
    baseline: str
    spaces: Mapping[str, Words]
    common: Words
    settings: Mapping[str, tuple[Words, ...]]


def published_studies() -> dict[str, Path]:
    """Return the files of the published studies by name."""
    folder = Path(__file__).parents[1] / "assets" / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yml"))}


def read_settings(path: Path) -> Described:
    """Return the study of a YAML file.

    Raises:
        FileError: The file cannot be read, is not YAML, or a part is missing, unknown, doubled or of the wrong type.
    """
    with file_errors(path):
        fields = _mapping(_document(path), "the file")
        for key in fields:
            if key not in KEYS:
                raise ValueError(f"has an unknown part {key!r}; allowed are {', '.join(KEYS)}")
        for key in REQUIRED:
            if key not in fields:
                raise ValueError(f"lacks the part {key!r}; required are {', '.join(REQUIRED)}")
        spaces = _mapping(fields["spaces"], "spaces") if "spaces" in fields else {}
        settings = _mapping(fields["settings"], "settings")
        study = Described(
            name=path.stem,
            title=_text(fields["title"], "title") if "title" in fields else path.stem,
            published=_text(fields["published"], "published") if "published" in fields else "",
            baseline=_text(fields["baseline"], "baseline"),
            spaces={name: _words(node, f"space {name!r}") for name, node in spaces.items()},
            common=_words(fields["all"], "all") if "all" in fields else {},
            settings={name: _trainings(node, f"setting {name!r}") for name, node in settings.items()},
        )
        _check_names(study)
    return study


def _document(path: Path) -> Any:
    """Return the root node of a file: composed but not constructed, so that texts stay texts and doubled keys show."""
    check_input(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"has more than {LARGEST:,} bytes; a study is a list of settings")
    try:
        node = yaml.compose(path.read_bytes().decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason}); save it again") from error
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise ValueError(f"is empty; give {', '.join(REQUIRED)}")
    return node


def _mapping(node: Any, what: str) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{what} is {_kind(node)}; expected NAME: VALUE pairs")
    fields: dict[str, Any] = {}
    for key, value in node.value:
        name = _text(key, f"a name in {what}")
        if name in fields:
            raise ValueError(f"{name!r} appears twice in {what}; keep one of them")
        fields[name] = value
    return fields


def _words(node: Any, what: str) -> dict[str, str]:
    return {name: _text(value, f"{name} of {what}") for name, value in _mapping(node, what).items()}


def _trainings(node: Any, what: str) -> tuple[Words, ...]:
    fields = _mapping(node, what)
    first = {name: _text(value, f"{name} of {what}") for name, value in fields.items() if name != "then"}
    if "then" not in fields:
        return (first,)
    if not isinstance(fields["then"], yaml.SequenceNode):
        raise ValueError(f"then of {what} is {_kind(fields['then'])}; expected a list of trainings")
    return (first, *(_words(each, f"then of {what}") for each in fields["then"].value))


def _text(node: Any, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{what} is {_kind(node)}; expected a word or a number")
    return str(node.value)


def _kind(node: Any) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value if len(node.value) <= 60 else f"{node.value[:60]}…")
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _check_names(study: Described) -> None:
    for name in study.settings:
        if re.fullmatch(NAME, name) is None:
            raise ValueError(
                f"a setting has the name {name!r}; names are up to 60 letters, digits, spaces and .,:=+%_- and begin "
                "with a letter or digit"
            )
        if name in RESERVED:
            raise ValueError(f"a setting has the name {name!r}, which a study needs itself; give it another one")
    if study.baseline not in study.settings:
        raise ValueError(
            f"the baseline {study.baseline!r} is no setting; name one of {', '.join(study.settings) or 'them'}"
        )
