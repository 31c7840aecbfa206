"""The Lightning evaluator that trains a supernet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.augmentation import Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingLoader
from nni_nas_consistency.scoring.plain import Metric, Scoring
from nni_nas_consistency.supernet.statistics import BNStatistics
from nni_nas_consistency.training.recipes import Optimization


class ImageClassifier(LightningModule):  # type: ignore[misc]
    """Cross-entropy training with SGD, warm-up and cosine; what a strategy wraps, or trains one network as it is.

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
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("val_acc", accuracy, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> dict[str, Any]:
        """Return SGD and its schedule."""
        plan = self.optimization
        optimizer = torch.optim.SGD(
            self.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: plan.lr_factor(step, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class EpochLines(Callback):
    """Prints one plain line an epoch, where no terminal shows a progress bar."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what the epoch reached."""
        shown = ("train_loss", "val_acc", "val_acc/largest", "val_acc/smallest")
        values = {name: float(trainer.callback_metrics[name]) for name in shown if name in trainer.callback_metrics}
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.write(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {numbers}")


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a training run keeps itself.

    Args:
        folder: For checkpoints (`checkpoints/last.ckpt`) and metrics (`metrics/version_<start>/metrics.csv`).
        resume: Whether to go on from the last checkpoint.
        checkpoint_steps: Steps between checkpoints; None: one an epoch.
        progress_bar: Whether to show Lightning's; else a line an epoch goes to `write`.
        precision: Lightning's word for it, such as `32-true` or `bf16-mixed`.
        accelerator: Lightning's word for the device kind, such as `cpu`, `gpu`, `auto`.
        write: Takes plain lines.
        timer: Counts the seconds of training; checkpoints keep it, so that a resumed run counts on.
    """

    folder: Path
    resume: bool = False
    checkpoint_steps: int | None = None
    progress_bar: bool = False
    precision: Any = "32-true"
    accelerator: str = "auto"
    write: Callable[[str], None] = print
    timer: Timer = field(default_factory=Timer, compare=False)

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"


def begin_run(run: TrainingRun, settings: Mapping[str, Json]) -> None:
    """Note in `settings.json` what a run trains with, or see that a resumed one goes on with the same.

    Args:
        run: Its folder is made if missing.
        settings: Everything that decides the weights, plain JSON values.

    Raises:
        InputError: The run is resumed with other settings; the message says which.
    """
    path = run.folder / "settings.json"
    run.folder.mkdir(parents=True, exist_ok=True)
    if not (run.resume and path.is_file()):
        write_text_atomically(path, json.dumps(dict(settings), indent=1) + "\n")
        return
    before = json.loads(path.read_text())
    for name in sorted(before.keys() | settings.keys()):
        if before.get(name) != settings.get(name):
            raise InputError(
                f"{run.folder}: was started with {name} {before.get(name)!r}, not {settings.get(name)!r}; "
                "resume with the same settings, or train into another folder"
            )


def training_evaluator(
    optimization: Optimization, train: Images, augmentation: Augmentation, val: Images, *, seed: int, run: TrainingRun
) -> Lightning:
    """Return the Lightning evaluator that trains by a recipe; give it to `RetiariiExperiment`.

    Args:
        optimization: Optimizer and schedule.
        train: Training images, on the device that trains.
        augmentation: Of the training images; validation images are normalised only.
        val: Validation images.
        seed: Of the order of the images and of the augmentation.
        run: Where checkpoints go, and how.

    Raises:
        InputError: `run.resume` without a checkpoint.
    """
    if run.resume and not run.last_checkpoint.is_file():
        raise InputError(f"{run.last_checkpoint}: no checkpoint to resume from; start without --resume")
    batches = TrainingLoader(train, augmentation, batch_size=optimization.batch_size, seed=seed, drop_last=True)
    checkpoint = ModelCheckpoint(  # one file, replaced; `save_last` alone writes none at the end of an epoch
        run.last_checkpoint.parent,
        run.last_checkpoint.stem,
        every_n_train_steps=run.checkpoint_steps,
        enable_version_counter=False,
    )
    trainer = Trainer(
        max_epochs=optimization.epochs,
        accelerator=run.accelerator,
        devices=1,
        precision=run.precision,
        callbacks=[run.timer, checkpoint, *([] if run.progress_bar else [EpochLines(run.write)])],
        logger=CSVLogger(run.folder, name="metrics"),
        enable_progress_bar=run.progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, len(batches)),
    )
    return Lightning(
        ImageClassifier(optimization, len(batches)),
        trainer,
        train_dataloaders=batches,
        val_dataloaders=EvaluationLoader(val, augmentation, 500),
        fit_kwargs={"ckpt_path": str(run.last_checkpoint)} if run.resume else {},
    )


def image_scoring(
    test: Images,
    augmentation: Augmentation,
    *,
    metric: Metric = "loss",
    bn: BNStatistics = "batch",
    batch_size: int = 512,
    train: Images | None = None,
    dtype: torch.dtype = torch.float32,
    orders: int = 1,
    flip: bool = False,
) -> Scoring:
    """Return how archs are scored on images, which are normalised once and kept.

    Args:
        test: The images to score on.
        augmentation: Its mean and standard deviation are used, nothing else of it.
        metric: `loss` or `acc`.
        bn: The batch-norm statistics.
        batch_size: Images a batch; 512 in recipe nazarick.
        train: Images for `bn="train"`.
        dtype: Of the normalised images, and so of all features; statistics and losses of half precision are float32.
        orders: How often each image is scored, at least 1: first in the order of the data set, then in shuffled ones.
            The mean is so taken over this many compositions of its batch; for `bn="batch"` only.
        flip: Whether each image is also scored mirrored, left to right, and the mean taken.

    Raises:
        InputError: Several orders where no other image of a batch matters.
    """
    if orders > 1 and (bn != "batch" or batch_size >= len(test)):
        raise InputError(
            f"{orders} orders change nothing with statistics {bn!r} and {len(test)} images in batches of "
            f"{batch_size}; several orders are for 'batch' and more than one batch"
        )
    views = [test, *(_shuffled(test, order) for order in range(1, orders))]
    views += [replace(view, x=view.x.flip(-1)) for view in views] if flip else []
    scored = [(x.to(dtype), y) for view in views for x, y in EvaluationLoader(view, augmentation, batch_size)]
    calibration = None
    if train is not None:
        calibration = [(x.to(dtype), y) for x, y in EvaluationLoader(train, augmentation, batch_size)]
    return Scoring(metric, bn, lambda: scored, None if calibration is None else lambda: calibration)


def _shuffled(images: Images, seed: int) -> Images:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.x.device)
    return replace(images, x=images.x[order], y=images.y[order])
