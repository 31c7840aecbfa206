"""SandwichStrategy: one-shot training for NNI's Lightning evaluators. No other file knows NNI's one-shot machinery.

The arithmetic is in `steps.py`, the training loop is Lightning's trainer, and the evaluator brings optimizer, schedule
and data. On several processes (Lightning's DDP) all run the same archs, see `processes.py`. Not supported: float16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, cast, get_args

import nni.nas.strategy  # noqa: F401 - before nni.nas.oneshot, or NNI puts stubs in place of its one-shot strategies
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.cost import CostedLink
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.errors import Diverged, InputError
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.strategies.processes import (
    average_over_processes,
    gather_losses,
    shares_of_batch,
    statistics_over_processes,
)
from nni_nas_consistency.strategies.sampling import Sampler, UniformSampler, strict_fair_sampler
from nni_nas_consistency.strategies.steps import (
    Bundle,
    RankLoss,
    TrainingStep,
    frozen_teacher_step,
    label_step,
    multi_path_step,
    pool_distillation_step,
    sandwich_step,
)
from nni_nas_consistency.strategies.threads import MOST_THREADS, ArchThreads, can_run_on_threads
from nni_nas_consistency.supernet.active import Sample, active_of, can_stack, logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.modules import ElasticBatchNorm2d
from nni_nas_consistency.supernet.nni_modules import nni_choice
from nni_nas_consistency.supernet.sharing import FULL, Sharing
from nni_nas_consistency.supernet.statistics import batch_norms, batch_statistics

Rule = Literal["sandwich", "sampled-teacher", "multi-path", "pool-distillation", "frozen-teacher"]
Stacking = Literal["auto", "stacked", "sliced", "threads"]

STACKED_BELOW_MACS = 1_000_000
"""Where the largest subnet is smaller, kernel launches cost more than arithmetic, and stacking is faster on a CPU too:
at 0.16 M MACs a step of 18 archs took 0.15 s stacked and 0.58 s sliced; at 41 M MACs slicing did a third of the
arithmetic."""


@dataclass(frozen=True, eq=False)
class FrozenTeacher:
    """A trained network that the archs of a supernet learn from besides the labels, and what may come to it.

    Args:
        network: Maps images to logits [B, K]. It is not trained; put it into evaluation mode. It moves to the device
            and the type of the images.
        sandwich_ramp: Epochs until the largest and the smallest arch, which run besides the sampled ones, count as much
            as these: in epoch e, from 0, their losses have the weight min(1, e / ramp). None: they do not run.
        rank_weight: Weight of the rank loss guided by MACs (`losses.pairwise_rank_loss`) at the end of its ramp.
        rank_ramp: Epochs until the rank loss has its weight: in epoch e it has rank_weight · min(1, e / ramp).

    Raises:
        InputError: A setting is negative.
    """

    network: nn.Module
    sandwich_ramp: int | None = None
    rank_weight: float = 0.0
    rank_ramp: int = 0

    def __post_init__(self) -> None:
        settings = {"sandwich_ramp": self.sandwich_ramp, "rank_weight": self.rank_weight, "rank_ramp": self.rank_ramp}
        for name, value in settings.items():
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; it must be at least 0")


class NonFiniteLoss(Diverged):
    """A loss is infinite or NaN; the weights are those from before the step."""


class SandwichStrategy(OneShotStrategy):  # type: ignore[misc]
    """Train a supernet on several archs per step: by the sandwich rule, or on sampled paths alone.

    The defaults are those of recipe nazarick (third place, CVPR 2021 NAS track 1). `rule="multi-path"` is single-path
    sampling (SPOS, Guo et al. 2020) with `n=1`, and recipe ans with `n=6`, whose later phases are
    `rule="pool-distillation"` with `sampler=PoolSampler(…)`; `rule="frozen-teacher"` is recipe cvpr2022. Any
    `ModelSpace` of NNI can be trained.

    Args:
        n: Archs per step, at least 1.
        rule: `sandwich`: the largest and the smallest arch run at every step, with n − 2 sampled ones, and the
            gradients are those of the mean loss. `sampled-teacher`: n sampled archs alone, of which the first is the
            teacher; the gradients are those of the mean loss. `multi-path`: n sampled archs learn from the labels; the
            gradients are summed. `pool-distillation`: n sampled archs learn from the labels and from the largest, which
            runs besides them (`steps.pool_distillation_step`); the gradients are summed. `frozen-teacher`: n sampled
            archs learn from the labels and from `teacher`; the gradients are summed.
        teacher: For the rule of that name, the network to learn from.
        always: For the sandwich rule, the archs or NNI samples that run at every step; the first one is the teacher.
            By default the largest and the smallest of the space, which a space with operators does not have. For pool
            distillation, the teacher, alone; by default the largest.
        sampler: Draws the other archs; by default strict fair sampling, or uniform if the space has constraints.
        distill_from: For the sandwich rule and a sampled teacher, the epoch, from 0, from which all archs but the first
            learn from the softmax of the first; before it they learn from the labels. 0 as published; None: never. In a
            short run the teacher must have learnt from the labels first (docs/decisions/0006-late-teacher.md).
        grad_clip: Maximum norm of the gradient, or None. `Trainer(gradient_clip_val=…)` takes precedence.
        stacking: Whether the archs of a step run as one masked batch (`stacked`), one by one (`sliced`), or one by one
            on threads of their own (`threads`, on a CPU alone); `auto` takes the fastest.
        sharing: How archs share weights; None: as in the supernet that is given, else one kernel per layer.
        seed: Seed of the default sampler and of the watched archs.
        watched: Number of sampled archs to validate, besides those that run at every step.

    Raises:
        InputError: n is too small, or another argument is not allowed.
    """

    def __init__(
        self,
        n: int = 18,
        *,
        rule: Rule = "sandwich",
        teacher: FrozenTeacher | None = None,
        always: Sequence[Arch | Sample] | None = None,
        sampler: Sampler | None = None,
        distill_from: int | None = 0,
        grad_clip: float | None = 5.0,
        stacking: Stacking = "auto",
        sharing: Sharing | None = None,
        seed: int = 0,
        watched: int = 4,
    ) -> None:
        super().__init__()
        if rule not in get_args(Rule):
            raise InputError(f"rule is {rule!r}; allowed are {', '.join(map(repr, get_args(Rule)))}")
        if (rule == "frozen-teacher") != (teacher is not None):
            raise InputError("rule='frozen-teacher' and teacher=FrozenTeacher(…) go together; give both or neither")
        _check_always(rule, always)
        if stacking not in get_args(Stacking):
            raise InputError(f"stacking is {stacking!r}; allowed are {', '.join(map(repr, get_args(Stacking)))}")
        if stacking == "threads" and teacher is not None and teacher.rank_weight:
            raise InputError("stacking is 'threads', but a rank loss needs the losses before it: use stacking='auto'")
        least = 1 if rule != "sandwich" else len(always) if always else 2
        least = 2 if rule == "sampled-teacher" and distill_from is not None else least
        if n < least:
            raise InputError(f"n is {n}; rule {rule!r} needs at least {least} archs per step")
        self.n, self.rule, self.always, self.distill_from, self.teacher = n, rule, always, distill_from, teacher
        self.sampler, self.grad_clip, self.stacking, self.sharing = sampler, grad_clip, stacking, sharing
        self.seed, self.watched = seed, watched
        self.sync_batch_norm = False

    def mutate_model(self, model: Any) -> Any:
        """Turn a space into a supernet, in place; a supernet is returned as it is.

        Raises:
            InputError: NNI cannot share weights in a module of the space, or not by `sharing`; or the archs of `always`
                are missing or not allowed.
        """
        _always_running(self, domain_of(model))  # before any work
        if getattr(model, "active", None) is None:
            return make_supernet(model, sharing=self.sharing or FULL)
        check_sharing(model, self.sharing)
        return model

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's Lightning module into the training step.

        Raises:
            InputError: The trainer asks for several processes in another way than by DDP's subprocesses, for float16,
                or for clipping by value.
        """
        if isinstance(evaluator, Lightning):
            self._take_over(evaluator.trainer)
        return super().mutate_evaluator(evaluator)

    def _take_over(self, trainer: pl.Trainer) -> None:
        """Refuse settings that would train a wrong supernet, and clip in place of the trainer."""
        if trainer.world_size > 1:
            _check_processes(trainer)
            if self.stacking == "threads":
                raise InputError(
                    f"stacking is 'threads' on {trainer.world_size} processes; take either: stacking='sliced', or "
                    "devices=1"
                )
        self.sync_batch_norm = False
        parallel = trainer.strategy
        if isinstance(parallel, ParallelStrategy) and parallel._layer_sync is not None:
            self.sync_batch_norm = trainer.world_size > 1
            parallel._layer_sync = None  # torch's SyncBatchNorm, of one width, would replace the elastic batch norms
        if str(trainer.precision).startswith("16"):
            raise InputError(
                f"precision is {trainer.precision!r}; float16 needs scaled gradients, whose norm would be clipped "
                "wrongly: use 'bf16-mixed' or '32-true'"
            )
        if trainer.gradient_clip_val is None:
            return
        if trainer.gradient_clip_algorithm not in (None, "norm"):
            raise InputError(
                "SandwichStrategy clips by norm, not by value; use Trainer(gradient_clip_algorithm='norm')"
            )
        self.grad_clip = float(trainer.gradient_clip_val)
        trainer.gradient_clip_val = None  # Lightning refuses to clip under manual optimization

    def configure_oneshot_module(self, training_module: LightningModule) -> SandwichModule:
        """Return the Lightning module that NNI trains."""
        return SandwichModule(training_module, self, cast("ModelSpace", self.model_space.model_space))

    def state_dict(self) -> dict[str, str]:
        """Return the path of the newest checkpoint, from which NNI resumes, if there is one; NNI warns if not."""
        if self._mutated_model_space is None:
            return {}
        path = newest_checkpoint(self._mutated_model_space.evaluator.trainer)
        return {"ckpt_path": path} if path else {}

    def sub_state_dict(self, arch: Arch | Sample) -> dict[str, Tensor]:
        """Return the weights of one subnet, given as an arch or NNI's sample; see `supernet.extract.sub_state_dict`."""
        return sub_state_dict(self.supernet, arch)


