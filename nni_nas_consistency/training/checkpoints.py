"""How the checkpoints of a training run are written, read and checked, in the place of Lightning's way."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO

from nni_nas_consistency.errors import CheckpointError, InputError
from nni_nas_consistency.files.atomic import FilePath, write_bytes_atomically
from nni_nas_consistency.files.doors import check_input
from nni_nas_consistency.files.seal import check_seal, sealed
from nni_nas_consistency.files.strict_json import one_line

CONTENT: dict[str, type] = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}
"""What Lightning writes into a checkpoint, and goes on from."""


class AtomicCheckpoints(CheckpointIO):
    """Checkpoints that are whole whenever the process dies, sealed, and run no code when they are read.

    Lightning writes into the folder of temporary files and moves from there: from one disk to another that is a copy,
    and a kill in the middle of it leaves half a checkpoint and no other. It reads with `weights_only` as torch has it
    by default, which before torch 2.6 was False: a pickle, which may run anything.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: FilePath, storage_options: object = None) -> None:
        """Write a checkpoint into its folder, which is made if missing, then give it its name.

        Args:
            checkpoint: What `torch.save` takes.
            path: Where to; an older checkpoint is replaced.
            storage_options: Must be None; part of Lightning's interface.

        Raises:
            FileError: The file cannot be written.
            TypeError: Storage options are given.
        """
        if storage_options is not None:
            raise TypeError(f"checkpoints are local files, which have no storage options such as {storage_options!r}")
        content = BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, sealed(content.getvalue()))

    def load_checkpoint(
        self, path: FilePath, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the content of a checkpoint: tensors and plain values, whatever the file holds besides is refused.

        Args:
            path: The checkpoint.
            map_location: Where tensors go; see `torch.load`.
            weights_only: True or None; part of Lightning's interface.

        Raises:
            CheckpointError: The file is damaged, or holds anything but tensors and plain values.
            TypeError: Anything else was to be loaded.
        """
        if weights_only is False:
            raise TypeError("checkpoints of a training run are read with weights_only=True: others can run any code")
        content: dict[str, Any] = _content(Path(path), map_location)
        return content

    def remove_checkpoint(self, path: FilePath) -> None:
        """Delete a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


class Resumed(Callback):
    """Names the checkpoint that a run goes on from, where Lightning or torch cannot, as those of another version.

    Args:
        checkpoint: The checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.goes_on = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the checkpoint is loaded."""
        self.goes_on = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Raise `CheckpointError` unless the checkpoint was loaded."""
        if self.goes_on or isinstance(exception, InputError) or not isinstance(exception, Exception):
            return
        with suppress(OSError, IndexError):
            Path(str(trainer.loggers[0].log_dir)).rmdir()  # the folder of this training's metrics, empty so far
        reason = f"{type(exception).__name__}: {one_line(exception)}"
        raise CheckpointError(
            f"{self.checkpoint}: cannot be gone on from ({reason}); delete it, and the run begins anew"
        ) from exception


def check_checkpoint(path: Path, identity: str | None) -> None:
    """See that a checkpoint of a training run can be gone on from.

    Args:
        path: The checkpoint.
        identity: The SHA-256 of the run's settings; None: any checkpoint of a training run will do.

    Raises:
        CheckpointError: It is damaged, holds something else, or was made with other settings.
    """
    content = _content(path, "cpu")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in CONTENT.items()):
        raise CheckpointError(f"{path}: is no checkpoint of a training run; delete it, and the run begins anew")
    if identity is not None and content.get("run") != identity:
        raise CheckpointError(
            f"{path}: was made with other settings than those of the run; give another --out, or --overwrite"
        )


def _content(path: Path, map_location: Any) -> Any:
    """Return the content of an undamaged checkpoint."""
    check_input(path)
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    check_seal(path, archive)
    try:
        return torch.load(BytesIO(archive), map_location=map_location, weights_only=True)
    except Exception as error:  # a pickle of something else: torch raises several kinds, in many lines
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({first}); delete it, and the run begins anew") from error
