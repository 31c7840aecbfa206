"""A study as plain values: which settings are compared, against which baseline. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nni_nas_consistency.archs.pool import every, some
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import Entry
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.supernet.sharing import Sharing
from nni_nas_consistency.training.recipes import Recipe


@dataclass(frozen=True)
class Scoring:
    """How the archs of a supernet are scored; the words are those of `ScoreJob`.

    Args:
        metric: `loss` or `acc`.
        bn: Batch-norm statistics; None: those of each batch, where there are batch norms.
        orders: In how many orders images are scored.
        flip: Whether images are scored mirrored too.
    """

    metric: Literal["loss", "acc"] = "loss"
    bn: Literal["supernet", "train", "test", "batch"] | None = None
    orders: int = 1
    flip: bool = False

    def settings(self) -> dict[str, Json]:
        """Return the values by name."""
        return {"metric": self.metric, "bn": self.bn or "batch", "orders": self.orders, "flip": self.flip}


@dataclass(frozen=True)
class PoolRule:
    """Which archs of the scored list are a pool.

    Args:
        every: The first arch, and every so many after it; None: at random.
        count: So many at random, drawn by the seed of the run; None: at even distances.
    """

    every: int | None = None
    count: int | None = None

    def of(self, archs: Mapping[str, Entry], seed: int) -> dict[str, Entry]:
        """Return the archs of the pool.

        Args:
            archs: The list.
            seed: Of the run.

        Raises:
            InputError: The list is shorter than the pool.
        """
        return some(archs, self.count, seed) if self.count is not None else every(archs, self.every or 1)

    def __str__(self) -> str:
        return f"every {self.every}" if self.count is None else f"random {self.count}"


@dataclass(frozen=True)
class Training:
    """One training of a setting.

    Args:
        recipe: How to train.
        sharing: How archs share weights; None: as in the weights that it starts from, else by one kernel per layer.
        pool: What phases with `sampling="pool"` draw from; None: as `Phase.pool_size` says.
    """

    recipe: Recipe
    sharing: Sharing | None = None
    pool: PoolRule | None = None


@dataclass(frozen=True)
class Setting:
    """What one row of a study does.

    Args:
        name: Its name, unique in the study.
        trainings: One after the other, each from the weights that the last one left.
        scoring: How the archs are scored afterwards.
    """

    name: str
    trainings: tuple[Training, ...]
    scoring: Scoring = Scoring()


@dataclass(frozen=True)
class Study:
    """Settings that are compared with a baseline.

    Args:
        name: Its word on the command line.
        title: What is compared, in one line.
        published: The conclusion that was published; empty for a study of your own.
        baseline: The name of the setting that the others are compared with.
        settings: The settings by name, in the order of the table.
    """

    name: str
    title: str
    published: str
    baseline: str
    settings: Mapping[str, Setting]

    def setting(self, name: object) -> Setting:
        """Return the setting of a name.

        Raises:
            InputError: There is none.
        """
        if not isinstance(name, str) or name not in self.settings:
            allowed = ", ".join(self.settings)
            raise InputError(f"study {self.name} has no setting {name!r}; its settings are {allowed}")
        return self.settings[name]