class SandwichModule(BaseOneShotLightningModule):  # type: ignore[misc]
    """The Lightning module of the supernet: one training step a batch, and validation of the watched archs."""

    def __init__(self, training_module: LightningModule, strategy: SandwichStrategy, space: ModelSpace) -> None:
        super().__init__(training_module)
        self.strategy = strategy
        domain = domain_of(space)
        self.macs = _macs_counter(space) if strategy.teacher is not None and strategy.teacher.rank_weight else None
        self.sampler = strategy.sampler or _default_sampler(domain, strategy.seed)
        self.always = _always_running(strategy, domain)
        self.watched = _watched(strategy, domain, self.always)
        if strategy.sync_batch_norm:
            _check_elastic_norms(space)
        if strategy.stacking == "threads":
            _check_threads(space)

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of the supernet: to look them up at every step took 12 of 18 ms of clipping 8,156 of them."""
        return list(self.model.parameters())

    @cached_property
    def threads(self) -> ArchThreads | None:
        """The threads that the archs of a step run on, or None if they run one by one on all threads of torch."""
        stacking, count = self.strategy.stacking, min(torch.get_num_threads(), MOST_THREADS)
        if stacking == "threads":
            _check_threads(self.model)  # once more: it may be on a GPU now
            return ArchThreads(self.model, max(count, 2))
        wanted = stacking == "auto" and not stacked_is_faster(self.model, self.device)
        if not wanted or count < 2 or not can_run_on_threads(self.model):
            return None
        return ArchThreads(self.model, count)

    def teardown(self, stage: str | None = None) -> None:
        """End the threads."""
        threads = self.__dict__.pop("threads", None)
        if threads is not None:
            threads.close()
        super().teardown(stage)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Run n archs forward and backward on a batch, and take one optimizer step."""
        images, labels = batch
        archs = self._archs()
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        optimizer.zero_grad()
        step = self._step(archs, images)
        bundles = self._bundled(archs, images.device)
        if self.trainer.world_size == 1:
            threads = self.threads if len(bundles) > 1 else None
            losses = step(self.model, images, labels, bundles, backward=self.manual_backward, threads=threads)
            self._check_finite(losses, archs)
        else:
            losses = self._step_on_processes(step, images, labels, archs, bundles)
        if self.strategy.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.weights, self.strategy.grad_clip)
        optimizer.step()
        self.advance_lr_schedulers(batch_idx)
        self.log_dict({"train_loss": losses.mean(), "train_loss_first": losses[0]}, prog_bar=True)

    def _step_on_processes(
        self, step: TrainingStep, images: Tensor, labels: Tensor, archs: list[Arch], bundles: list[Bundle]
    ) -> Tensor:
        """Run a step on this process's part of a batch, and return the losses of the whole batch, [n].

        Gradients and running statistics become their averages over all processes. Where batch norms normalise over all
        of them, gradients cross processes, so that the losses are weighted, not the gradients. A loss that is not
        finite in any process ends all of them.
        """
        shares = shares_of_batch(archs, len(images), images.device)
        share, equal = shares[self.global_rank], torch.full_like(shares[0], 1 / len(shares))
        sync = self.strategy.sync_batch_norm

        def backward(loss: Tensor) -> None:
            self.manual_backward(loss * float(share / equal) if sync else loss)

        block = cast("ParallelStrategy", self.trainer.strategy).block_backward_sync()
        with block, statistics_over_processes(self.model) if sync else nullcontext():
            losses = step(self.model, images, labels, bundles, backward=backward)
        everyones = gather_losses(losses)
        for of_process in everyones:
            self._check_finite(of_process, archs)
        average_over_processes(self.model, equal if sync else share)
        return (everyones * shares[:, None]).sum(0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of every watched arch, and the evaluator's own metrics of the current active subnet."""
        images, labels = batch
        world = self.trainer.world_size
        counted = len(labels) * world  # Lightning divides the sum over all processes by their number, in integers
        with batch_statistics(self.model):
            self.training_module.validation_step(batch, batch_idx)
            for name, arch in self.watched.items():
                logits = logits_of(self.model, images, arch)
                loss = torch.nn.functional.cross_entropy(logits, labels)
                accuracy = (logits.argmax(-1) == labels).float().mean()
                metrics = {f"val_loss/{name}": loss, f"val_acc/{name}": accuracy}
                self.log_dict(metrics, batch_size=counted, sync_dist=world > 1)

    def export(self) -> dict[str, Any]:
        """Return the sample of the first watched arch, such as the largest: finding the best is left to scoring."""
        arch = next(iter(self.watched.values()), active_of(self.model).run.archs[0])
        mutables = self.model.simplify().items()
        return {label: nni_choice(mutable, arch.choices[label]) for label, mutable in mutables if label in arch.choices}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sampler's state."""
        checkpoint["sampler"] = self.sampler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sampler's state."""
        self.sampler.load_state_dict(checkpoint["sampler"])

    def _archs(self) -> list[Arch]:
        """Return the archs of the next step."""
        teacher = self.strategy.teacher
        if self.strategy.rule == "pool-distillation":
            return [*self.always, *self.sampler.draw(self.strategy.n)]
        if teacher is None:
            return [*self.always, *self.sampler.draw(self.strategy.n - len(self.always))]
        beside = self.always if _ramp(self.current_epoch, teacher.sandwich_ramp) else []
        return [*beside, *self.sampler.draw(self.strategy.n)]

    def _step(self, archs: Sequence[Arch], images: Tensor) -> TrainingStep:
        if self.strategy.teacher is not None:
            return self._teacher_step(self.strategy.teacher, len(archs) - self.strategy.n, images)
        if self.strategy.rule == "multi-path":
            return multi_path_step
        if self.strategy.rule == "pool-distillation":
            return pool_distillation_step
        distill_from = self.strategy.distill_from
        if distill_from is None or self.current_epoch < distill_from:
            return label_step
        return sandwich_step

    def _teacher_step(self, teacher: FrozenTeacher, beside: int, images: Tensor) -> TrainingStep:
        """Return the step of a frozen teacher, in which the first archs run besides those that were sampled."""
        weights = [_ramp(self.current_epoch, teacher.sandwich_ramp)] * beside + [1.0] * self.strategy.n
        rank = None
        rank_weight = teacher.rank_weight * _ramp(self.current_epoch, teacher.rank_ramp)
        if self.macs is not None and rank_weight:
            rank = RankLoss(rank_weight, self.macs)
        network = teacher.network.to(images.device, images.dtype)
        return partial(frozen_teacher_step, teacher=network, weights=weights, rank=rank)

    def _bundled(self, archs: list[Arch], device: torch.device) -> list[Bundle]:
        """Return the archs in bundles: one by one, or the first alone and the others as one stacked batch."""
        first, others = archs[0], archs[1:]
        stacked = self.strategy.stacking == "stacked"
        if self.strategy.stacking == "auto":
            stacked = stacked_is_faster(self.model, device)
        if not others or not stacked:
            return list(archs)
        if not can_stack(self.model, others):
            if self.strategy.stacking == "auto":
                return list(archs)
            raise InputError("the archs of a step use different modules and cannot be stacked; use stacking='sliced'")
        return [first, others]

    def _check_finite(self, losses: Tensor, archs: list[Arch]) -> None:
        if torch.isfinite(losses).all():
            return
        index = int((~torch.isfinite(losses)).nonzero()[0])
        checkpoint = newest_checkpoint(self.trainer)
        raise NonFiniteLoss(
            f"the loss of arch {archs[index].code} is {float(losses[index])} at step {self.trainer.global_step}; "
            f"last good checkpoint: {checkpoint or 'none'}. Lower the learning rate or lengthen the warm-up."
        )


def _check_threads(supernet: ModelSpace) -> None:
    """Refuse threads of their own for archs that cannot have them."""
    if not can_run_on_threads(supernet):
        raise InputError(
            f"stacking is 'threads', but archs of {type(supernet).__name__} run one by one: threads need a CPU and a "
            "chain space of elastic modules without dropout; use stacking='auto'"
        )


def _check_elastic_norms(supernet: ModelSpace) -> None:
    """Refuse batch norm over all processes where a batch norm is not ours."""
    if not all(isinstance(norm, ElasticBatchNorm2d) for norm in batch_norms(cast("nn.Module", supernet))):
        raise InputError(
            f"Trainer asks for sync_batchnorm, and batch norms of {type(supernet).__name__} are not elastic ones: "
            "leave it out; each process normalises with its own images"
        )


def _check_processes(trainer: pl.Trainer) -> None:
    """Refuse several processes that would train a wrong supernet."""
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or not isinstance(strategy.launcher, _SubprocessScriptLauncher):
        raise InputError(
            f"Trainer asks for {trainer.world_size} processes in another way than by subprocesses: set strategy='ddp', "
            "or devices=1"
        )


def stacked_is_faster(space: ModelSpace, device: torch.device) -> bool:
    """Return whether archs of a space train faster as one stacked batch than one by one, on this kind of device."""
    if not isinstance(space, ChainSpace) or space.domain.largest is None:
        return False
    if device.type == "cuda":
        return True
    macs = macs_of(space)
    return macs is not None and macs(space.largest) < STACKED_BELOW_MACS


def newest_checkpoint(trainer: pl.Trainer) -> str:
    """Return the path of the checkpoint that the trainer wrote last, or an empty string."""
    for callback in trainer.checkpoint_callbacks:
        path: str = getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "")
        if path:
            return path
    return ""


