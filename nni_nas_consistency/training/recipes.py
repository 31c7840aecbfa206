"""The training recipes as plain values: what is published, as it was published, and the short ones of this project.

A recipe names its training rule and its sampler by word, so that it can be read, compared and stored without torch;
`training/supernet.py` makes the strategy and the sampler from them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import CIFAR100_ANS, CIFAR100_TRAIN, DIGITS_TEST, Augmentation, Mixing

Rule = Literal["sandwich", "sampled-teacher", "multi-path", "pool-distillation", "frozen-teacher"]
Sampling = Literal["strict-fair", "fair", "uniform", "params", "largest", "pool", "macs-bins"]
Decay = Literal["cosine", "cosine-per-epoch", "linear", "linear-per-epoch"]
Optimizer = Literal["sgd", "adamw"]
Start = Literal["as-left", "reordered"]
Init = Literal["kaiming-fan-out", "torch", "channels-in", "trunc-normal"]
StemNorm = Literal["affine", "plain"]
AlonePrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
MacsBins: TypeAlias = "tuple[float, float, int]"
"""From how many MACs to how many, and how many bins of equal width are between."""


@dataclass(frozen=True)
class Optimization:
    """SGD or AdamW with a linear warm-up per step from 0, then a cosine per epoch over `epochs`.

    The clock of the cosine starts in the epoch in which the warm-up ends, so that it is not quite at its end when the
    training is: rate(e) = end_lr + (lr − end_lr) · ½ (1 + cos(π (e − warm-up epochs − peak_epochs) / epochs)).

    With `decay_epochs`, the rate stays at its peak until that many epochs are left, and falls to `end_lr` in a cosine
    per step (warm-up, constant, decay): a training of open length can be gone on with, and ended, at any epoch.

    With decay `cosine-per-epoch`, as transformers are trained, the warm-up is per epoch too, begins at `end_lr`, and
    the clock starts with the training: rate(e) = end_lr + (lr − end_lr) · e / warm-up epochs, then
    end_lr + (lr − end_lr) · ½ (1 + cos(π e / epochs)), which is timm's `CosineLRScheduler`.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per batch.
        lr: Peak learning rate.
        warmup_steps: Steps until the peak.
        weight_decay: L2 penalty; decoupled from the gradient by AdamW.
        momentum: Of SGD. AdamW has the decays (0.9, 0.999).
        peak_epochs: Epochs at the peak before the clock starts, besides the warm-up.
        decay_epochs: Length of the decay at the end; 0: the rate stays at its peak; None: the cosine over `epochs`.
        warmup_epochs: Length of the warm-up in epochs, which adds to `warmup_steps`.
        lr_batch: The batch size that `lr` is meant for; at another one the peak is `lr` · `batch_size` / `lr_batch`
            (Goyal et al. 2017, section 2.1). None: the peak is `lr` at any batch size.
        drop_last: Whether a last batch with fewer images is left out.
        end_lr: What the cosine falls to, at most `lr`, and in proportion to it at another batch size.
        nesterov: Whether the momentum is Nesterov's.
        decay: How the rate falls after the warm-up: `cosine` and `cosine-per-epoch`, as above; `linear`: per step, to 0
            at the end (with `warmup_epochs`, piecewise linear); `linear-per-epoch`: by the same amount after every
            epoch.
        optimizer: `sgd`, or `adamw` (Loshchilov & Hutter 2019).
        label_smoothing: See `Mixing`.
        mixup: See `Mixing`.
        cutmix: See `Mixing`.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int
    weight_decay: float
    momentum: float = 0.9
    peak_epochs: int = 0
    decay_epochs: int | None = None
    warmup_epochs: float = 0.0
    lr_batch: int | None = None
    drop_last: bool = False
    end_lr: float = 0.0
    nesterov: bool = False
    decay: Decay = "cosine"
    optimizer: Optimizer = "sgd"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixing(self) -> Mixing:
        """How training images are mixed and their labels smoothed."""
        return Mixing(self.label_smoothing, self.mixup, self.cutmix)

    def settings(self) -> dict[str, float | str | None]:
        """Return the fields, as plain JSON values; the newest only where they are used, so that older runs go on."""
        unused = {"end_lr": 0.0, "nesterov": False, "decay": "cosine", "optimizer": "sgd"}
        unused |= {"label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0}
        return {name: value for name, value in asdict(self).items() if name not in unused or value != unused[name]}

    @property
    def peak_lr(self) -> float:
        """The peak learning rate at this batch size."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of batches that so many training images make."""
        return images // self.batch_size if self.drop_last else math.ceil(images / self.batch_size)

    def warm_up(self, steps_per_epoch: int) -> int:
        """Return the number of steps until the peak."""
        return self.warmup_steps + int(self.warmup_epochs * steps_per_epoch)

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step (from 0) as a share of the peak, in [0, 1]."""
        warm_up = self.warm_up(steps_per_epoch)
        if self.decay == "cosine-per-epoch":
            return self._factor_of_epoch(step // steps_per_epoch, warm_up / steps_per_epoch)
        if step < warm_up:
            return step / warm_up
        if self.decay_epochs is not None:
            return self._decay_factor(step / steps_per_epoch)
        if self.decay == "linear":
            end = self.epochs * steps_per_epoch
            return max(end - step, 0) / (end - warm_up)
        warmup_epochs = warm_up // steps_per_epoch
        if self.decay == "linear-per-epoch":
            left = self.epochs - step // steps_per_epoch
            return max(left, 0) / (self.epochs - warmup_epochs)
        clock = step // steps_per_epoch - warmup_epochs - self.peak_epochs
        return self._cosine(clock / self.epochs)

    def _cosine(self, done: float) -> float:
        """Return the share of the peak when so much of the cosine is done; it is whole before 0, and over after 1."""
        end = self.end_lr / self.lr if self.lr else 0.0
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(max(done, 0), 1)))

    def _factor_of_epoch(self, epoch: int, warmup_epochs: float) -> float:
        """Return the learning rate of an epoch as a share of the peak, by decay `cosine-per-epoch`."""
        if epoch >= warmup_epochs:
            return self._cosine(epoch / self.epochs)
        end = self.end_lr / self.lr if self.lr else 0.0
        return end + (1 - end) * epoch / warmup_epochs

    def _decay_factor(self, epoch: float) -> float:
        """Return the learning rate of warm-up, constant, decay at a moment, in epochs from 0, after the warm-up."""
        if not self.decay_epochs:
            return 1.0
        return self._cosine((epoch - (self.epochs - self.decay_epochs)) / self.decay_epochs)

    def check(self) -> None:
        """See that the settings fit each other.

        Raises:
            InputError: The rate would end above its peak, the constants of a cosine are given for a linear decay, or
                Nesterov's momentum is none, or AdamW's.
        """
        if self.end_lr > self.lr:
            raise InputError(f"end_lr is {self.end_lr}, above lr, {self.lr}, which falls to it; lower --set end_lr=…")
        if self.end_lr and self.decay not in ("cosine", "cosine-per-epoch"):
            raise InputError(f"end_lr belongs to decay=cosine, not {self.decay}, which falls to 0; leave it out")
        if self.decay != "cosine" and (self.decay_epochs is not None or self.peak_epochs):
            raise InputError(f"decay_epochs belongs to decay=cosine, not {self.decay}; add --set decay_epochs=none")
        if self.nesterov and self.optimizer != "sgd":
            raise InputError(f"nesterov=true belongs to optimizer=sgd, not {self.optimizer}; leave one of them out")
        if self.nesterov and not self.momentum:
            raise InputError("nesterov=true needs a momentum above 0; leave one of them out")

    def check_warm_up(self, images: int) -> None:
        """See that the warm-up is shorter than the training.

        Args:
            images: Number of training images.

        Raises:
            InputError: It is not.
        """
        steps = self.epochs * self.steps_per_epoch(images)
        warm_up = self.warm_up(self.steps_per_epoch(images))
        if 0 < steps <= warm_up:
            name = "warmup_steps" if self.warmup_steps else "warmup_epochs"
            raise InputError(
                f"a warm-up of {warm_up} steps is not shorter than the training of {steps} steps: hardly "
                f"anything would be learnt; train for more epochs, on more images, or --set {name}=0"
            )

    def for_epochs(self, epochs: int) -> Optimization:
        """Return the same optimization at another length; the warm-up of a cosine changes in proportion."""
        if self.decay_epochs is not None or not self.epochs or not epochs:
            return replace(self, epochs=epochs)
        share = epochs / self.epochs
        warmup_steps, warmup_epochs = round(self.warmup_steps * share), self.warmup_epochs * share
        return replace(self, epochs=epochs, warmup_steps=warmup_steps, warmup_epochs=warmup_epochs)


@dataclass(frozen=True)
class Loss:
    """The loss of a network that is trained alone: cross-entropy with smoothed labels, of scaled logits.

    Args:
        label_smoothing: Share of the label that all classes have in common, in [0, 1).
        logits_scale: What the logits are multiplied by; it changes the loss, and no prediction.
    """

    label_smoothing: float = 0.0
    logits_scale: float = 1.0


CROSS_ENTROPY = Loss()


@dataclass(frozen=True)
class Phase:
    """A part of a recipe: one optimizer, one schedule.

    Args:
        optimization: Optimizer and schedule.
        augmentation: Of the training images; None: that of the data set.
        n: Archs per step.
        rule: `sandwich`: the largest and the smallest arch run at every step, the mean of the losses is minimised.
            `sampled-teacher`: the same without these two, and the first sampled arch is the teacher.
            `multi-path`: sampled archs alone learn from the labels, the sum of the losses is minimised.
            `pool-distillation`: sampled archs learn from the labels and from the softmax of the largest, which runs
            besides and learns from the labels; the sum of the losses is minimised.
            `frozen-teacher`: sampled archs learn from the labels and from the softmax of the largest arch as it was
            when the phase began; the sum of the losses is minimised.
        sampling: How archs are drawn; `largest`: always the largest; `pool`: those of a pool, by its weights, or in its
            order first and reshuffled each pass.
        distill_from: By the sandwich rule, the epoch, from 0, at which the largest arch becomes the teacher of all
            others; None: never. Likewise the first arch of `sampled-teacher`.
        grad_clip: Largest gradient norm, or None.
        ema: Decay per step of an exponential moving average of the weights (Polyak & Juditsky 1992), such as 0.999,
            which takes the place of the last weights when the phase ends; None: the last weights.
        mean_epochs: The mean of the weights at the ends of so many last epochs takes their place instead (stochastic
            weight averaging, Izmailov et al. 2018); None: the last weights.
        start: What is done to the weights before the phase. `reordered`: the channels inside each residual block are
            sorted by importance, which leaves the function of the largest arch as it was (`spaces.reorder`).
        sandwich_ramp: With a frozen teacher, the epochs until the largest and the smallest arch, which run besides the
            n sampled ones, count as much as these; None: they do not run.
        rank_weight: With a frozen teacher, the weight of the rank loss guided by MACs at the end of its ramp.
        rank_ramp: Epochs until the rank loss has its weight.
        pool_size: Archs of the pool that is drawn from the space by the seed, uniformly, unless one is given; None: one
            must be given.
        macs_bins: For `sampling="macs-bins"`, from how many MACs to how many, and how many bins: a bin is drawn, then
            an arch of it (`strategies.sampling.MacsBinsSampler`).
    """

    optimization: Optimization
    augmentation: Augmentation | None
    n: int
    rule: Rule
    sampling: Sampling
    distill_from: int | None
    grad_clip: float | None
    ema: float | None = None
    start: Start = "as-left"
    sandwich_ramp: int | None = None
    rank_weight: float = 0.0
    rank_ramp: int = 0
    pool_size: int | None = None
    macs_bins: MacsBins | None = None
    mean_epochs: int | None = None

    def for_epochs(self, epochs: int) -> Phase:
        """Return the same phase at another length; warm-up, ramps and the teacher's epoch change in proportion."""

        def scaled(length: int | None) -> int | None:
            if length is None or not epochs or not self.optimization.epochs:
                return length
            return math.ceil(length * epochs / self.optimization.epochs)

        return replace(
            self,
            optimization=self.optimization.for_epochs(epochs),
            distill_from=scaled(self.distill_from),
            sandwich_ramp=scaled(self.sandwich_ramp),
            rank_ramp=scaled(self.rank_ramp) or 0,
        )

    def check(self) -> None:
        """See that the settings fit each other.

        Raises:
            InputError: A setting belongs to another rule, or there are too few archs per step.
        """
        self.optimization.check()
        if self.ema is not None and self.mean_epochs is not None:
            raise InputError("ema and mean_epochs are two averages of the weights; give one of them")
        if self.mean_epochs is not None and not 1 <= self.mean_epochs <= self.optimization.epochs:
            raise InputError(f"mean_epochs is {self.mean_epochs}, of a training of {self.optimization.epochs} epochs")
        if self.sampling == "macs-bins" and self.macs_bins is None:
            raise InputError("sampling=macs-bins needs bins: add --set macs_bins=FROM:TO:BINS, such as 290e6:360e6:7")
        if self.sampling != "macs-bins" and self.macs_bins is not None:
            raise InputError(f"macs_bins belongs to sampling=macs-bins, not {self.sampling}; leave it out")
        if self.rule not in ("sandwich", "sampled-teacher") and self.distill_from is not None:
            raise InputError(f"distill_from belongs to rule=sandwich, not {self.rule}; add --set distill_from=never")
        if self.rule != "frozen-teacher" and (self.sandwich_ramp is not None or self.rank_weight):
            raise InputError(
                f"sandwich_ramp and rank_weight belong to rule=frozen-teacher, not {self.rule}; leave them out"
            )
        if self.sampling != "pool" and self.pool_size is not None:
            raise InputError(f"pool_size belongs to sampling=pool, not {self.sampling}; add --set pool_size=none")
        if self.rule == "sampled-teacher" and self.distill_from is not None and self.n < 2:
            raise InputError(
                f"n is {self.n}; rule 'sampled-teacher' needs at least 2 archs per step, of which the first teaches: "
                "give a larger --n, or --set distill_from=never"
            )
        if self.rule == "sandwich" and self.n < 2:
            raise InputError(
                f"n is {self.n}; rule 'sandwich' needs at least 2 archs per step, the largest and the smallest: give a "
                "larger --n, or --set rule=multi-path"
            )

    def settings(self) -> dict[str, float | str | None]:
        """Return everything in which two runs of a phase can differ but the augmentation, as plain JSON values.

        The newest settings are left out where they are not used, so that runs from before there were any go on.
        """
        settings: dict[str, float | str | None] = {
            **self.optimization.settings(),
            "n": self.n,
            "rule": self.rule,
            "sampling": self.sampling,
            "distill_from": self.distill_from,
            "grad_clip": self.grad_clip,
            "ema": self.ema,
            "start": self.start,
            "sandwich_ramp": self.sandwich_ramp,
            "rank_weight": self.rank_weight,
            "rank_ramp": self.rank_ramp,
            "pool_size": self.pool_size,
            "mean_epochs": self.mean_epochs,
            "macs_bins": None if self.macs_bins is None else ":".join(f"{part:g}" for part in self.macs_bins),
        }
        newest = ("pool_size", "mean_epochs", "macs_bins")
        return {name: value for name, value in settings.items() if name not in newest or value is not None}


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained.

    Args:
        name: Its word on the command line.
        init: How fresh weights are drawn. `kaiming-fan-out`: convolutions and linear layers uniform in
            ±√3 · √2 / √fan_out (He et al. 2015), biases 0, batch norms 1 and 0. `torch`: torch's own, which is 2.4
            times smaller for a 3×3 conv of 64 channels. `channels-in`: convolutions normal with a standard deviation
            of 1 / input channels, linear layers with 0.01, shifts of batch norms 1e-4, other biases 0. `trunc-normal`:
            linear layers normal with a standard deviation of 0.02, biases 0, as vision transformers are begun with.
        phases: One after the other, each from the weights that the last one left.
        command: What trains it.
        reached: What it reached, and where that was measured.
        stem_norm: Whether the batch norms of the first link learn scale and shift (`affine`) or keep those that they
            begin with, 1 and 0 in fresh weights (`plain`).
    """

    name: str
    init: Init
    phases: tuple[Phase, ...]
    command: str
    reached: str
    stem_norm: StemNorm = "affine"

    def for_epochs(self, epochs: int) -> Recipe:
        """Return the same recipe with another length of its last phase."""
        return replace(self, phases=(*self.phases[:-1], self.phases[-1].for_epochs(epochs)))

    def for_a_moment(self) -> Recipe:
        """Return the same recipe with one epoch a phase and no warm-up, to see how long its steps take."""
        phases = []
        for phase in self.phases:
            short = phase.for_epochs(1) if phase.optimization.epochs else phase
            phases.append(replace(short, optimization=replace(short.optimization, warmup_steps=0, warmup_epochs=0.0)))
        return replace(self, phases=tuple(phases))

    def steps(self, images: int) -> int:
        """Return the number of steps on so many training images, of all phases."""
        runs = (phase.optimization for phase in self.phases)
        return sum(run.epochs * run.steps_per_epoch(images) for run in runs)

    def from_phase(self, first: int) -> Recipe:
        """Return the same recipe without the phases before one, which keep their place with 0 epochs.

        Raises:
            InputError: There is no such phase.
        """
        if not 0 <= first < len(self.phases):
            raise InputError(f"recipe {self.name} has the phases 0 to {len(self.phases) - 1}, no phase {first}")
        before = (replace(phase, optimization=replace(phase.optimization, epochs=0)) for phase in self.phases[:first])
        return replace(self, phases=(*before, *self.phases[first:]))

    def prefix_of(self, phase: int) -> str:
        """Return what the settings of a phase begin with: nothing where it is the only one."""
        return "" if len(self.phases) == 1 else f"phase{phase}_"

    @property
    def pool_phases(self) -> tuple[int, ...]:
        """The phases that draw from a pool; those without epochs are left out."""
        return tuple(
            index for index, phase in enumerate(self.phases) if phase.sampling == "pool" and phase.optimization.epochs
        )

    def check(self, *, fresh: bool) -> None:
        """See that the phases can be trained one after the other; those without epochs are left out.

        Args:
            fresh: Whether training begins with fresh weights.

        Raises:
            InputError: Settings do not fit each other, nothing is trained, or an untrained network is to teach.
        """
        phases = [phase for phase in self.phases if phase.optimization.epochs]
        if not phases:
            raise InputError(f"recipe {self.name} has no epochs left; --set epochs=… gives it some")
        for phase in phases:
            phase.check()
        if fresh and phases[0].rule == "frozen-teacher":
            raise InputError(
                "rule=frozen-teacher needs a trained network to learn from; give --weights, or train it first"
            )

    def for_data(self, augmentation: Augmentation) -> Recipe:
        """Return the same recipe with the augmentation of a data set in the phases that leave it to that."""
        phases = (replace(phase, augmentation=phase.augmentation or augmentation) for phase in self.phases)
        return replace(self, phases=tuple(phases))

    @property
    def channels(self) -> int | None:
        """Channels of the images that it is for; None: any number."""
        augmentation = self.phases[0].augmentation
        return None if augmentation is None else len(augmentation.mean)


NAZARICK = Recipe(
    "nazarick",
    "kaiming-fan-out",
    (
        Phase(
            Optimization(epochs=300, batch_size=128, lr=0.1, warmup_steps=2000, weight_decay=0.0),
            CIFAR100_TRAIN,
            n=18,
            rule="sandwich",
            sampling="strict-fair",
            distill_from=0,
            grad_clip=5.0,
        ),
    ),
    command="nni-consistency train --recipe nazarick --data-root data --out runs/nazarick",
    reached="published: Pearson 0.971 on the leaderboard, 10 h on one V100; not run here",
)
"""Third place of CVPR 2021 NAS track 1."""

SHORT = Recipe(
    "short",
    "kaiming-fan-out",
    (
        replace(
            NAZARICK.phases[0],
            optimization=replace(NAZARICK.phases[0].optimization, epochs=12, lr=0.4, warmup_steps=390),
            n=6,
            distill_from=6,
        ),
    ),
    command="nni-consistency train --recipe short --precision bf16-mixed --data-root data --out runs/short",
    reached="by version 0.1: Kendall 0.789, Pearson 0.946 on 300 archs, 97 min on two cores (docs/measured.md)",
)
"""Recipe nazarick cut down to hours on a few CPU cores (docs/decisions/0010-short-recipe.md)."""

ANS_FIRST = Phase(
    Optimization(epochs=250, batch_size=128, lr=0.025, warmup_steps=0, weight_decay=5e-4, peak_epochs=1),
    CIFAR100_ANS,
    n=6,
    rule="multi-path",
    sampling="uniform",
    distill_from=None,
    grad_clip=None,
)
"""Phase 0 of recipe ans: six single paths per step, gradients summed."""


def _on_pool(first: Phase, rule: Rule, pool_size: int, *, epochs: int, lr: float, end_lr: float) -> Phase:
    """Return a later phase of recipe ans: on a pool, without weight decay."""
    optimization = replace(first.optimization, epochs=epochs, lr=lr, end_lr=end_lr, weight_decay=0.0)
    return replace(first, optimization=optimization, rule=rule, sampling="pool", pool_size=pool_size)


ANS = Recipe(
    "ans",
    "kaiming-fan-out",
    (
        ANS_FIRST,
        _on_pool(ANS_FIRST, "multi-path", 200, epochs=30, lr=1e-3, end_lr=5e-4),
        _on_pool(ANS_FIRST, "pool-distillation", 200, epochs=30, lr=1e-3, end_lr=5e-4),
        _on_pool(ANS_FIRST, "pool-distillation", 200, epochs=30, lr=4e-3, end_lr=5e-4),
        _on_pool(ANS_FIRST, "pool-distillation", 100, epochs=20, lr=3.5e-3, end_lr=5e-4),
    ),
    command=(
        "nni-consistency train --recipe ans --data-root data --pool pool200.json --pool phase4=pool100.json "
        "--out runs/ans"
    ),
    reached="published: second place; not run here",
    stem_norm="plain",
)
"""Second place of CVPR 2021 NAS track 1: six single paths per step; then a pool of 200 archs, every 250th of the
released list, without and with distillation from the largest; then one of 100, drawn at random.

The pools are files that `nni-consistency archs pool` writes. Without them as many archs are drawn from the space by the
seed, uniformly, as the released list was.
"""

EMBEDDED = Recipe(
    "digits",
    "kaiming-fan-out",
    (
        Phase(
            Optimization(epochs=24, batch_size=32, lr=0.2, warmup_steps=100, weight_decay=0.0),
            DIGITS_TEST,
            n=18,
            rule="sandwich",
            sampling="strict-fair",
            distill_from=12,
            grad_clip=5.0,
        ),
    ),
    command="nni-consistency train --space digits --recipe digits --out runs/digits",
    reached="see the README's table, about a minute on two cores (docs/quickstart.json)",
)
"""Recipe nazarick at the length of the embedded benchmark: larger steps, smaller batches, no augmentation, and a
teacher that has learnt from the labels first (docs/decisions/0006-late-teacher.md)."""

ANS_DIGITS_FIRST = replace(
    ANS_FIRST,
    optimization=replace(ANS_FIRST.optimization, epochs=24, batch_size=32),
    augmentation=DIGITS_TEST,
)

ANS_DIGITS = replace(
    ANS,
    name="ans-digits",
    phases=(
        ANS_DIGITS_FIRST,
        _on_pool(ANS_DIGITS_FIRST, "multi-path", 40, epochs=3, lr=1e-3, end_lr=5e-4),
        _on_pool(ANS_DIGITS_FIRST, "pool-distillation", 40, epochs=3, lr=1e-3, end_lr=5e-4),
        _on_pool(ANS_DIGITS_FIRST, "pool-distillation", 40, epochs=3, lr=4e-3, end_lr=5e-4),
        _on_pool(ANS_DIGITS_FIRST, "pool-distillation", 20, epochs=2, lr=3.5e-3, end_lr=5e-4),
    ),
    command="nni-consistency train --space digits --recipe ans-digits --out runs/ans-digits",
    reached="nothing published; see examples/ans",
)
"""Recipe ans at the length of the embedded benchmark: smaller batches and pools, a tenth of the epochs, no
augmentation; its rates as they are."""

STANDALONE_2022 = Optimization(
    epochs=90,
    batch_size=256,
    lr=0.1,
    lr_batch=256,
    warmup_steps=0,
    warmup_epochs=2,
    weight_decay=1e-4,
    drop_last=True,
)
"""How the reference accuracies of CVPR 2022 track 1 were trained, by the organisers' demo: batch 1024 on four GPUs."""

SUPERNET_2022 = Recipe(
    "cvpr2022",
    "torch",
    (
        Phase(
            STANDALONE_2022,
            None,
            n=1,
            rule="multi-path",
            sampling="largest",
            distill_from=None,
            grad_clip=None,
        ),
        Phase(
            Optimization(
                epochs=70,
                batch_size=256,
                lr=0.001,
                lr_batch=256,
                warmup_steps=0,
                warmup_epochs=5,
                weight_decay=3e-5,
                drop_last=True,
            ),
            None,
            n=2,
            rule="frozen-teacher",
            sampling="uniform",
            distill_from=None,
            grad_clip=None,
            start="reordered",
        ),
    ),
    command="nni-consistency train --space resnet48 --recipe cvpr2022 --data-root imagenet --out runs/cvpr2022",
    reached="published: params alone .672, FLOPs alone .784 (Pearson, board A), entrants .725 to .833; not run here",
)
"""The organisers' demo of CVPR 2022 track 1: the full network, then two random subnets per step that learn from it.

What entrants found (|Pearson| of board A): uniform single path .725; sandwich .749 to .782 (`--set sandwich_ramp=10`:
at full strength from the first epoch it diverged on ImageNet); PReLU .807 and Mish .816 after additions (`--space
resnet48-prelu`, `resnet48-mish`); the rank loss guided by FLOPs .833 (`--set rank_weight=2 --set rank_ramp=20`).
"""

SPOS_CIFAR = Recipe(
    "spos-cifar",
    "channels-in",
    (
        Phase(
            Optimization(
                epochs=40, batch_size=512, lr=0.4, warmup_steps=0, weight_decay=5e-4, decay="linear-per-epoch"
            ),
            None,
            n=1,
            rule="multi-path",
            sampling="uniform",
            distill_from=None,
            grad_clip=None,
        ),
    ),
    command="nni-consistency train --space spos-cifar --precision bf16-mixed --data-root data --out runs/spos-cifar",
    reached="not run here at full width; see examples/spos_cifar",
)
"""Single path one-shot on CIFAR: one uniform arch per step. `--set sampling=macs-bins --set macs_bins=290e6:360e6:7`
draws archs of few MACs, evenly."""

SPOS_DIGITS = Recipe(
    "spos-digits",
    "channels-in",
    (
        replace(
            SPOS_CIFAR.phases[0],
            optimization=replace(SPOS_CIFAR.phases[0].optimization, epochs=60, batch_size=32, lr=0.1),
        ),
    ),
    command="nni-consistency train --space spos-digits --out runs/spos-digits",
    reached="see examples/spos_cifar",
)
"""Recipe spos-cifar at the size of the digits: more epochs of smaller batches, and a smaller rate."""

SCRATCH_AUTOFORMER = Optimization(
    epochs=500,
    batch_size=256,
    lr=1e-3,
    warmup_steps=0,
    warmup_epochs=20,
    weight_decay=0.05,
    optimizer="adamw",
    decay="cosine-per-epoch",
    end_lr=1e-5,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
)
"""How AutoFormer's subnets are trained from scratch on ImageNet: about a day per 100 epochs on four V100."""

FINETUNE_AUTOFORMER = replace(SCRATCH_AUTOFORMER, epochs=100, lr=5e-4, warmup_epochs=5)
"""How a trained network is fine-tuned on another data set, with a new head."""

AUTOFORMER = Recipe(
    "autoformer",
    "trunc-normal",
    (
        Phase(
            SCRATCH_AUTOFORMER,
            None,
            n=1,
            rule="multi-path",
            sampling="uniform",
            distill_from=None,
            grad_clip=None,
        ),
    ),
    command="nni-consistency train --space autoformer-tiny --data-root imagenet --out runs/autoformer",
    reached="published: subnets as good as trained alone, tiny 75.3, small 81.7, base 82.4 % top-1; not run here",
)
"""AutoFormer (Chen et al. 2021): a uniform single path per step, on all weights entangled."""

AUTOFORMER_DIGITS = Recipe(
    "autoformer-digits",
    "trunc-normal",
    (
        Phase(
            Optimization(
                epochs=24,
                batch_size=32,
                lr=2e-3,
                warmup_steps=0,
                warmup_epochs=2,
                weight_decay=0.05,
                optimizer="adamw",
                decay="cosine-per-epoch",
                end_lr=1e-5,
            ),
            DIGITS_TEST,
            n=4,
            rule="sandwich",
            sampling="uniform",
            distill_from=12,
            grad_clip=5.0,
        ),
    ),
    command="nni-consistency train --space autoformer-digits --out runs/autoformer-digits",
    reached="see examples/autoformer",
)
"""A transformer of a few thousand weights on digits, by the sandwich rule."""

STANDALONE_AUTOFORMER_DIGITS = AUTOFORMER_DIGITS.phases[0].optimization
"""How the reference accuracies of toy transformers are trained."""

RECIPES = (
    NAZARICK,
    SHORT,
    ANS,
    EMBEDDED,
    ANS_DIGITS,
    SUPERNET_2022,
    SPOS_CIFAR,
    SPOS_DIGITS,
    AUTOFORMER,
    AUTOFORMER_DIGITS,
)

STANDALONE_FAST = Optimization(
    epochs=24,
    batch_size=512,
    lr=0.4,
    warmup_steps=0,
    warmup_epochs=5,
    weight_decay=5e-4,
    nesterov=True,
    decay="linear",
)
"""The fast training of SPOS-CIFAR's tuned network; with `FAST_LOSS` and the augmentation `CIFAR10_FAST`.

`nni-consistency standalone --space efficient-cifar --data cifar10 --arch 64-128-256-512 --precision 16-mixed
--data-root data --out runs/fast`. Published for CIFAR-10: 94 % in 35 of 50 runs, median 94.08 %, 79 s on one V100; not
run here.
"""

FAST_LOSS = Loss(logits_scale=0.125)

STANDALONE_SPOS_DIGITS = replace(STANDALONE_FAST, epochs=12, batch_size=64, lr=0.1, warmup_epochs=3)
"""`STANDALONE_FAST` at the size of the digits."""

STANDALONE_CIFAR100 = Optimization(epochs=300, batch_size=128, lr=0.1, warmup_steps=2000, weight_decay=5e-4)
"""How the reference accuracies of 2021 were trained, with the augmentation `CIFAR100_TRAIN`."""

STANDALONE_DIGITS = Optimization(epochs=10, batch_size=64, lr=0.1, warmup_steps=50, weight_decay=5e-4)
"""How the reference accuracies of the embedded benchmark are trained."""
