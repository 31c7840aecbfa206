"""One value for each competition or benchmark: search space, data, recipes, and how its board counts.

A new space is one file in `spaces/` and one `System` here. Torch and NNI are imported by the functions that need them,
so that the command line can check its words without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.archs.cost import Cost, resnet20_cost
from nni_nas_consistency.archs.domains import DIGITS, RELEASED, RESNET20, Domain
from nni_nas_consistency.errors import DataError, InputError
from nni_nas_consistency.images.augmentation import (
    CIFAR10_TEST,
    CIFAR10_TRAIN,
    CIFAR100_TEST,
    CIFAR100_TRAIN,
    DIGITS_TEST,
    Augmentation,
)
from nni_nas_consistency.training.recipes import (
    ANS,
    EMBEDDED,
    NAZARICK,
    SHORT,
    STANDALONE_CIFAR100,
    STANDALONE_DIGITS,
    Optimization,
    Recipe,
)

if TYPE_CHECKING:
    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.spaces.chain import ChainSpace


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        name: Its word on the command line.
        shape: Classes, channels, and side in pixels.
        needs_root: Whether it lies in a folder that has to be named.
        load: Gives its images: `load(root, train=…, download=…)`.
        test: How test images are normalised.
        train: How training images are augmented where an arch is trained alone.
        counts: How many training and test images it has.
    """

    name: str
    shape: tuple[int, int, int]
    needs_root: bool
    load: Callable[..., Images]
    test: Augmentation
    train: Augmentation
    counts: tuple[int, int]

    def check_count(self, option: str, n: int | None, *, train: bool) -> None:
        """See that so many training or test images can be used; None stands for all of them.

        Raises:
            DataError: There are fewer, or it is none.
        """
        most, which = (self.counts[0], "training") if train else (self.counts[1], "test")
        if n is not None and not 1 <= n <= most:
            raise DataError(f"{option} {n}: {self.name} has {most} {which} images; choose 1 to {most}")

    def check_root(self, root: Path | None, *, download: bool = False) -> None:
        """See that there is a folder which may hold the data set; what it holds is not looked at.

        Raises:
            InputError: The data set needs a folder and none is given, or is not there.
        """
        if not self.needs_root:
            return
        if root is None:
            raise InputError(f"{self.name} needs --data-root, the folder that holds it; --download fetches it there")
        try:
            is_folder = root.expanduser().is_dir()
        except (OSError, RuntimeError) as error:  # a name that is too long; ~somebody who is not known here
            raise DataError(f"--data-root {root}: {error}; name the folder that holds {self.name}") from error
        if not is_folder and not download:
            raise DataError(f"--data-root {root}: is no folder; name the one that holds {self.name}, or --download it")

    def images(self, root: Path | None, *, train: bool, download: bool = False) -> Images:
        """Return the training or the test images.

        Raises:
            InputError: The data set needs a folder and none is given, or is not there.
        """
        self.check_root(root, download=download)
        return self.load(root, train=train, download=download)


def _cifar100(root: Path, *, train: bool, download: bool) -> Images:
    from nni_nas_consistency.images.datasets import cifar100

    return cifar100(root, train=train, download=download)


def _cifar10(root: Path, *, train: bool, download: bool) -> Images:
    from nni_nas_consistency.images.datasets import cifar10

    return cifar10(root, train=train, download=download)


def _digits(root: Path | None, *, train: bool, download: bool) -> Images:
    from nni_nas_consistency.images.datasets import digits

    return digits(train=train)


CIFAR100 = DataSet("cifar100", (100, 3, 32), True, _cifar100, CIFAR100_TEST, CIFAR100_TRAIN, (50_000, 10_000))
CIFAR10 = DataSet("cifar10", (10, 3, 32), True, _cifar10, CIFAR10_TEST, CIFAR10_TRAIN, (50_000, 10_000))
DIGITS_8 = DataSet("digits", (10, 1, 8), False, _digits, DIGITS_TEST, DIGITS_TEST, (1200, 597))

DATA_SETS = (CIFAR100, CIFAR10, DIGITS_8)