def _ramp(epoch: int, length: int | None) -> float:
    """Return the share, in [0, 1], that a linear ramp has reached in an epoch, from 0; there is none without it."""
    if length is None:
        return 0.0
    return min(1.0, epoch / length) if length else 1.0


def check_sharing(supernet: ModelSpace, sharing: Sharing | None) -> None:
    """See that a supernet shares weights as it is asked to; None: in any way.

    Raises:
        InputError: It does not.
    """
    if sharing not in (None, active_of(supernet).sharing):
        raise InputError(f"the supernet shares weights by {active_of(supernet).sharing}, not {sharing}; see unshare")


def _macs_counter(space: ModelSpace) -> Callable[[Arch], int]:
    """Return what counts the MACs of an arch of a space.

    Raises:
        InputError: Nobody knows them.
    """
    macs = macs_of(space)
    if macs is None:
        raise InputError(f"rank_weight needs MACs, which {type(space).__name__} does not know: set it to 0")
    return macs


def macs_of(space: ModelSpace) -> Callable[[Arch], int] | None:
    """Return what counts the MACs of an arch of a space, or None if its links do not know them."""
    if not isinstance(space, ChainSpace) or not all(isinstance(link, CostedLink) for link in space.links):
        return None
    return lambda arch: space.complexity(arch).macs


