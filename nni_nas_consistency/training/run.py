"""Where and how a training run keeps itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.callbacks import Timer

from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.strict_json import Json

MADE_BY_TRAINING = ("supernet.safetensors", "checkpoints", "epochs", "metrics", "phase[0-9]*")
"""What a training run writes into its folder."""

RESULTS_OF_TRAINING = (
    "supernet.safetensors",
    "checkpoints/last.ckpt",
    "epochs/*.safetensors",
    "phase[0-9]*/supernet.safetensors",
    "phase[0-9]*/checkpoints/last.ckpt",
    "phase[0-9]*/epochs/*.safetensors",
)
"""What of that can be gone on from, or scored."""


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a training run keeps itself.

    Args:
        folder: For checkpoints (`checkpoints/last.ckpt`) and metrics (`metrics/version_<start>/metrics.csv`).
        resume: Whether to go on from the last checkpoint, if there is one.
        checkpoint_steps: Steps between checkpoints within an epoch; at its end there always is one. None: none within.
        progress: Shows the progress, counted in steps.
        precision: Lightning's word for it, such as `32-true` or `bf16-mixed`.
        accelerator: Lightning's word for the device kind, such as `cpu`, `gpu`, `auto`.
        devices: Processes that share each batch, by Lightning's DDP: this program is started once more for each but the
            first; see `training.processes`.
        sync_batch_norm: Whether batch norms normalise with the images of all processes, not with those of their own.
        write: Writes a line of text: one an epoch, with what it reached and the time left.
        keep_epochs: Whether to keep the weights of every epoch, as checkpoints that can be scored.
        about: What made the weights, for those checkpoints.
        identity: SHA-256 of the settings, which checkpoints carry; None: they carry none and none is asked for.
        phase: Of a recipe of several phases, the one that this is, from 0; epoch lines name it.
        timer: Counts the seconds of training; checkpoints keep it, so that a resumed run counts on.
    """

    folder: Path
    resume: bool = False
    checkpoint_steps: int | None = None
    progress: ShowProgress = silent
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    sync_batch_norm: bool = False
    write: Callable[[str], None] = print
    keep_epochs: bool = False
    about: Mapping[str, Json] = field(default_factory=dict)
    identity: str | None = None
    phase: int | None = None
    timer: Timer = field(default_factory=Timer, compare=False)

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def end(self) -> Path:
        """Where the weights are kept that a run, or a phase of several, ended with."""
        return self.folder / "supernet.safetensors"

    def kept_epoch(self, epoch: int) -> Path:
        """Return where the weights of an epoch are kept, the first being 0."""
        return self.folder / "epochs" / f"epoch{epoch:03}.safetensors"
