"""One value for each competition or benchmark: search space, data, recipes, and how its board counts.

A new space is one file in `spaces/` and one `System` here. Torch and NNI are imported by the functions that need them,
so that the command line can check its words without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.autoformer import (
    BASE,
    BASE_SUBNET,
    SMALL,
    SMALL_SUBNET,
    TINY,
    TINY_SUBNET,
    TOY,
    AutoFormerChoices,
    autoformer_cost,
)
from nni_nas_consistency.archs.codecs import Codec
from nni_nas_consistency.archs.cost import Cost, resnet20_cost
from nni_nas_consistency.archs.domains import DEMO, DIGITS, RELEASED, RESNET20, Domain
from nni_nas_consistency.archs.resnet48 import resnet48_cost, width_divisor_of
from nni_nas_consistency.archs.spos_cifar import DOMAINS, TUNED, Variant, spos_cifar_cost, tuned_cost
from nni_nas_consistency.errors import CheckpointError, DataError, InputError
from nni_nas_consistency.files.progress import ShowProgress, silent
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.images.augmentation import (
    CIFAR10_FAST,
    CIFAR10_TEST,
    CIFAR10_TRAIN,
    CIFAR100_FAST,
    CIFAR100_TEST,
    CIFAR100_TRAIN,
    DIGITS_FAST,
    DIGITS_TEST,
    IMAGENET_TEST,
    IMAGENET_TRAIN,
    Augmentation,
)
from nni_nas_consistency.images.folder_options import FolderOptions, Resizing
from nni_nas_consistency.training.recipes import (
    ANS,
    ANS_DIGITS,
    AUTOFORMER,
    AUTOFORMER_DIGITS,
    CROSS_ENTROPY,
    EMBEDDED,
    FAST_LOSS,
    FINETUNE_AUTOFORMER,
    NAZARICK,
    SCRATCH_AUTOFORMER,
    SHORT,
    SPOS_CIFAR,
    SPOS_DIGITS,
    STANDALONE_2022,
    STANDALONE_AUTOFORMER_DIGITS,
    STANDALONE_CIFAR100,
    STANDALONE_DIGITS,
    STANDALONE_FAST,
    STANDALONE_SPOS_DIGITS,
    SUPERNET_2022,
    Init,
    Loss,
    Optimization,
    Recipe,
)

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace

    from nni_nas_consistency.images.datasets import Images
    from nni_nas_consistency.images.loader import TrainingImages
    from nni_nas_consistency.spaces.chain import ChainSpace
    from nni_nas_consistency.spaces.resnet48 import Activation, DomainName


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        name: Its word on the command line.
        shape: Classes, channels, and side in pixels.
        needs_root: Whether it lies in a folder that has to be named.
        load: Gives its images, all in memory: `load(root, train=…, download=…)`; None for a folder of images.
        test: How test images are normalised.
        train: How training images are augmented where an arch is trained alone.
        counts: How many training and test images it has; None for a folder, which is not counted beforehand.
        folder: How a folder of images is read; None for a data set that is no such folder.
    """

    name: str
    shape: tuple[int, int, int]
    needs_root: bool
    load: Callable[..., Images] | None
    test: Augmentation
    train: Augmentation
    counts: tuple[int, int] | None
    folder: FolderOptions | None = None

    def check_count(self, option: str, n: int | None, *, train: bool) -> None:
        """See that so many training or test images can be used; None stands for all of them.

        A folder says how many it has when it is read.

        Raises:
            DataError: There are fewer, or it is none.
        """
        if self.counts is None:
            return
        most, which = (self.counts[0], "training") if train else (self.counts[1], "test")
        if n is not None and not 1 <= n <= most:
            raise DataError(f"{option} {n}: {self.name} has {most} {which} images; choose 1 to {most}")

    def check_root(self, root: Path | None, *, download: bool = False) -> None:
        """See that there is a folder which may hold the data set; of a folder of images, the classes are counted.

        Raises:
            InputError: The data set needs a folder and none is given, or is not there; or it has other classes.
        """
        if not self.needs_root:
            return
        if self.folder is not None and download:
            raise InputError(f"{self.name} is not downloaded by --download; unpack it, and give --data-root")
        if root is None:
            fetched = "" if self.folder is not None else "; --download fetches it there"
            raise InputError(f"{self.name} needs --data-root, the folder that holds it{fetched}")
        try:
            is_folder = root.expanduser().is_dir()
        except (OSError, RuntimeError) as error:  # a name that is too long; ~somebody who is not known here
            raise DataError(f"--data-root {root}: {error}; name the folder that holds {self.name}") from error
        if not is_folder and not download:
            fetched = "" if self.folder is not None else ", or --download it"
            raise DataError(f"--data-root {root}: is no folder; name the one that holds {self.name}{fetched}")
        if self.folder is not None and self.shape[0]:
            self.folder.check(root.expanduser(), self.name, self.shape[0])

    def images(
        self, root: Path | None, *, train: bool, download: bool = False, progress: ShowProgress = silent
    ) -> Images:
        """Return the training or the test images as they are tested; those of a folder are mapped into memory.

        Args:
            root: The folder that holds the data set.
            train: Whether to return the training images.
            download: Whether the data set may be fetched into the folder.
            progress: Shows the progress of decoding a folder, which is done once.

        Raises:
            InputError: The data set needs a folder and none is given, or is not there; or images cannot be decoded.
        """
        self.check_root(root, download=download)
        if self.folder is None:
            assert self.load is not None
            return self.load(root, train=train, download=download)
        assert root is not None
        from nni_nas_consistency.images.folder import image_files
        from nni_nas_consistency.images.prepared import prepared

        root = root.expanduser()
        files = image_files(root, self.folder, self.shape[0], train=train)
        return prepared(files, self.folder.cache or root / "prepared", progress=progress)

    def training_images(self, root: Path | None, *, download: bool = False) -> TrainingImages:
        """Return the training images to train on; those of a folder are decoded when they are needed.

        Raises:
            InputError: The data set needs a folder and none is given, or is not there.
        """
        if self.folder is None:
            return self.images(root, train=True, download=download)
        self.check_root(root, download=download)
        assert root is not None
        from nni_nas_consistency.images.folder import image_files

        return image_files(root.expanduser(), self.folder, self.shape[0], train=True)

    def settings(self, *, train: bool) -> dict[str, Json]:
        """Return what decides the images that are seen, besides those of the folder.

        Args:
            train: Whether images are trained on.
        """
        own: dict[str, Json] = {"data": self.name}
        if self.folder is None:
            return own
        return {**own, "shape": list(self.shape), **self.folder.settings(train=train)}


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
IMAGENET = DataSet(
    "imagenet", (1000, 3, 224), True, None, IMAGENET_TEST, IMAGENET_TRAIN, (1_281_167, 50_000), FolderOptions()
)
IMAGENET_BICUBIC = replace(IMAGENET, folder=FolderOptions(Resizing(interpolation="bicubic")))
"""As transformers see it."""
FOLDER = DataSet("folder", (0, 3, 224), True, None, IMAGENET_TEST, IMAGENET_TRAIN, None, FolderOptions())
"""Any folder of images, normalised as ImageNet is; `cli.parse` fills in its classes, and its side if it is another."""