@dataclass(frozen=True)
class System:
    """A competition or a benchmark.

    Args:
        space: Its search space, as the command line names it.
        about: What it is, in one line.
        domain: What the archs are, and what is drawn by default.
        made_with: What tells its checkpoints: class of the space, and arguments that differ from another system's.
        make: Makes the space: `make((classes, channels, side), standalone=…)`; None where there is no network yet.
        data: The data set, unless another is named.
        recipes: The recipes for supernets, the default first.
        standalone: How one arch is trained alone.
        cost: Parameters and MACs of an arch that is trained alone, `cost(arch, (classes, channels, side))`, counted
            without its network; None where there is none yet.
        absolute_pearson: Whether the competition's board counts |Pearson|.
    """

    space: str
    about: str
    domain: Domain
    made_with: Mapping[str, object]
    make: Callable[..., ChainSpace] | None
    data: DataSet
    recipes: tuple[Recipe, ...]
    standalone: Optimization
    cost: Callable[[Arch, tuple[int, int, int]], Cost] | None = None
    absolute_pearson: bool = False

    @property
    def codec(self) -> Codec:
        """How its archs are written."""
        return self.domain.codec

    def make_space(self, shape: tuple[int, int, int], *, standalone: bool = False) -> ChainSpace:
        """Return the space, for images of so many classes and channels and of this side in pixels.

        Args:
            shape: Classes, channels, side.
            standalone: Whether networks have the shortcuts that reference accuracies were trained with.

        Raises:
            InputError: There is no network yet.
        """
        self.check_network()
        assert self.make is not None
        return self.make(shape, standalone=standalone)

    def check_network(self) -> None:
        """See that archs can be trained and scored.

        Raises:
            InputError: There is no network yet.
        """
        if self.make is None:
            raise InputError(f"space {self.space} has no network yet: its lists can be checked, sampled and ranked")


def _resnet20(shape: tuple[int, int, int], *, standalone: bool) -> ChainSpace:
    from nni_nas_consistency.spaces.resnet20 import ResNet20Space

    return ResNet20Space(*shape, "standalone" if standalone else "projection")


def _resnet20_of_unit_1(shape: tuple[int, int, int], *, standalone: bool) -> ChainSpace:
    from nni_nas_consistency.spaces.resnet20 import ResNet20Space

    return ResNet20Space(*shape, width_unit=1)


CVPR2021 = System(
    space="resnet20",
    about="CVPR 2021 NAS track 1: ResNet-20 with searchable widths on CIFAR-100",
    domain=RESNET20,
    made_with={"class": "ResNet20Space", "width_unit": 4},
    make=_resnet20,
    data=CIFAR100,
    recipes=(NAZARICK, SHORT, ANS),
    standalone=STANDALONE_CIFAR100,
    cost=partial(resnet20_cost, shortcut="standalone"),
)
CVPR2022 = System(
    space="resnet48",
    about="CVPR 2022 NAS track 1: ResNet-48 with searchable depths and widths on ImageNet; no network yet",
    domain=RELEASED,
    made_with={"class": "ResNet48Space"},
    make=None,
    data=CIFAR100,
    recipes=(),
    standalone=STANDALONE_CIFAR100,
    absolute_pearson=True,
)
EMBEDDED_BENCHMARK = System(
    space="digits",
    about="the embedded benchmark: ResNet-20 at a width unit of one channel on 8×8 digits",
    domain=DIGITS,
    made_with={"class": "ResNet20Space", "width_unit": 1},
    make=_resnet20_of_unit_1,
    data=DIGITS_8,
    recipes=(EMBEDDED,),
    standalone=STANDALONE_DIGITS,
    cost=partial(resnet20_cost, shortcut="projection"),
)

SYSTEMS = (CVPR2021, CVPR2022, EMBEDDED_BENCHMARK)


def system_of_checkpoint(space: Mapping[str, object]) -> System | None:
    """Return the system that a checkpoint belongs to, by the class and arguments of its space; None for your own."""
    for system in SYSTEMS:
        if all(space.get(name) == value for name, value in system.made_with.items()):
            return system
    return None