def _check_always(rule: Rule, always: Sequence[Arch | Sample] | None) -> None:
    """Refuse archs that run at every step where the rule has none, or not so many."""
    if always is None:
        return
    if rule not in ("sandwich", "pool-distillation"):
        raise InputError("always belongs to rule='sandwich' and 'pool-distillation'; leave it out, or change the rule")
    if not always:
        raise InputError("always is empty; name at least one arch, which is the teacher")
    if rule == "pool-distillation" and len(always) > 1:
        raise InputError(f"always has {len(always)} archs; rule 'pool-distillation' has one teacher: name it alone")


def _always_running(strategy: SandwichStrategy, domain: Domain) -> list[Arch]:
    """Return the archs that run at every step."""
    if strategy.rule in ("multi-path", "sampled-teacher") or (
        strategy.teacher is not None and strategy.teacher.sandwich_ramp is None
    ):
        return []
    if strategy.always is not None:
        return [_allowed(arch, domain, f"always[{index}]") for index, arch in enumerate(strategy.always)]
    if strategy.rule == "pool-distillation":
        if domain.largest is None:
            raise InputError(
                f"{domain.codec.space} has no largest arch to teach; name the teacher with "
                "SandwichStrategy(always=[sample])"
            )
        return [_allowed(domain.largest, domain, "the largest arch")]
    if domain.largest is None or domain.smallest is None:
        raise InputError(
            f"{domain.codec.space} has no largest and smallest arch for the sandwich rule; name the archs that run at "
            "every step, teacher first, with SandwichStrategy(always=[sample, …]), or use rule='multi-path'"
        )
    return [
        _allowed(domain.largest, domain, "the largest arch"),
        _allowed(domain.smallest, domain, "the smallest arch"),
    ]


def _allowed(arch: Arch | Sample, domain: Domain, name: str) -> Arch:
    """Return an arch of the space that breaks no constraint, or raise."""
    arch = domain.codec.parse(arch.code, name) if isinstance(arch, Arch) else domain.codec.arch(arch, name)
    reason = domain.refusal(arch.choices)
    if reason is not None:
        raise InputError(f"{name} breaks a constraint of {domain.codec.space} ({reason}); name others with always=[…]")
    return arch


def _default_sampler(domain: Domain, seed: int) -> Sampler:
    generator = torch.Generator().manual_seed(seed)
    return UniformSampler(domain, generator) if domain.constraints else strict_fair_sampler(domain, generator)


def _watched(strategy: SandwichStrategy, domain: Domain, always: list[Arch]) -> dict[str, Arch]:
    """Return the archs that are validated, by name."""
    sampled = UniformSampler(domain, torch.Generator().manual_seed(strategy.seed)).draw(strategy.watched)
    watched = {f"always{index}": arch for index, arch in enumerate(always)}
    if strategy.always is None and domain.largest is not None and domain.smallest is not None:
        watched = {"largest": domain.largest, "smallest": domain.smallest}
    return watched | {f"arch{index}": arch for index, arch in enumerate(sampled, 1)}
