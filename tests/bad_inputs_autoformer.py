"""Bad inputs of AutoFormer and of networks of one arch, which join the table of `bad_inputs.py`."""

import io
import json
import pickle
import zipfile

from bad_inputs import HUGE, ONES, BadInput
from bad_inputs_folders import PNG, images
from damages import Malice, changed, folder, header, several, shortened, written

NET = "network.safetensors"
"""The network of a toy AutoFormer for ten classes of 3×8×8 images."""

OTHER = '{"depth":2,"embed_dim":24,"mlp_ratio_0":1.0,"mlp_ratio_1":1.0,"num_head_0":1,"num_head_1":1}'
FIT = f"fit --weights supernet.safetensors --arch {ONES} --epochs 1 --train-images 64 --device cpu --out new"
EVALUATE = f"evaluate --weights supernet.safetensors --arch {ONES} --device cpu"
ON_FOLDER = f"evaluate --weights {NET} --data folder --data-root images --device cpu"
CONVERT = "convert odd.pth --space autoformer-digits --out out.safetensors"
TRAIN = "train --space autoformer-digits --epochs 1 --device cpu --out new"
SCORE = f"score --checkpoint {NET} --archs list.json --out out.json"
OF_TOY = "score --checkpoint autoformer.safetensors --archs toys.json --out out.json"
STUDY = "baseline: a\nsettings: {a: {}, b: {bn: test}}\n"
ACCURACIES = json.dumps(
    {"arch1": {"acc": 0.5, "arch": OTHER}, "arch2": {"acc": 0.6, "arch": OTHER.replace("24", "16")}}
)
FLOATS = ("", "-1", "nan", "inf", "many")

SETTINGS = [
    BadInput(f"--set {name}={text}", f"{TRAIN} --set '{name}={text}'", (f"{name} is {allowed}, not '{text}'",))
    for name, texts, allowed in (
        ("optimizer", ("", "adam", "SGD"), "sgd or adamw"),
        ("decay", ("per-epoch",), "cosine, cosine-per-epoch, linear or linear-per-epoch"),
        ("label_smoothing", (*FLOATS, "1"), "a number of at least 0 and below 1"),
        ("mixup", FLOATS, "a number of at least 0; 0 for none"),
        ("cutmix", FLOATS, "a number of at least 0; 0 for none"),
        ("init", ("normal",), "kaiming-fan-out, torch, channels-in or trunc-normal"),
    )
    for text in texts
]
OF_CHAINS = [
    BadInput("batch norm where there is none", f"{OF_TOY} --bn batch", ("bn batch", "no batch norms", "--bn")),
    BadInput(
        "a search with batch norm where there is none",
        "search --checkpoint autoformer.safetensors --bn train --out out.json",
        ("--bn train", "autoformer-digits have no batch norms"),
    ),
    BadInput("orders without batch norm", f"{OF_TOY} --orders 2", ("orders 2", "no batch norms", "--orders")),
    BadInput("prefixes of no chain", f"{OF_TOY} --scorer prefix", ("scorer prefix", "is no chain", "--scorer")),
    BadInput("kernels of no chain", f"{TRAIN} --sharing conv=end", ("sharing conv=end", "is no chain", "leave it out")),
    BadInput("stacked archs of no chain", f"{TRAIN} --step stacked", ("step stacked", "is no chain", "--step")),
    BadInput(
        "batch norm over devices of no chain",
        f"{TRAIN} --devices 2 --sync-batch-norm",
        ("--sync-batch-norm", "has no elastic batch norms"),
    ),
    BadInput("threads of no chain", f"{TRAIN} --step threads", ("step threads", "is no chain", "--step")),
    BadInput(
        "the choices of no chain, shrunk",
        "shrink --checkpoint autoformer.safetensors --out out.json",
        ("autoformer-digits is no chain; only the spaces of chains are shrunk",),
    ),
    BadInput(
        "a study of batch norm where there is none",
        "study own.yml --space autoformer-digits --reference toys.json --device cpu --out new",
        ("bn test: the networks of autoformer-digits have no batch norms",),
        several(written("own.yml", STUDY), written("toys.json", ACCURACIES)),
    ),
    BadInput(
        "channels of no chain", f"{TRAIN} --set start=reordered", ("start=reordered", "chains of residual blocks")
    ),
    BadInput(
        "a frozen teacher of no chain",
        f"{TRAIN} --set rule=frozen-teacher --set distill_from=never",
        ("rule=frozen-teacher is for chains of residual blocks, which autoformer-digits is not",),
    ),
    BadInput(
        "an AutoFormer whose depth does not exist",
        "fit --space autoformer-tiny --arch '{\"depth\":3}' --out new",
        ("--arch has no choice for embed_dim",),
    ),
    BadInput(
        "the name of a subnet of another space",
        "fit --space autoformer-tiny --arch small --out new",
        ("--arch: the code 'small' is not JSON", "write the sample as an object"),
    ),
]

