"""ReadableModelSpace: the models that NNI hands to trials in other processes, readable on its web page.

A trial's parameters are what NNI writes of its model: objects inside objects, which the page shows as `[object Object]`
and draws no lines of. Here they are a name, a code, the choices and what NNI reads the model from again: a file where
trials run on this machine, else its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nni
from nni.nas.evaluator import Evaluator
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import SimplifiedModelSpace

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import write_bytes_atomically
from nni_nas_consistency.supernet.make import codec_of

MODEL = "model"
"""The parameter that NNI reads the model from."""

FILE = ".model.json"
"""How the name of a file with a model ends."""

LARGEST_PICKLE = 64 * 1024
"""In bytes: of a function that NNI pickles into the parameters of a trial; NNI's own limit."""


def code_in(space: ModelSpace, sample: Mapping[str, Any]) -> str | None:
    """Return the code of a sample in any space; None if its choices cannot be written as text."""
    try:
        return codec_of(space).arch(sample).code
    except InputError:
        return None


class ReadableModelSpace(SimplifiedModelSpace):  # type: ignore[misc]
    """NNI's simplified format of a model space, whose trials have `arch` (the name, if it has one), `code` and choices.

    Made by `from_model`, as in NNI.
    """

    code_of: Callable[[Mapping[str, Any]], str | None] | None = None
    """Returns the code of a sample; None in a trial, where nobody asks."""

    arch_name: str | None = None
    """The name of the arch in its list; set by strategies that have one."""

    folder: Path | None = None
    """Where models are written for trials to read; None: into the parameters themselves."""

    @classmethod
    def from_model(
        cls, model_space: ModelSpace, evaluator: Evaluator | None = None, *, folder: Path | None = None, **configs: Any
    ) -> ReadableModelSpace:
        """Return the space in this format.

        Raises:
            InputError: A choice of the space cannot be written as text.
        """
        codec_of(model_space)  # refuses, before any trial, a space whose samples have no code
        space = super().from_model(model_space, evaluator, **configs)
        space.code_of, space.folder = partial(code_in, model_space), folder
        return space  # type: ignore[no-any-return]

    def freeze(self, sample: dict[str, Any]) -> ReadableModelSpace:
        """Return the model of a sample."""
        model = super().freeze(sample)
        model.code_of, model.folder = self.code_of, self.folder
        return model  # type: ignore[no-any-return]

    def _dump(self) -> dict[str, Any]:
        fields = super()._dump()
        if self.code_of is None or self.sample is None:
            return fields  # type: ignore[no-any-return]
        name = {} if self.arch_name is None else {"arch": self.arch_name}
        choices = {label: str(each) if isinstance(each, list) else each for label, each in self.sample.items()}
        readable = {**name, "code": self.code_of(self.sample)}
        text = nni.dump(fields, pickle_size_limit=LARGEST_PICKLE)
        model = text if self.folder is None else str(_written(text, self.folder))
        return {**readable, **choices, **readable, MODEL: model}  # first of all the name, whatever labels there are

    @classmethod
    def _load(cls, **fields: Any) -> ReadableModelSpace:
        model = fields.get(MODEL)
        if model is None:
            return super()._load(**fields)  # type: ignore[no-any-return]
        text = Path(model).read_text(encoding="utf-8") if model.endswith(FILE) else model
        return super()._load(**nni.load(text))  # type: ignore[no-any-return]


def _written(text: str, folder: Path) -> Path:
    """Return the file that holds a text, under a name that follows from it."""
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}{FILE}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, text.encode())
    return path
