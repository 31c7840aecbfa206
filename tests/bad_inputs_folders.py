"""Bad inputs of folders of images and of CVPR 2022, which join the table of `bad_inputs.py`."""

import base64

from bad_inputs import BadInput
from damages import folder, several, written

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGM8IWfDwMDAxMDAwMDAAAAOTgEmR2hJIgAAAABJRU5ErkJggg=="
)
"""Four red pixels."""


def images(*, classes=("cat", "dog"), root="images"):
    """Return what writes a folder of two images a class, for training and for test."""
    files = [
        f"{root}/{split}/{name}/{index}.png" for split in ("train", "val") for name in classes for index in range(2)
    ]
    return several(*(written(file, PNG) for file in files))


FOLDER_VERBS = {
    "train": "train --space resnet48 --data folder --data-root images --epochs 1 --device cpu --out new",
    "standalone": "standalone --space resnet48 --data folder --data-root images --archs list48.json --out new",
    "score": "score --checkpoint supernet.safetensors --archs list.json --out out.json",
    "search": "search --checkpoint supernet.safetensors --out out.json",
    "extract": "extract --checkpoint supernet.safetensors --arch " + "-".join("1" * 20) + " --out out.safetensors",
    "shrink": "shrink --checkpoint supernet.safetensors --out out.json",
    "images choose": "images choose --checkpoint supernet.safetensors --archs list.json --out out.json",
}
OF_TRAINING = [
    ("--side", "0", ("'--side': Input should be greater than or equal to 1, not '0'",)),
    ("--side", "4096", ("less than or equal to 2048, not 4096",)),
    ("--smallest-crop", "some", ("'--smallest-crop'", "not 'some'")),
]
OF_ALL = [
    ("--val-fraction", "half", ("'--val-fraction'", "not 'half'")),
    ("--workers", "-1", ("'--workers'", "greater than or equal to 0, not '-1'")),
    ("--workers", "1000", ("less than or equal to 256, not 1000",)),
]
NOT_OF_DIGITS = {"--val-files": "list.txt", "--cache": "cache", "--workers": "0", "--val-fraction": "0.1"}
"""Options that belong to a folder of images."""

WORDS = [
    BadInput(f"{verb} {option} {value}", f"{words} {option} {value}", said)
    for verb, words in FOLDER_VERBS.items()
    for option, value, said in OF_ALL + (OF_TRAINING if verb in ("train", "standalone") else [])
]
ON_DIGITS = [
    BadInput(
        f"{verb} on digits with {option}",
        f"{words.replace('--space resnet48 --data folder --data-root images', '--space digits')} {option} {value}",
        (f"{option} is for a folder of images, and digits is none; leave it out",),
    )
    for verb, words in FOLDER_VERBS.items()
    for option, value in NOT_OF_DIGITS.items()
]

TRAIN = FOLDER_VERBS["train"] + " --side 8"
FULL = "5585" + "1" * 47


def truncated(path):
    return written(path, PNG[:50])


FOLDERS_THEMSELVES = [
    BadInput("a folder of images that is not named", "train --data folder --out new", ("folder needs --data-root",)),
    BadInput("a folder of images that is not there", TRAIN, ("--data-root images: is no folder",)),
    BadInput(
        "a folder of images to download",
        "train --space resnet48 --data-root images --download --out new",
        ("imagenet is not downloaded by --download; unpack it, and give --data-root",),
        images(),
    ),
    BadInput(
        "a folder of other images than ImageNet",
        "train --space resnet48 --data-root images --out new",
        ("images: has 2 class folder(s), imagenet has 1000; name another --data-root",),
        images(),
    ),
    BadInput("a share of more than all", f"{TRAIN} --val-fraction 1.5", ("--val-fraction 1.5", "below 1"), images()),
    BadInput("a smallest crop of nothing", f"{TRAIN} --smallest-crop 0", ("smallest_crop is 0.0",), images()),
    BadInput(
        "images held out in two ways",
        f"{TRAIN} --val-fraction 0.5 --val-files list.txt",
        ("both --val-fraction and --val-files hold images out; give one of them",),
        images(),
    ),
    BadInput(
        "a list of held-out images that is not there",
        f"{TRAIN} --val-files list.txt",
        ("list.txt: cannot be read",),
        images(),
    ),
    BadInput(
        "a held-out image that is not there",
        f"{TRAIN} --val-files list.txt",
        ("list.txt: names 'cat/9.png', which is no image of images/train",),
        several(images(), written("list.txt", "cat/9.png\n")),
        torch=True,
    ),
    BadInput(
        "a class without images",
        TRAIN,
        ("images/train/emu: has no image", "fill the folder, or remove the class"),
        several(images(), folder("images/train/emu"), folder("images/val/emu")),
        torch=True,
    ),
    BadInput(
        "an image that is cut off",
        TRAIN,
        ("images/val/dog/1.png: cannot be decoded", "replace the image, or remove it"),
        several(images(), truncated("images/val/dog/1.png")),
        torch=True,
    ),
]

SCORE_48 = "score --checkpoint supernet48.safetensors --archs list48.json --out out.json"

WRONG_MEMBERS = [
    BadInput(
        "a code of 2021 for a network of 2022",
        f"standalone --space resnet48 --data folder --data-root images --arch {'-'.join('4' * 20)} --out new",
        ("--arch: the code is '4-4-4", "resnet48 expects 51 or 52 digits"),
        images(),
    ),
    BadInput(
        "a code of 2022 for a network of 2021",
        f"standalone --space resnet20 --arch {FULL} --out new",
        (f"--arch '{FULL}' has 1 layers; resnet20 has 20",),
    ),
    BadInput(
        "a depth that does not fit the digits",
        f"standalone --space resnet48 --data folder --data-root images --arch 2{FULL[1:]} --out new",
        ("resnet48 allows 0 there, since depth 2 of stage 1 leaves out block 3",),
        images(),
    ),
    BadInput(
        "a supernet of another member for a folder of images",
        f"{SCORE_48} --data folder --data-root images",
        (
            "supernet48.safetensors: was trained for 10 classes of images of 8 pixels",
            "folder has 2 classes and 8 pixels: give its own --data, --data-root and --side",
        ),
        images(),
    ),
    BadInput(
        "a supernet of another member for ImageNet",
        f"{SCORE_48} --data imagenet --data-root images",
        ("was trained for 10 classes of images of 8 pixels; imagenet has 1000 classes and 224 pixels", "--side"),
        images(),
    ),
    BadInput(
        "a cache of other images",
        f"{TRAIN} --cache cache",
        (
            "cache/val-8-9-bilinear.json: belongs to other images than those in images/val",
            "delete val-8-9-bilinear.json",
        ),
        several(
            images(), written("cache/val-8-9-bilinear.json", '{"format": "nni-nas-consistency prepared images 1"}')
        ),
        torch=True,
    ),
    BadInput(
        "a cache in a file",
        f"{TRAIN} --cache list.json",
        ("list.json: is no folder; choose another one",),
        images(),
        torch=True,
    ),
]

FOLDERS = [*WORDS, *ON_DIGITS, *FOLDERS_THEMSELVES, *WRONG_MEMBERS]
