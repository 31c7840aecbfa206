"""The Lightning evaluator that trains a supernet or one network; a one-shot strategy wraps its module."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.callbacks import Callback, Checkpoint, EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.progress import Progress, ShowProgress
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingImages, TrainingLoader
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.training.checkpoints import AtomicCheckpoints, Resumed, check_checkpoint
from nni_nas_consistency.training.processes import rank_of
from nni_nas_consistency.training.recipes import Optimization
from nni_nas_consistency.training.run import TrainingRun


class ImageClassifier(LightningModule):  # type: ignore[misc]
    """Cross-entropy training by an `Optimization`; what a strategy wraps, or trains one network as it is.

    Args:
        optimization: Optimizer and schedule.
        steps_per_epoch: Batches of an epoch.
    """

    def __init__(self, optimization: Optimization, steps_per_epoch: int) -> None:
        super().__init__()
        self.optimization = optimization
        self.steps_per_epoch = steps_per_epoch

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of a batch."""
        images, labels = batch
        logits = self(images)
        accuracy = (logits.argmax(-1) == labels).float().mean()
        world = self.trainer.world_size
        counted = len(labels) * world  # Lightning divides the sum over all processes by their number, in integers
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=counted, sync_dist=world > 1)
        self.log("val_acc", accuracy, prog_bar=True, batch_size=counted, sync_dist=world > 1)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its schedule."""
        plan = self.optimization
        optimizer = optimizer_of(plan, self.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: plan.lr_factor(step, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def optimizer_of(plan: Optimization, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a plan, at its peak learning rate."""
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=plan.peak_lr, weight_decay=plan.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=plan.peak_lr,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=plan.nesterov,
    )


class StepSeeds(Callback):
    """Gives every step draws of its own, so that drop path and dropout of a resumed run are what they would have been.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Seed torch's own generator, which layers draw from."""
        word = np.random.SeedSequence(self.seed, spawn_key=(trainer.global_step,)).generate_state(1, np.uint64)
        torch.manual_seed(int(word[0]))


class EpochLines(Callback):
    """Prints one plain line an epoch, with the time that is left at the pace so far.

    Args:
        write: Writes a line.
        phase: Of a recipe of several phases, the one that is trained.
    """

    def __init__(self, write: Callable[[str], None], phase: int | None = None) -> None:
        self.write = write
        self.of_phase = "" if phase is None else f" of phase {phase}"
        self.begun = 0.0
        self.first_epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when which epoch begins; a run that goes on begins in the middle."""
        self.begun, self.first_epoch = time.monotonic(), trainer.current_epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what the epoch reached."""
        epoch, epochs = trainer.current_epoch + 1, cast("int", trainer.max_epochs)
        pace = (time.monotonic() - self.begun) / (epoch - self.first_epoch)
        left = timedelta(seconds=round(pace * (epochs - epoch)))
        shown = ("train_loss", "val_acc", "val_acc/largest", "val_acc/smallest")
        values = {name: float(trainer.callback_metrics[name]) for name in shown if name in trainer.callback_metrics}
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        if trainer.is_global_zero:
            self.write(f"epoch {epoch}/{epochs}{self.of_phase}  {numbers}  {left} left")


