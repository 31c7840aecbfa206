"""The base of all chain spaces: a model space that is nothing but stages in a row.

Forward, scoring by prefixes, complexity and extraction all walk `stages`. The choices are NNI's, so that any NNI
strategy can run the space; `make_supernet` turns it into a weight-sharing network.
"""

from __future__ import annotations

from typing import Any, cast

import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import torch
from nni.mutable import Sample, SampleValidationError
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import is_supernet
from nni.nas.space import current_model, model_context
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch, WidthForm
from nni_nas_consistency.archs.cost import Cost, CostedStage, chain_cost
from nni_nas_consistency.supernet.active import ActiveSubnet
from nni_nas_consistency.supernet.extract import copy_into, sub_state_dict


class ChainSpace(ModelSpace):  # type: ignore[misc]
    """A search space of widths over a chain of stages.

    A concrete space calls `super().__init__` first, makes its choices with `width(index)`, and sets `stages`, each of
    which maps a state to the next and has a `cost`.

    Args:
        form: How archs are written; layer i (from 1) of a code is the choice with label `w<i>`.
        image_size: Side of the images, in pixels.
    """

    active: ActiveSubnet | None
    """What a supernet runs as; None while the space is no supernet."""

    def __init__(self, form: WidthForm, image_size: int) -> None:
        super().__init__()
        self.form = form
        self.image_size = image_size
        self.labels = {f"w{i + 1}": i for i in range(len(form.layers)) if i not in form.unused}
        self.stages = nn.ModuleList()
        self.active = None
        self.stackable = True
        """Whether all archs use the same modules, so that several can run as one stacked batch."""
        context = current_model()
        self.frozen_arch = None if context is None else self.arch(context)
        """In a frozen space, the arch that it is."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] from images [B, C, H, W]."""
        state = images
        for stage in self.stages:
            state = stage(state)
        return state

    def sample(self, arch: Arch) -> dict[str, int]:
        """Return NNI's sample of an arch: label → width in channels."""
        return {label: arch.choices[index] for label, index in self.labels.items()}

    def arch(self, sample: Sample) -> Arch:
        """Return the arch of a sample; layers that the network never reads get their smallest width.

        Raises:
            KeyError: A label is missing.
            ArchError: A width is not allowed.
        """
        widths = [layer[0] for layer in self.form.layers]
        for label, index in self.labels.items():
            widths[index] = sample[label]
        return self.form.arch(widths)

    @property
    def largest(self) -> Arch:
        """The arch of the largest widths."""
        return self.form.arch([layer[-1] for layer in self.form.layers])

    @property
    def smallest(self) -> Arch:
        """The arch of the smallest widths."""
        return self.form.arch([layer[0] for layer in self.form.layers])

    def complexity(self, arch: Arch) -> Cost:
        """Return the parameters and the MACs for one image."""
        return chain_cost(cast("list[CostedStage]", self.stages), self.sample(arch), self.image_size)

    def freeze(self, sample: Sample) -> ChainSpace:
        """Return the subnet of a sample, built of plain torch layers.

        A supernet hands its weights on as copies; without one the weights are fresh.

        Raises:
            SampleValidationError: The sample lacks a label or has a width that is not allowed.
        """
        self.validate(sample)
        if self.active is None and is_supernet(self):  # NNI's own supernet modules know how to freeze themselves
            return cast("ChainSpace", super().freeze(sample))
        if self.active is None:
            return self._rebuild(sample)
        with torch.random.fork_rng(devices=[]):  # first values, replaced at once, shall not move torch's generator
            frozen = self._rebuild(sample)
        copy_into(frozen, sub_state_dict(self, self.arch(sample)))
        frozen.train(self.training)
        return frozen

    def check_contains(self, sample: Sample) -> SampleValidationError | None:
        """Return what is wrong with a sample, or None; NNI's own walk over all modules takes milliseconds."""
        for label, index in self.labels.items():
            allowed = self.form.layers[index]
            if label not in sample or sample[label] not in allowed:
                return SampleValidationError(
                    f"{label} is {sample.get(label)}; {self.form.space} allows {', '.join(map(str, allowed))}"
                )
        return None

    def _rebuild(self, sample: Sample) -> ChainSpace:
        arguments: dict[str, Any] = self.trace_kwargs
        with model_context(sample):
            frozen: ChainSpace = type(self)(*self.trace_args, **arguments)
        return frozen