WRONG = [
    ("--arch", "'2-2'", ("'2-2' has 2 layers; digits has 20",)),
    ("--space", "resnet20", ("supernet.safetensors: is of space digits, not resnet20; leave --space out",)),
    ("--space", "digit", ("'digit'", "'resnet20'")),
    ("--data", "cifar", ("'cifar'", "'cifar100'")),
    ("--data", "folder", ("folder needs --data-root",)),
    ("--data-root", "nowhere --data folder", ("--data-root nowhere: is no folder",)),
    ("--weights", "nowhere", ("nowhere: cannot be read",)),
    ("--weights", "list.json", ("list.json: is not a",)),
    ("--device", "tpu", ("'tpu'", "'auto', 'cpu', 'cuda'")),
    ("--cache", "cache", ("--cache is for a folder of images, and digits is none",)),
    ("--val-files", "list.txt", ("--val-files is for a folder of images, and digits is none",)),
    ("--val-fraction", "half", ("'--val-fraction'", "not 'half'")),
    ("--workers", "-1", ("'--workers'", "not '-1'")),
    ("--download", "--data cifar100", ("cifar100 needs --data-root",)),
]
COUNTS = [
    (FIT, "--train-images", ("0", "-1", "many", "1201")),
    (FIT, "--val-images", ("0", "many", "598")),
    (FIT, "--epochs", ("0", "many", HUGE)),
    (FIT, "--seed", ("-1", "many", HUGE)),
    (FIT, "--image-size", ("0", "7", "1025", "large", "16")),
    (FIT, "--checkpoint-steps", ("0", "many", HUGE)),
    (EVALUATE, "--images", ("0", "many", "598")),
    (EVALUATE, "--batch-size", ("0", "many", HUGE)),
]
WORDS = [
    *(
        BadInput(f"{words.split()[0]} {option} {value}", f"{words} {option} {value}", said)
        for words in (FIT, EVALUATE)
        for option, value, said in WRONG
    ),
    *(
        BadInput(
            f"{words.split()[0]} {option} {value}",
            f"{words} {option} {value}",
            (value if value != "0" or option != "--epochs" else "epochs",),
        )
        for words, option, values in COUNTS
        for value in values
    ),
    BadInput("fit --set", f"{FIT} --set lr=fast", ("--set lr=fast: lr is a number of at least 0, not 'fast'",)),
    BadInput("fit --set of a recipe", f"{FIT} --set n=3", ("there is no setting 'n'",)),
    BadInput("fit --precision", f"{FIT} --precision 16", ("'16'", "'bf16-mixed'")),
    BadInput("fit --smallest-crop", f"{FIT} --smallest-crop 0.5", ("--smallest-crop is for a folder",)),
    BadInput("fit --out in a file", f"{FIT} --out list.json", ("list.json: is no folder",)),
    BadInput("fit that resumes nothing", f"{FIT} --resume", ("new: there is no run to resume",)),
    BadInput("fit that overwrites and resumes", f"{FIT} --resume --overwrite", ("give one of them",)),
    BadInput(
        "fit into a run of train",
        f"{FIT} --set warmup_steps=0 --out run",
        ("run: holds a run", "--overwrite"),
        torch=True,
    ),
    BadInput("fit without an arch", "fit --out new", ("give --arch, the code or name of an arch",)),
    BadInput("evaluate without weights", "evaluate", ("Missing option '--weights'",)),
    BadInput("evaluate of a supernet", "evaluate --weights supernet.safetensors", ("name the arch to cut out",)),
    BadInput("evaluate --json=3", f"{EVALUATE} --json=3", ("--json", "does not take a value")),
    BadInput("a network as a supernet", SCORE, (f"{NET}: is the network of one arch, no supernet",)),
    BadInput("a network to train on", f"{TRAIN} --weights {NET}", (f"{NET}: is the network of one arch, no supernet",)),
    BadInput(
        "another arch than the network's",
        f"{ON_FOLDER} --arch '{OTHER}'",
        (f"{NET}: is the network of", "leave --arch out"),
        images(classes="abcdefghij"),
    ),
]

