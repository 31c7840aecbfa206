"""Where and how a training run keeps itself: its folder, its settings, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.callbacks import Timer

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import write_text_atomically
from nni_nas_consistency.files.strict_json import Json


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
        write: Writes a line of text.
        keep_epochs: Whether to keep the weights of every epoch, as checkpoints that can be scored.
        about: What made the weights, for those checkpoints.
        timer: Counts the seconds of training; checkpoints keep it, so that a resumed run counts on.
    """

    folder: Path
    resume: bool = False
    checkpoint_steps: int | None = None
    progress_bar: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    write: Callable[[str], None] = print
    keep_epochs: bool = False
    about: Mapping[str, Json] = field(default_factory=dict)
    timer: Timer = field(default_factory=Timer, compare=False)

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    def kept_epoch(self, epoch: int) -> Path:
        """Return where the weights of an epoch are kept, the first being 0."""
        return self.folder / "epochs" / f"epoch{epoch:03}.safetensors"


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