DATA_SETS = (CIFAR100, CIFAR10, DIGITS_8, IMAGENET, FOLDER)


@dataclass(frozen=True)
class System:
    """A competition or a benchmark.

    Args:
        space: Its search space, as the command line names it.
        about: What it is, in one line.
        domain: What the archs are, and what is drawn by default.
        made_with: What tells its checkpoints: class of the space, and arguments that differ from another system's.
        make: Makes the space: `make((classes, channels, side), standalone=…)`.
        data: The data set, unless another is named.
        recipes: The recipes for supernets, the default first.
        standalone: How one arch is trained alone.
        cost: Parameters and MACs of an arch that is trained alone, `cost(arch, (classes, channels, side))`, counted
            without its network; None: there is no such formula, and they are counted on the network.
        absolute_pearson: Whether the competition's board counts |Pearson|.
        init: How first weights of one network are drawn; see `Recipe`.
        finetune: How a trained network goes on with a new head on other images; None: as `standalone`.
        subnets: Archs that have a name.
        has_batch_norm: Whether its networks have batch norms, whose statistics scoring can choose.
        is_chain: Whether it is a `ChainSpace`: archs share prefixes, kernels can be shared in several ways.
        loss: The loss of an arch that is trained alone.
        augmentations: How training images are augmented, by the name of the data set, where it is not as the data set
            says.
        dropped: Label and choice of what its space was shrunk by.
    """

    space: str
    about: str
    domain: Domain
    made_with: Mapping[str, object]
    make: Callable[..., ModelSpace]
    data: DataSet
    recipes: tuple[Recipe, ...]
    standalone: Optimization
    cost: Callable[[Arch, tuple[int, int, int]], Cost] | None
    absolute_pearson: bool = False
    init: Init = "torch"
    finetune: Optimization | None = None
    subnets: Mapping[str, Arch] = field(default_factory=dict)
    has_batch_norm: bool = True
    is_chain: bool = True
    loss: Loss = CROSS_ENTROPY
    augmentations: Mapping[str, Augmentation] = field(default_factory=dict)
    dropped: tuple[tuple[str, Choice], ...] = ()

    def without(self, dropped: Sequence[tuple[str, Choice]]) -> System:
        """Return the system without some choices (label, choice), whose space NNI's strategies see as smaller too.

        Raises:
            InputError: The space is no chain; or there is no such choice, or it is the last one.
        """
        if not self.is_chain:
            raise InputError(f"{self.space} is no chain; only the spaces of chains are shrunk")
        domain = self.domain
        for label, choice in dropped:
            domain = domain.without(label, choice)
        smaller = partial(_restricted, make=self.make, domain=domain)
        return replace(self, domain=domain, make=smaller, dropped=(*self.dropped, *dropped))

    def augmentation(self, data: DataSet) -> Augmentation:
        """Return how the training images of a data set are augmented."""
        return self.augmentations.get(data.name, data.train)

    @property
    def codec(self) -> Codec:
        """How its archs are written."""
        return self.domain.codec

    def arch(self, code: str, name: str = "arch") -> Arch:
        """Return the arch of a code, or of the name of one that is known.

        Raises:
            ArchError: It is neither.
        """
        return self.subnets[code] if code in self.subnets else self.codec.parse(code, name)

    def make_space(self, shape: tuple[int, int, int], *, standalone: bool = False) -> ModelSpace:
        """Return the space, for images of so many classes and channels and of this side in pixels.

        Args:
            shape: Classes, channels, side.
            standalone: Whether networks have the shortcuts that reference accuracies were trained with.
        """
        return self.make(shape, standalone=standalone)