NETWORKS = [
    BadInput("a network that is cut off", ON_FOLDER, (f"{NET}: ",), several(images(), shortened(NET, -8)), torch=True),
    BadInput(
        "a network with a flipped bit",
        f"evaluate --weights {NET} --data folder --data-root ten --device cpu",
        (f"{NET}: is damaged",),
        several(images(root="ten", classes="abcdefghij"), changed(NET, lambda old: old[:-1] + bytes([old[-1] ^ 1]))),
        torch=True,
    ),
    BadInput(
        "a network without an arch",
        ON_FOLDER,
        (f"{NET}: is not a supernet checkpoint",),
        several(images(), header(lambda before: before["__metadata__"].pop("arch"), NET)),
    ),
    BadInput(
        "a network of an unknown arch",
        ON_FOLDER,
        (f"{NET}: the code 'tiny' is not JSON",),
        several(images(classes="abcdefghij"), header(lambda before: before["__metadata__"].update(arch="tiny"), NET)),
    ),
]

FOLDERS_OF_IMAGES = [
    BadInput(
        "a transformer on a folder of other classes",
        ON_FOLDER,
        (f"{NET}: was trained for 10 classes of images of 8 pixels", "folder has 2 classes"),
        images(),
    ),
    BadInput(
        "a transformer on a class without images",
        ON_FOLDER,
        ("images/val/j: has no image", "fill the folder, or remove the class"),
        several(images(classes="abcdefghi"), folder("images/train/j"), folder("images/val/j")),
        torch=True,
    ),
    BadInput(
        "a transformer on an image that cannot be read",
        ON_FOLDER,
        ("images/val/c/1.png: cannot be decoded", "replace the image, or remove it"),
        several(images(classes="abcdefghij"), written("images/val/c/1.png", PNG[:50])),
        torch=True,
    ),
    BadInput(
        "fine-tuning on an image that cannot be read",
        f"fit --weights {NET} --data folder --data-root images --epochs 1 --set warmup_epochs=0 --device cpu --out new",
        ("images/val/dog/1.png: cannot be decoded", "replace the image, or remove it"),
        several(images(), written("images/val/dog/1.png", PNG[:50])),
        torch=True,
    ),
]


def torch_file(content):
    """Return the bytes of a zip file with a pickle where torch has one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("odd/data.pkl", content)
        archive.writestr("odd/version", "3")
    return stream.getvalue()


CONVERSIONS = [
    BadInput("nothing to convert", CONVERT, ("odd.pth: cannot be read",)),
    BadInput("a folder to convert", CONVERT, ("odd.pth: is a folder",), folder("odd.pth")),
    BadInput(
        "text to convert", CONVERT, ("odd.pth: is neither a torch nor a safetensors file",), written("odd.pth", "x")
    ),
    BadInput(
        "a pickle that makes a folder to convert",
        CONVERT,
        ("odd.pth: cannot be read without running code in it",),
        written("odd.pth", pickle.dumps(Malice())),
        torch=True,
    ),
    BadInput(
        "a torch file that makes a folder to convert",
        CONVERT,
        ("odd.pth: cannot be read without running code in it",),
        written("odd.pth", torch_file(pickle.dumps(Malice()))),
        torch=True,
    ),
    BadInput(
        "a supernet of digits to convert",
        "convert supernet.safetensors --space autoformer-digits --out out.safetensors",
        ("supernet.safetensors: holds no AutoFormer",),
        torch=True,
    ),
    BadInput(
        "a network of another AutoFormer to convert",
        f"convert {NET} --space autoformer-tiny --out out.safetensors",
        (f"{NET}: is of a different space: the network of the file has no choice for num_head_2",),
        torch=True,
    ),
    BadInput(
        "convert without a space",
        "convert odd.pth --out out.safetensors",
        ("Missing option '--space'. Choose from: resnet20",),
    ),
    BadInput("convert for a ResNet", f"{CONVERT} --space digits", ("convert is for AutoFormer, not digits",)),
    BadInput("convert --arch", f"{CONVERT} --arch tiny", ("--arch: the code 'tiny' is not JSON",)),
    BadInput("convert --out", f"convert {NET} --space autoformer-digits --out no/out", ("there is no folder no",)),
    BadInput("convert onto itself", f"convert {NET} --space autoformer-digits --out {NET}", (f"{NET}: is an input",)),
    BadInput(
        "convert onto a file that is there",
        f"convert {NET} --space autoformer-digits --out list.json",
        ("list.json: is there already; choose another --out, or --overwrite it",),
    ),
    BadInput("convert --overwrite=3", f"{CONVERT} --overwrite=3", ("--overwrite", "does not take a value")),
]

AUTOFORMER = [*SETTINGS, *OF_CHAINS, *WORDS, *NETWORKS, *FOLDERS_OF_IMAGES, *CONVERSIONS]
