"""ReadableModelSpace: the models that NNI hands to trials in other processes, readable on its web page.

A trial's parameters are what NNI writes of its model: objects inside objects, which the page shows as `[object Object]`
and draws no lines of. Here they are a name, a code, the choices and, as one text, what NNI reads the model from again.
"""

from __future__ import annotations

from typing import Any

import nni
from nni.nas.evaluator import Evaluator
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import SimplifiedModelSpace

from nni_nas_consistency.supernet.make import codec_of

MODEL = "model"
"""The parameter that NNI reads the model from."""

LARGEST_PICKLE = 64 * 1024
"""In bytes: of a function that NNI pickles into the parameters of a trial; NNI's own limit."""


class ReadableModelSpace(SimplifiedModelSpace):  # type: ignore[misc]
    """NNI's simplified format of a model space, whose trials have `arch` (the name, if it has one), `code` and choices.

    Made by `from_model`, as in NNI.
    """

    code_of: Any = None
    """Returns the code of a sample; None in a trial, where nobody asks."""

    arch_name: str | None = None
    """The name of the arch in its list; set by strategies that have one."""

    @classmethod
    def from_model(
        cls, model_space: ModelSpace, evaluator: Evaluator | None = None, **configs: Any
    ) -> ReadableModelSpace:
        """Return the space in this format.

        Raises:
            InputError: A choice of the space cannot be written as text.
        """
        codec = codec_of(model_space)
        space = super().from_model(model_space, evaluator, **configs)
        space.code_of = lambda sample: codec.arch(sample).code
        return space  # type: ignore[no-any-return]

    def freeze(self, sample: dict[str, Any]) -> ReadableModelSpace:
        """Return the model of a sample."""
        model = super().freeze(sample)
        model.code_of = self.code_of
        return model  # type: ignore[no-any-return]

    def _dump(self) -> dict[str, Any]:
        fields = super()._dump()
        if self.code_of is None or self.sample is None:
            return fields  # type: ignore[no-any-return]
        name = {} if self.arch_name is None else {"arch": self.arch_name}
        text = nni.dump(fields, pickle_size_limit=LARGEST_PICKLE)
        choices = {label: str(each) if isinstance(each, list) else each for label, each in self.sample.items()}
        readable = {**name, "code": self.code_of(self.sample)}
        return {**readable, **choices, **readable, MODEL: text}  # first of all the name, whatever labels there are

    @classmethod
    def _load(cls, **fields: Any) -> ReadableModelSpace:
        return super()._load(**(nni.load(fields[MODEL]) if MODEL in fields else fields))  # type: ignore[no-any-return]