def _restricted(
    shape: tuple[int, int, int], *, standalone: bool, make: Callable[..., ChainSpace], domain: Domain
) -> ChainSpace:
    space = make(shape, standalone=standalone)
    if not standalone:  # an arch that is trained alone may be any
        space.restrict(domain)
    return space


def _resnet20(shape: tuple[int, int, int], *, standalone: bool) -> ChainSpace:
    from nni_nas_consistency.spaces.resnet20 import ResNet20Space

    return ResNet20Space(*shape, "standalone" if standalone else "projection")


def _resnet20_of_unit_1(shape: tuple[int, int, int], *, standalone: bool) -> ChainSpace:
    from nni_nas_consistency.spaces.resnet20 import ResNet20Space

    return ResNet20Space(*shape, width_unit=1)


def _resnet48(
    shape: tuple[int, int, int], *, standalone: bool, domain: DomainName, activation: Activation
) -> ChainSpace:
    from nni_nas_consistency.spaces.resnet48 import ResNet48Space

    divisor = width_divisor_of(shape[2])
    if standalone:  # as the reference accuracies were trained, whatever the supernet has
        return ResNet48Space(*shape, "standalone", "nominal", width_divisor=divisor)
    return ResNet48Space(*shape, "supernet", domain, activation, divisor)


def _autoformer(shape: tuple[int, int, int], *, standalone: bool, choices: AutoFormerChoices) -> ModelSpace:
    from nni_nas_consistency.spaces.autoformer import autoformer_space

    return autoformer_space(choices, shape)


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