class StepProgress(Callback):
    """Shows how many of the steps that are left are done.

    Args:
        show: Shows the progress.
    """

    def __init__(self, show: ShowProgress) -> None:
        self.show = show
        self.shown = ExitStack()
        self.advance: Progress | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Begin with the first step; a run that goes on begins in the middle of an epoch."""
        if self.advance is None and trainer.is_global_zero:
            batches = int(trainer.num_training_batches)
            left = (cast("int", trainer.max_epochs) - trainer.current_epoch) * batches - batch_idx
            self.advance = self.shown.enter_context(self.show(left, "steps"))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count a step."""
        if self.advance is not None:
            self.advance(1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show no more."""
        self.shown.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Show no more."""
        self.shown.close()


class RunIdentity(Callback):
    """Puts the identity of the run into every checkpoint.

    Args:
        identity: SHA-256 of the settings.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the identity."""
        checkpoint["run"] = self.identity


class StepCheckpoints(Checkpoint):
    """Writes checkpoints in the middle of an epoch; another one follows at its end.

    After the last step of an epoch there is none, as `ModelCheckpoint` would write: Lightning 2.6 resumes from it with
    the next epoch, but counts that as the old one, so that a run which is killed again in there repeats its batches.

    Args:
        path: The checkpoint, replaced every time.
        steps: Steps between two of them.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.steps = steps
        self.last_model_path = ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is time."""
        if trainer.global_step % self.steps == 0 and trainer.global_step % int(trainer.num_training_batches):
            trainer.save_checkpoint(self.path, weights_only=False)  # that is: with the optimizer too
            self.last_model_path = str(self.path)


class LastLoss(Callback):
    """Knows the last training loss, also where a resumed run has nothing left to do."""

    def __init__(self) -> None:
        self.loss = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the loss of the epoch's last step."""
        self.loss = float(trainer.callback_metrics.get("train_loss", 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Return what checkpoints keep."""
        return {"loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self.loss = state_dict["loss"]


class AveragedWeights(EMAWeightAveraging):
    """Ends with the average of the weights, also where a resumed run has nothing left to do.

    Lightning then calls no `on_train_end`, in which the average takes the place of the last weights.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the place of the last weights; twice is once."""
        self.on_train_end(trainer, pl_module)


class MeanOfLastEpochs(WeightAveraging):
    """Ends with the mean of the weights at the ends of the last epochs, which is validated as soon as there is one.

    The mean takes up the weights with the last step of an epoch, before its validation and its checkpoint.

    Args:
        first_step: The step, from 0, with which the first of these epochs begins.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(self, first_step: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.first_step, self.steps_per_epoch = first_step, steps_per_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether a step is the last one of one of the last epochs."""
        return step_idx is not None and step_idx >= self.first_step and (step_idx + 1) % self.steps_per_epoch == 0

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the mean in the place of the last weights, also where a resumed run has nothing left to do."""
        self.on_train_end(trainer, pl_module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        if self._average_model is not None and self._average_model.n_averaged > 0:
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        if self._average_model is not None and self._average_model.n_averaged > 0:
            super()._copy_average_to_current(pl_module)


class HeededSigterm(Callback):
    """Lets SIGTERM have the effect that it had before the training, where that has several processes.

    Lightning answers it by a collective, which meets the others in the middle of another one.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's handler, which it removes itself in the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class KeptEpochs(Callback):
    """Keeps the last weights of every epoch, no average, any of which can be scored.

    Args:
        run: Where they go.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the supernet as it is now."""
        if not trainer.is_global_zero:
            return
        path = self.run.kept_epoch(trainer.current_epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_supernet(path, cast("ModelSpace", pl_module.model), {**self.run.about, "epoch": trainer.current_epoch})


def training_evaluator(
    optimization: Optimization,
    train: TrainingImages,
    augmentation: Augmentation,
    val: Images,
    *,
    seed: int,
    run: TrainingRun,
    ema: float | None = None,
    mean_epochs: int | None = None,
) -> Lightning:
    """Return the Lightning evaluator that trains by a recipe; give it to `RetiariiExperiment`.

    Args:
        optimization: Optimizer and schedule.
        train: Training images, on the device that trains.
        augmentation: Of the training images; validation images are normalised only.
        val: Validation images.
        seed: Of the order of the images and of the augmentation.
        run: Where checkpoints go, and how.
        ema: Decay per step of the average of weights that is validated, and kept at the end; None: the last weights.
        mean_epochs: So many last epochs have their mean validated, and kept at the end; None: the last weights.

    Raises:
        CheckpointError: The checkpoint to resume from is damaged or was made with other settings.
        InputError: The warm-up is not shorter than the training, or there are fewer images than devices.
    """
    if len(val) < run.devices:
        raise InputError(f"{len(val)} validation image(s) are too few for {run.devices} devices; use more of them")
    resume = run.resume and os.path.lexists(run.last_checkpoint)
    if resume:
        check_checkpoint(run.last_checkpoint, run.identity)
    part = rank_of(run.devices), run.devices
    batches = TrainingLoader(
        train,
        augmentation,
        batch_size=optimization.batch_size,
        seed=seed,
        drop_last=optimization.drop_last,
        mixing=optimization.mixing,
        part=part,
    )
    optimization.check_warm_up(len(train))
    checkpoint = ModelCheckpoint(  # one file, replaced; `save_last` alone writes none at the end of an epoch
        run.last_checkpoint.parent,
        run.last_checkpoint.stem,
        enable_version_counter=False,
    )
    average: WeightAveraging | None = None if ema is None else AveragedWeights(decay=ema)
    if mean_epochs is not None:
        average = MeanOfLastEpochs((optimization.epochs - mean_epochs) * len(batches), len(batches))
    callbacks = [*_callbacks(run, checkpoint, average), StepSeeds(seed)]
    if resume:
        callbacks.append(Resumed(run.last_checkpoint))
    trainer = Trainer(
        max_epochs=optimization.epochs,
        accelerator=run.accelerator,
        devices=run.devices,
        strategy="auto" if run.devices == 1 else DDPStrategy(broadcast_buffers=False),
        sync_batchnorm=run.sync_batch_norm,
        precision=run.precision,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints(), LightningEnvironment()],
        logger=CSVLogger(run.folder, name="metrics"),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, len(batches)),
    )
    return Lightning(
        ImageClassifier(optimization, len(batches)),
        trainer,
        train_dataloaders=batches,
        val_dataloaders=EvaluationLoader(val, augmentation, min(500, len(val) // run.devices), part),
        fit_kwargs={"ckpt_path": str(run.last_checkpoint), "weights_only": True} if resume else {},
    )


def _callbacks(run: TrainingRun, checkpoint: ModelCheckpoint, average: WeightAveraging | None) -> list[Callback]:
    callbacks: list[Callback] = [
        run.timer,
        checkpoint,
        LastLoss(),
        EpochLines(run.write, run.phase),
        StepProgress(run.progress),
    ]
    if run.devices > 1:
        callbacks.append(HeededSigterm())
    if run.checkpoint_steps is not None:
        callbacks.append(StepCheckpoints(run.last_checkpoint, run.checkpoint_steps))
    if average is not None:
        callbacks.append(average)
    if run.identity is not None:
        callbacks.append(RunIdentity(run.identity))
    if run.keep_epochs:
        callbacks.append(KeptEpochs(run))
    return callbacks
