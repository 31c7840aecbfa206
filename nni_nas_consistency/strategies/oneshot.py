"""SandwichStrategy: one-shot training for NNI's Lightning evaluators. No other file knows NNI's one-shot machinery.

The arithmetic is `sandwich_step`; Lightning's trainer is the training loop; the evaluator brings optimizer, schedule
and data. Left out: several processes (DDP), which NNI's manual optimization does not synchronise.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from torch import Tensor

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.strategies.sampling import Sampler, UniformSampler, strict_fair_sampler
from nni_nas_consistency.strategies.steps import sandwich_step
from nni_nas_consistency.supernet.active import Space, logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.modules import make_supernet
from nni_nas_consistency.supernet.statistics import batch_statistics

Step = Literal["auto", "stacked", "sliced"]

STACKED_BELOW_MACS = 1_000_000
"""Where the largest net is smaller, launches cost more than arithmetic and stacking wins on a CPU too: at 0.16 M MACs
a step of 18 archs took 0.15 s stacked and 0.58 s sliced, at 41 M MACs slicing did a third of the arithmetic."""


def stacked_is_faster(space: Space, device: torch.device) -> bool:
    """Return whether the sampled archs of a step run faster as one stacked batch than one by one."""
    tiny = space.complexity(space.largest).macs < STACKED_BELOW_MACS
    return space.stackable and (device.type == "cuda" or tiny)


class NonFiniteLoss(RuntimeError):
    """A loss became infinite or NaN; the weights are those before the step."""


class SandwichStrategy(OneShotStrategy):  # type: ignore[misc]
    """Train a supernet with several archs a batch.

    With the defaults: recipe nazarick (third place, CVPR 2021 NAS track 1). `n=1, sandwich=False, distill=False` is
    single-path sampling (SPOS, Guo et al. 2020); `n=6, sandwich=False, distill=False` sums the gradients of six paths
    (recipe ans).

    Args:
        n: Archs a batch, at least 1 (at least 2 with `sandwich`).
        sampler: Where the sampled archs come from; strict fair sampling from the whole space by default.
        sandwich: Whether the largest and the smallest arch run in every batch, with n − 2 sampled ones.
        distill: Whether all archs but the largest learn from its softmax instead of the labels; needs `sandwich`.
        distill_from: The epoch, from 0, at which the largest becomes the teacher; until then all learn from the labels.
            0 as published. A short run needs a teacher that has learnt something first (docs/decisions/0006).
        grad_clip: Largest norm of the summed gradient, or None. `Trainer(gradient_clip_val=…)`, where set, wins.
        step: `stacked`: the archs after the first as one masked batch; `sliced`: one by one; `auto`: the faster.
        seed: Seed of the default sampler and of the watched archs.
        watched: Sampled archs that validation follows besides the largest and the smallest.

    Raises:
        InputError: n is too small, or `distill` without `sandwich`.
    """

    def __init__(
        self,
        n: int = 18,
        *,
        sampler: Sampler | None = None,
        sandwich: bool = True,
        distill: bool = True,
        distill_from: int = 0,
        grad_clip: float | None = 5.0,
        step: Step = "auto",
        seed: int = 0,
        watched: int = 4,
    ) -> None:
        super().__init__()
        if n < 1 + sandwich:
            raise InputError(f"n is {n}; it must be at least {1 + sandwich} with sandwich={sandwich}")
        if distill and not sandwich:
            raise InputError("distill=True needs sandwich=True: the largest arch is the teacher")
        if step not in ("auto", "stacked", "sliced"):
            raise InputError(f"step is {step!r}; allowed are 'auto', 'stacked', 'sliced'")
        self.n, self.sandwich, self.distill, self.distill_from = n, sandwich, distill, distill_from
        self.sampler, self.grad_clip, self.step = sampler, grad_clip, step
        self.seed, self.watched = seed, watched

    def mutate_model(self, model: Any) -> Any:
        """Turn a chain space into a supernet, in place; one that is a supernet already keeps its weights.

        Raises:
            TypeError: The model is no chain space.
        """
        if not hasattr(model, "stages"):
            raise TypeError(f"SandwichStrategy trains chain spaces such as ResNet20Space, not a {type(model).__name__}")
        return make_supernet(model) if model.active is None else model

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's Lightning module into the sandwich step."""
        if isinstance(evaluator, Lightning) and evaluator.trainer.gradient_clip_val is not None:
            if evaluator.trainer.gradient_clip_algorithm not in (None, "norm"):
                raise ValueError("SandwichStrategy clips by norm; use Trainer(gradient_clip_algorithm='norm')")
            self.grad_clip = float(evaluator.trainer.gradient_clip_val)
            evaluator.trainer.gradient_clip_val = None  # Lightning refuses to clip under manual optimization
        return super().mutate_evaluator(evaluator)

    def configure_oneshot_module(self, training_module: LightningModule) -> SandwichModule:
        """Return the Lightning module that NNI trains."""
        return SandwichModule(training_module, self, cast("Space", self.model_space.model_space))

    def state_dict(self) -> dict[str, str]:
        """Return what NNI resumes from: the newest checkpoint, if there is one (NNI's own method warns if not)."""
        if self._mutated_model_space is None:
            return {}
        path = newest_checkpoint(self._mutated_model_space.evaluator.trainer)
        return {"ckpt_path": path} if path else {}

    def sub_state_dict(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights of one subnet, views of the supernet's; see `supernet.extract.sub_state_dict`."""
        return sub_state_dict(self.supernet, arch)


class SandwichModule(BaseOneShotLightningModule):  # type: ignore[misc]
    """Hands `sandwich_step` what Lightning and NNI provide."""

    def __init__(self, training_module: LightningModule, strategy: SandwichStrategy, space: Space) -> None:
        super().__init__(training_module)
        self.strategy = strategy
        generator = torch.Generator().manual_seed(strategy.seed)
        self.sampler = strategy.sampler or strict_fair_sampler(space.form, generator)
        self.always = [space.largest, space.smallest] if strategy.sandwich else []
        followed = UniformSampler(space.form, torch.Generator().manual_seed(strategy.seed)).draw(strategy.watched)
        self.watched = {"largest": space.largest, "smallest": space.smallest}
        self.watched |= {f"arch{index}": arch for index, arch in enumerate(followed, 1)}

    def setup(self, stage: str = "fit") -> None:
        """Refuse what would train a wrong supernet."""
        if self.trainer.world_size > 1:
            raise NotImplementedError("SandwichStrategy runs in one process; use Trainer(devices=1)")
        super().setup(stage)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Train n archs on a batch and take one optimizer step."""
        images, labels = batch
        archs = [*self.always, *self.sampler.draw(self.strategy.n - len(self.always))]
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        optimizer.zero_grad()
        losses = sandwich_step(
            self.model,
            images,
            labels,
            archs,
            distill=self.strategy.distill and self.current_epoch >= self.strategy.distill_from,
            stacked=self._stacked(images.device),
            backward=self.manual_backward,
        )
        self._check_finite(losses, archs)
        if self.strategy.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.strategy.grad_clip)
        optimizer.step()
        self.advance_lr_schedulers(batch_idx)
        self.log_dict({"train_loss": losses.mean(), "train_loss_first": losses[0]}, prog_bar=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy and loss of every watched arch, and what the evaluator logs, of the largest."""
        images, labels = batch
        with batch_statistics(self.model):
            self.training_module.validation_step(batch, batch_idx)
            for name, arch in self.watched.items():
                logits = logits_of(self.model, images, arch)
                loss = torch.nn.functional.cross_entropy(logits, labels)
                accuracy = (logits.argmax(-1) == labels).float().mean()
                self.log_dict({f"val_loss/{name}": loss, f"val_acc/{name}": accuracy}, batch_size=len(labels))

    def export(self) -> dict[str, int]:
        """Return the sample of the largest arch: which one is best is for scoring to say, not for training."""
        space = cast("Space", self.model)
        return space.sample(space.largest)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sampler's state."""
        checkpoint["sampler"] = self.sampler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sampler's state."""
        self.sampler.load_state_dict(checkpoint["sampler"])

    def _stacked(self, device: torch.device) -> bool:
        if self.strategy.step == "auto":
            return stacked_is_faster(cast("Space", self.model), device)
        return self.strategy.step == "stacked"

    def _check_finite(self, losses: Tensor, archs: list[Arch]) -> None:
        if torch.isfinite(losses).all():
            return
        index = int((~torch.isfinite(losses)).nonzero()[0])
        checkpoint = newest_checkpoint(self.trainer)
        raise NonFiniteLoss(
            f"the loss of arch {archs[index].code} is {float(losses[index])} at step {self.trainer.global_step}; "
            f"last good checkpoint: {checkpoint or 'none yet'}. Lower the learning rate or lengthen the warm-up."
        )


def newest_checkpoint(trainer: pl.Trainer) -> str:
    """Return the path of the checkpoint that the trainer wrote last, or an empty one."""
    callback = trainer.checkpoint_callback
    return getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "")