def _cvpr2022(
    space: str, *, about: str = "", domain: DomainName = "released", activation: Activation = "relu"
) -> System:
    """Return CVPR 2022 track 1.

    Args:
        space: Its name on the command line.
        about: What tells it from the others.
        domain: What its supernet draws; networks that are trained alone take any code.
        activation: What follows the additions of its supernet.
    """
    return System(
        space=space,
        about=f"CVPR 2022 NAS track 1: ResNet-48 with searchable depths and widths on ImageNet{about}",
        domain=DEMO if domain == "demo" else RELEASED,
        made_with={"class": "ResNet48Space", "domain": domain, "activation": activation},
        make=partial(_resnet48, domain=domain, activation=activation),
        data=IMAGENET,
        recipes=(SUPERNET_2022,),
        standalone=STANDALONE_2022,
        cost=resnet48_cost,
        absolute_pearson=True,
    )


CVPR2022 = _cvpr2022("resnet48")
CVPR2022_PRELU = _cvpr2022("resnet48-prelu", about="; PReLU after additions", activation="prelu")
CVPR2022_MISH = _cvpr2022("resnet48-mish", about="; Mish after additions", activation="mish")
CVPR2022_DEMO = _cvpr2022("resnet48-demo", about="; archs as the organisers' demo draws them", domain="demo")
EMBEDDED_BENCHMARK = System(
    space="digits",
    about="the embedded benchmark: ResNet-20 at a width unit of one channel on 8×8 digits",
    domain=DIGITS,
    made_with={"class": "ResNet20Space", "width_unit": 1},
    make=_resnet20_of_unit_1,
    data=DIGITS_8,
    recipes=(EMBEDDED, ANS_DIGITS),
    standalone=STANDALONE_DIGITS,
    cost=partial(resnet20_cost, shortcut="projection"),
)


def _autoformer_system(choices: AutoFormerChoices, about: str, subnets: Mapping[str, Arch]) -> System:
    """Return AutoFormer on ImageNet.

    Args:
        choices: The choices of its search space.
        about: What tells it from the others.
        subnets: The archs that were published, by name.
    """
    return System(
        space=choices.space,
        about=f"AutoFormer: vision transformers with searchable embedding, depth, heads and MLP ratios; {about}",
        domain=choices.domain,
        made_with={"class": "AutoFormer", "search_embed_dim": list(choices.embed_dim)},
        make=partial(_autoformer, choices=choices),
        data=IMAGENET_BICUBIC,
        recipes=(AUTOFORMER,),
        standalone=SCRATCH_AUTOFORMER,
        cost=autoformer_cost,
        init="trunc-normal",
        finetune=FINETUNE_AUTOFORMER,
        subnets=subnets,
        has_batch_norm=False,
        is_chain=False,
    )


AUTOFORMER_TINY = _autoformer_system(TINY, "tiny, 192 to 240 wide", {"tiny": TINY_SUBNET})
AUTOFORMER_SMALL = _autoformer_system(SMALL, "small, 320 to 448 wide", {"small": SMALL_SUBNET})
AUTOFORMER_BASE = _autoformer_system(BASE, "base, 528 to 624 wide", {"base": BASE_SUBNET})
AUTOFORMER_TOY = replace(
    _autoformer_system(TOY, "a toy for small images, 16 to 32 wide", {}),
    data=DIGITS_8,
    recipes=(AUTOFORMER_DIGITS,),
    standalone=STANDALONE_AUTOFORMER_DIGITS,
    finetune=STANDALONE_AUTOFORMER_DIGITS,
)

FAST = {"cifar10": CIFAR10_FAST, "cifar100": CIFAR100_FAST, "digits": DIGITS_FAST}
"""How training images are augmented in the fast training, and in that of its supernet."""


def _spos_cifar(
    shape: tuple[int, int, int], *, standalone: bool, widths: tuple[int, int, int, int], variant: Variant
) -> ChainSpace:
    from nni_nas_consistency.spaces.spos_cifar import SposCifarSpace

    return SposCifarSpace(*shape, *widths, variant=variant)


def _spos(space: str, data: DataSet, about: str, *, width_divisor: int = 1, variant: Variant = "layers") -> System:
    """Return a member of SPOS-CIFAR.

    Args:
        space: Its name on the command line.
        data: The data set, unless another is named.
        about: What tells it from the others.
        width_divisor: All widths are divided by it.
        variant: Whether its choices are operators, or kernels and skips of blocks.
    """
    prep, layer1, layer2, layer3 = (width // width_divisor for width in (64, 128, 256, 512))
    widths = (prep, layer1, layer2, layer3)
    recipe, standalone = (SPOS_DIGITS, STANDALONE_SPOS_DIGITS) if data is DIGITS_8 else (SPOS_CIFAR, STANDALONE_FAST)
    return System(
        space=space,
        about=f"SPOS-CIFAR: single path one-shot, operators by choice{about}",
        domain=DOMAINS[variant],
        made_with={"class": "SposCifarSpace", "variant": variant, "prep": prep},
        make=partial(_spos_cifar, widths=widths, variant=variant),
        data=data,
        recipes=(recipe,),
        standalone=standalone,
        cost=partial(spos_cifar_cost, widths=widths, variant=variant),
        loss=FAST_LOSS,
        augmentations=FAST,
    )


def _efficient_cifar(shape: tuple[int, int, int], *, standalone: bool) -> ChainSpace:
    from nni_nas_consistency.spaces.efficient_cifar import EfficientCifarSpace

    return EfficientCifarSpace(*shape, domain="any" if standalone else "tuned")


SPOS = _spos("spos-cifar", CIFAR100, ", on CIFAR-100")
SPOS_BLOCKS = _spos("spos-cifar-blocks", CIFAR100, ", blocks with skips, on CIFAR-100", variant="blocks")
SPOS_OF_DIGITS = _spos("spos-digits", DIGITS_8, ", an eighth as wide, on 8×8 digits", width_divisor=8)
SPOS_BLOCKS_OF_DIGITS = _spos(
    "spos-digits-blocks",
    DIGITS_8,
    ", blocks with skips, an eighth as wide, on 8×8 digits",
    width_divisor=8,
    variant="blocks",
)
EFFICIENT_CIFAR = System(
    space="efficient-cifar",
    about="the network whose hyper-parameters SPOS-CIFAR tunes, its widths by choice, on CIFAR",
    domain=TUNED,
    made_with={"class": "EfficientCifarSpace", "domain": "tuned"},
    make=_efficient_cifar,
    data=CIFAR100,
    recipes=(SPOS_CIFAR,),
    standalone=STANDALONE_FAST,
    cost=tuned_cost,
    loss=FAST_LOSS,
    augmentations=FAST,
)

SYSTEMS = (
    CVPR2021,
    CVPR2022,
    CVPR2022_PRELU,
    CVPR2022_MISH,
    CVPR2022_DEMO,
    EMBEDDED_BENCHMARK,
    SPOS,
    SPOS_BLOCKS,
    SPOS_OF_DIGITS,
    SPOS_BLOCKS_OF_DIGITS,
    EFFICIENT_CIFAR,
    AUTOFORMER_TINY,
    AUTOFORMER_SMALL,
    AUTOFORMER_BASE,
    AUTOFORMER_TOY,
)


def shape_of_checkpoint(space: Mapping[str, object]) -> tuple[int, int, int]:
    """Return classes, channels and side of the images of a checkpoint, by the arguments of its space.

    Raises:
        CheckpointError: They do not say.
    """
    found = []
    for names in (("num_classes", "num_labels"), ("in_channels",), ("image_size", "img_size")):
        values = [space[name] for name in names if name in space]
        if len(values) != 1 or type(values[0]) is not int or values[0] < 1:
            raise CheckpointError(f"{' or '.join(names)} of its space is missing or no size; train it again")
        found.append(values[0])
    classes, channels, side = found
    return classes, channels, side


def system_of_checkpoint(space: Mapping[str, object]) -> System | None:
    """Return the system that a checkpoint belongs to, by the class and arguments of its space; None for your own."""
    for system in SYSTEMS:
        if all(space.get(name) == value for name, value in system.made_with.items()):
            return system
    return None
