"""Bad inputs, a table: what somebody may type or have lying about, and what must be said about it.

Every row is run in a folder with the valid files that `test_bad_inputs.py` makes; words are split as a shell would, and
names in them are relative to that folder. A new option or reader joins here. Imports no torch, so that the rows that
need none can be run without it.
"""

import gzip
import json
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

from damages import (
    Damage,
    Malice,
    changed,
    copied,
    fields,
    folder,
    header,
    inside,
    journal,
    link,
    metadata,
    no_damage,
    pipe,
    removed,
    safetensors,
    several,
    shortened,
    training,
    written,
    zipped,
)

from nni_nas_consistency.files.seal import sealed


@dataclass(frozen=True)
class BadInput:
    """A row.

    Args:
        name: What is wrong.
        words: What is typed after `nni-consistency`.
        said: What the one line on standard error must contain: the value, what is allowed, the next step.
        damage: What is done to the files before.
        code: The exit code: 2, or 1 where a run failed although its input could not be refused.
        torch: Whether it takes torch to find out.
    """

    name: str
    words: str
    said: tuple[str, ...]
    damage: Damage = no_damage
    code: int = 2
    torch: bool = False

    @property
    def verb(self):
        """The first word, and the second of `archs`, `images` and `spaces`."""
        words = self.words.split()
        return " ".join(words[: 2 if words[:1] in (["archs"], ["images"], ["spaces"]) else 1])


SCORE_WITH = "score --archs list.json --images 50 --device cpu --out out.json"
SCORE = f"{SCORE_WITH} --checkpoint supernet.safetensors"
FEW = "--n 3 --train-images 64 --val-images 20 --set warmup_steps=0 --device cpu"
TRAIN = f"train --recipe digits --epochs 1 {FEW} --out new"
STANDALONE = "standalone --space digits --archs list.json --epochs 1 --limit 2 --device cpu --out new"
SEARCH = "search --checkpoint supernet.safetensors --images 50 --trials 3 --population 2 --device cpu --out out.json"
RANK = "rank scores.json reference.json --resamples 20"
CHECK = "archs check --space digits list.json"
FEW_IMAGES = "--count 10 --archs-scored 4 --batch-size 10 --device cpu"
CHOOSE = f"images choose --checkpoint supernet.safetensors --archs list.json {FEW_IMAGES} --out out.json"
SAMPLE = "archs sample --space digits --count 3 --out out.json"
QUICKSTART = "quickstart --epochs 1 --out new"
ENSEMBLE = "ensemble scores.json scores.acc.json --out out.json"

HUGE = str(2**64)
LONG_NAME = "n" * 300
NOT_UTF8 = os.fsdecode(b"n\xffme")
ONES = "-".join("1" * 20)
TWO = "2-" + "-".join("1" * 19)


def verb_of(words):
    return words.split(" --")[0]


# words

WORDS = [
    BadInput("no such verb", "trian", ("No such command 'trian'", "'train'", "nni-consistency --help")),
    BadInput("no such option before the verb", "--verbose train", ("No such option: --verbose",)),
    BadInput("a value for a flag before the verb", "--version=3", ("--version", "does not take a value")),
    BadInput("archs without a verb", "archs", ("Missing command", "archs --help")),
    BadInput("no such verb of archs", "archs chek list.json", ("No such command 'chek'", "archs --help")),
    BadInput("images without a verb", "images", ("Missing command", "images --help")),
    BadInput("no such verb of images", "images chose", ("No such command 'chose'", "'choose'", "images --help")),
    BadInput("choose without a list", "images choose --checkpoint run", ("Missing option '--archs'",)),
    BadInput("a word after spaces", "spaces digits", ("'digits'", "spaces --help")),
    BadInput("an option of spaces", "spaces --json", ("No such option: --json",)),
    BadInput("a word after doctor", "doctor nnictl", ("(nnictl)", "doctor --help")),
    BadInput("an option of doctor", "doctor --fix", ("No such option: --fix",)),
    BadInput("a word after quickstart", "quickstart digits", ("(digits)", "quickstart --help")),
    BadInput("a word after train", f"{TRAIN} digits", ("(digits)", "train --help")),
    BadInput("a misspelt option", f"{TRAIN} --weight supernet.safetensors", ("No such option: --weight", "--weights")),
    BadInput("an option of another verb", f"{TRAIN} --flip", ("No such option: --flip",)),
    BadInput("score without a checkpoint", "score --archs list.json", ("Missing option '--checkpoint'",)),
    BadInput("score without a list", "score --checkpoint supernet.safetensors", ("Missing option '--archs'",)),
    BadInput("search without a checkpoint", "search", ("Missing option '--checkpoint'", "search --help")),
    BadInput("standalone without a list", "standalone --out new", ("give either --archs, a list, or --arch",)),
    BadInput(
        "standalone with a list and an arch",
        f"{STANDALONE} --arch {ONES}",
        ("give either --archs, a list, or --arch, the code of one arch",),
    ),
    BadInput(
        "standalone with the arch of another competition",
        "standalone --space digits --arch 23451 --out new",
        ("--arch '23451' has 1 layers; digits has 20",),
    ),
    BadInput(
        "a setting that archs alone do not have",
        f"{STANDALONE} --set n=3",
        ("there is no setting 'n'", "give NAME=VALUE of lr"),
    ),
    BadInput("no setting", f"{STANDALONE} --set", ("Option '--set' requires an argument",)),
    BadInput("standalone without a folder", "standalone --archs list.json", ("Missing option '--out'",)),
    BadInput("rank without files", "rank", ("Missing argument 'scores'", "rank --help")),
    BadInput("rank without a reference", "rank scores.json", ("Missing argument 'reference'",)),
    BadInput("rank with three files", f"{RANK} list.json", ("(list.json)", "rank --help")),
    BadInput("check without a list", "archs check", ("Missing argument 'file'", "archs check --help")),
    BadInput("check of two lists", f"{CHECK} list.json", ("(list.json)", "archs check --help")),
    BadInput("sample without an output", "archs sample", ("Missing option '--out'", "archs sample --help")),
    BadInput("an option without its value", f"{SCORE} --limit", ("'--limit' requires an argument",)),
    BadInput("--set without its value", f"{TRAIN} --set", ("'--set' requires an argument",)),
    BadInput("--data-root without its value", f"{SCORE} --data-root", ("'--data-root' requires an argument",)),
]

FLAGS = [
    (SCORE, ("--flip", "--overwrite", "--download")),
    (TRAIN, ("--resume", "--overwrite", "--keep-epochs", "--download")),
    (STANDALONE, ("--overwrite", "--download")),
    (SEARCH, ("--overwrite", "--download")),
    (RANK, ("--json", "--common")),
    (SAMPLE, ("--overwrite",)),
    (ENSEMBLE, ("--overwrite",)),
    (CHOOSE, ("--overwrite", "--download")),
]

WORDS += [
    BadInput(f"{verb_of(words)} {flag}=yes", f"{words} {flag}=yes", (f"'{flag}' does not take a value",))
    for words, flags in FLAGS
    for flag in flags
]

SPACES = ("'resnet20', 'resnet48', 'resnet48-prelu', 'resnet48-mish', 'resnet48-demo', 'digits'",)
DATA = ("'cifar100', 'cifar10', 'digits', 'imagenet', 'folder'",)
RECIPES = ("'nazarick', 'short', 'ans', 'digits', 'ans-digits', 'cvpr2022'",)
PRECISIONS = ("'32-true', 'bf16-mixed', '64-true'",)
BN = ("'supernet', 'train', 'test', 'batch'",)
DEVICES = ("'auto', 'cpu', 'cuda'",)

CHOICES = [
    (TRAIN, "--recipe", "nazarik", RECIPES),
    (TRAIN, "--recipe", "Digits", RECIPES),
    (TRAIN, "--space", "resnet50", SPACES),
    (TRAIN, "--space", "", SPACES),
    (TRAIN, "--data", "imagenet21k", DATA),
    (TRAIN, "--precision", "16-mixed", PRECISIONS),
    (TRAIN, "--precision", "fp32", PRECISIONS),
    (TRAIN, "--precision", "32", PRECISIONS),
    (TRAIN, "--precision", "transformer-engine", PRECISIONS),
    (TRAIN, "--step", "masked", ("'auto', 'stacked', 'sliced'",)),
    (TRAIN, "--device", "gpu", DEVICES),
    (SCORE, "--space", "darts", SPACES),
    (SCORE, "--data", "mnist", DATA),
    (SCORE, "--metric", "auc", ("'loss', 'acc'",)),
    (SCORE, "--metric", "", ("'loss', 'acc'",)),
    (SCORE, "--bn", "running", BN),
    (SCORE, "--bn", "none", BN),
    (SCORE, "--scorer", "subnet", ("'prefix', 'plain'",)),
    (SCORE, "--precision", "float16", ("'float32', 'bf16', 'float64'",)),
    (SCORE, "--precision", "bf16-mixed", ("'float32', 'bf16', 'float64'",)),
    (SCORE, "--device", "cuda:0", DEVICES),
    (SCORE, "--device", "mps", DEVICES),
    (RANK, "--space", "nasbench201", SPACES),
    (ENSEMBLE, "--space", "nasbench201", SPACES),
    (STANDALONE, "--space", "mobilenet", SPACES),
    (STANDALONE, "--data", "CIFAR10", DATA),
    (STANDALONE, "--device", "tpu", DEVICES),
    (SEARCH, "--space", "resnet-20", SPACES),
    (SEARCH, "--data", "svhn", DATA),
    (SEARCH, "--device", "CPU", DEVICES),
    (CHECK, "--space", "8x8", SPACES),
    (SAMPLE, "--space", "None", SPACES),
    (CHOOSE, "--space", "resnet20x", SPACES),
    (CHOOSE, "--data", "cifar", DATA),
    (CHOOSE, "--device", "gpu:0", DEVICES),
]

WORDS += [
    BadInput(
        f"{verb_of(words)} {option} {word!r}", f"{words} {option} '{word}'", (option, f"'{word}'", *allowed, "--help")
    )
    for words, option, word, allowed in CHOICES
]

INTEGERS = [
    (QUICKSTART, "--seed", "-1", "1e3"),
    (QUICKSTART, "--epochs", "0", "many"),
    (TRAIN, "--seed", "-5", "0x10"),
    (TRAIN, "--epochs", "0", "nan"),
    (TRAIN, "--n", "0", "3.5"),
    (TRAIN, "--checkpoint-steps", "0", "inf"),
    (TRAIN, "--train-images", "-1", "all"),
    (TRAIN, "--val-images", "0", ""),
    (SCORE, "--limit", "0", "1.5"),
    (SCORE, "--images", "-3", "1e1"),
    (SCORE, "--batch-size", "0", "None"),
    (SCORE, "--orders", "-1", "²"),
    (STANDALONE, "--seeds", "0", "0,1,2"),
    (STANDALONE, "--epochs", "-1", "ten"),
    (STANDALONE, "--limit", "0", "-inf"),
    (SEARCH, "--trials", "0", "NaN"),
    (SEARCH, "--population", "1", "2.5"),
    (SEARCH, "--images", "0", "50%"),
    (SEARCH, "--seed", "-1", "1 2"),
    (RANK, "--seed", "-2", "random"),
    (RANK, "--resamples", "0", "1_"),
    (SAMPLE, "--count", "0", "--5"),
    (CHOOSE, "--count", "0", "1k"),
    (CHOOSE, "--archs-scored", "3", "half"),
    (CHOOSE, "--batch-size", "-1", "0.5"),
    (CHOOSE, "--seed", "-3", "today"),
    (SAMPLE, "--seed", "-1", "+"),
]

for words, option, small, wrong in INTEGERS:
    for value, why in [(small, "greater than or equal to"), (wrong, "valid integer")]:
        WORDS.append(
            BadInput(
                f"{verb_of(words)} {option} {value!r}", f"{words} '{option}={value}'", (option, why, f"not '{value}'")
            )
        )

LIMITED = [
    (QUICKSTART, "--seed"),
    (QUICKSTART, "--epochs"),
    (TRAIN, "--seed"),
    (TRAIN, "--epochs"),
    (TRAIN, "--n"),
    (TRAIN, "--checkpoint-steps"),
    (SCORE, "--batch-size"),
    (SCORE, "--orders"),
    (STANDALONE, "--seeds"),
    (STANDALONE, "--epochs"),
    (SEARCH, "--trials"),
    (SEARCH, "--population"),
    (SEARCH, "--seed"),
    (RANK, "--seed"),
    (RANK, "--resamples"),
    (SAMPLE, "--count"),
    (SAMPLE, "--seed"),
    (CHOOSE, "--count"),
    (CHOOSE, "--archs-scored"),
    (CHOOSE, "--batch-size"),
    (CHOOSE, "--seed"),
]

WORDS += [
    BadInput(f"{verb_of(words)} {option} 2^64", f"{words} {option} {HUGE}", (option, "less than or equal to", HUGE))
    for words, option in LIMITED
]

WORDS += [
    BadInput("a number of 5000 digits", f"{SCORE} --limit {'9' * 5000}", ("--limit", "exceeded", f"'{'9' * 30}")),
    BadInput("a seed just beyond 32 bits", f"{SEARCH} --seed {2**32}", (str(2**32), str(2**32 - 1))),
    BadInput("more images than there are", f"{SCORE} --images {HUGE}", (HUGE, "597", "choose")),
    BadInput("more training images than there are", f"{TRAIN} --train-images 1201", ("1201", "1200")),
    BadInput("more images to search on than there are", f"{SEARCH} --images 598", ("598", "597")),
]

CHANGES = [
    ("lr", "lr is a number"),
    ("", "there is no setting ''"),
    ("=1", "there is no setting ''"),
    ("help", "there is no setting 'help'; give NAME=VALUE of epochs, lr, "),
    ("depth=3", "there is no setting 'depth'"),
    ("epochs=three", "a phase of 0 epochs is left out, not 'three'"),
    ("epochs=-1", "a whole number from 0 to 10,000,000; a phase of 0 epochs is left out, not '-1'"),
    ("epochs=0", "recipe digits has no epochs left; --set epochs=… gives it some"),
    ("phase1_lr=0.3", "the recipe has the phases 0 to 0"),
    ("phase0_depth=3", "there is no setting 'depth'"),
    ("phase0_lr=fast", "not 'fast'"),
    ("n=1", "n is 1; rule 'sandwich' needs at least 2 archs per step"),
    ("LR=3", "there is no setting 'LR'"),
    ("lr=", "not ''"),
    ("lr=fast", "not 'fast'"),
    ("lr=-0.1", "a number of at least 0, not '-0.1'"),
    ("lr=nan", "not 'nan'"),
    ("lr=inf", "not 'inf'"),
    ("lr=1e400", "not '1e400'"),
    ("lr=0.1=0.2", "not '0.1=0.2'"),
    ("weight_decay=-1", "not '-1'"),
    ("weight_decay=1e-4x", "not '1e-4x'"),
    ("momentum=NaN", "not 'NaN'"),
    ("momentum=-0.9", "not '-0.9'"),
    ("batch_size=0", "a whole number from 1 to 50,000, the images of the largest data set, not '0'"),
    ("batch_size=1.5", "not '1.5'"),
    (f"batch_size={HUGE}", f"not '{HUGE}'"),
    ("warmup_steps=-1", "a whole number from 0 to 10,000,000, not '-1'"),
    (f"warmup_steps={'9' * 5000}", "a whole number from 0 to 10,000,000, not '9999"),
    ("rule=sandwiches", "sandwich, sampled-teacher, multi-path, pool-distillation or frozen-teacher, not 'sandwiches'"),
    ("rule=multi-path", "add --set distill_from=never"),
    ("sampling=greedy", "strict-fair, fair, uniform, params, largest, pool or macs-bins, not 'greedy'"),
    ("rule=frozen-teacher", "distill_from belongs to rule=sandwich, not frozen-teacher"),
    ("sandwich_ramp=3", "sandwich_ramp and rank_weight belong to rule=frozen-teacher, not sandwich"),
    ("rank_weight=2", "sandwich_ramp and rank_weight belong to rule=frozen-teacher, not sandwich"),
    ("distill_from=-1", "an epoch, the first being 0, or never, not '-1'"),
    ("distill_from=soon", "not 'soon'"),
    ("grad_clip=0", "a number above 0, or none, not '0'"),
    ("grad_clip=inf", "not 'inf'"),
    ("decay_epochs=-1", "the epochs of the decay at the end, 0 for a constant rate, or none, not '-1'"),
    ("decay_epochs=1.5", "not '1.5'"),
    ("ema=1", "a number above 0 and below 1, such as 0.999, or none, not '1'"),
    ("ema=nan", "not 'nan'"),
    ("mean_epochs=0", "a whole number of epochs from 1 to 10,000,000, or none, not '0'"),
    ("mean_epochs=1.5", "not '1.5'"),
    ("mean_epochs=99", "mean_epochs is 99, of a training of"),
    ("n=0", "a whole number from 1 to 50,000, not '0'"),
    ("warmup_epochs=-1", "a number of at least 0, not '-1'"),
    ("start=sorted", "as-left or reordered, not 'sorted'"),
    ("sandwich_ramp=x", "epochs, 0 for full strength at once, or none, not 'x'"),
    ("rank_weight=-1", "a number of at least 0, not '-1'"),
    ("rank_ramp=-1", "a whole number of epochs from 0 to"),
    ("init=xavier", "kaiming-fan-out, torch, channels-in or trunc-normal, not 'xavier'"),
    ("init=", "kaiming-fan-out, torch, channels-in or trunc-normal, not ''"),
]

WORDS += [BadInput(f"--set {change[:30]!r}", f"{TRAIN} --set '{change}'", (said,)) for change, said in CHANGES]

SHARINGS = [
    ("", "sharing '' cannot be read; give conv=RULE,bn=RULE,fc=RULE"),
    ("end", "sharing 'end' cannot be read"),
    ("linear=full", "sharing 'linear=full' cannot be read"),
    ("conv=end,conv=end", "sharing 'conv=end,conv=end' cannot be read"),
    ("conv=", "sharing 'conv=' cannot be read"),
    ("conv=middle", "sharing conv=middle: there is no such rule; allowed are full, front, end, independent"),
    ("conv=end:1", "groups of N neighbouring widths, N at least 2"),
    ("bn=end:0", "sharing bn=end:0: there is no such rule"),
    (f"bn=end:{HUGE}", "there is no such rule"),
    ("conv=full:2", "sharing conv=full:2: there is no such rule"),
    ("fc=front", "sharing fc=front: there is no such rule; allowed are full, independent"),
]

WORDS += [BadInput(f"--sharing {text!r}", f"{TRAIN} --sharing '{text}'", (said,)) for text, said in SHARINGS]

# words that do not go together, or not with their files

DIGITS_OF_2022 = json.dumps(
    {"arch1": {"acc": 0, "arch": "22221" + "1111000000" * 2 + "1111" + "0" * 12 + "1111000000"}}
)

COMBINATIONS = [
    BadInput("two averages", f"{TRAIN} --set ema=0.9 --set mean_epochs=1", ("ema and mean_epochs", "give one of them")),
    BadInput("a shard that is no fraction", f"{SCORE} --shard 2", ("shard '2'", "I/N, such as 2/8")),
    BadInput("a shard beyond the last", f"{SCORE} --shard 3/2", ("shard 3/2 does not exist", "1/2 to 2/2")),
    BadInput("shard 0", f"{SCORE} --shard 0/2", ("shard 0/2 does not exist",)),
    BadInput("a shard of none", f"{SCORE} --shard 1/0", ("shard '1/0'", "I/N")),
    BadInput("a negative shard", f"{SCORE} --shard=-1/2", ("shard '-1/2'", "I/N")),
    BadInput("a shard in words", f"{SCORE} --shard one/two", ("shard 'one/two'", "I/N")),
    BadInput("an empty shard", f"{SCORE} --shard ''", ("shard ''", "I/N")),
    BadInput("a shard of 2^64", f"{SCORE} --shard 1/{HUGE}", (f"shard '1/{HUGE}'", "I/N")),
    BadInput("more shards than segments", f"{SCORE} --shard 1/6", ("too few for 6 shards", "use fewer"), torch=True),
    BadInput(
        "orders with statistics that no order changes",
        f"{SCORE} --orders 2 --bn test",
        ("2 orders change nothing with statistics 'test'", "bn='batch'"),
        torch=True,
    ),
    BadInput(
        "orders of a single batch",
        f"{SCORE} --orders 3 --batch-size 50",
        ("3 orders change nothing", "more than one batch"),
        torch=True,
    ),
    BadInput(
        "the recipe of other images",
        "train --recipe nazarick --space digits --out new",
        ("recipe nazarick is for images with 3 channel(s), digits has 1", "give another --recipe or --data"),
    ),
    BadInput("the data of another recipe", f"{TRAIN} --data cifar10", ("recipe digits is for images", "cifar10 has 3")),
    BadInput("the space of another recipe", f"{TRAIN} --space resnet20", ("recipe digits is for images",)),
    BadInput("training on no folder of images", "train --space resnet48 --out new", ("imagenet needs --data-root",)),
    BadInput(
        "training on a folder of images",
        "train --space resnet48 --data-root . --out new",
        (".: has neither train nor val; a folder of images has train/CLASS/FILE and val/CLASS/FILE",),
    ),
    BadInput(
        "a teacher that is not trained",
        f"{TRAIN} --set rule=frozen-teacher --set distill_from=never",
        ("rule=frozen-teacher needs a trained network to learn from", "give --weights"),
    ),
    BadInput(
        "a phase that is left out with what it would have taught",
        "train --space resnet48 --data digits --set phase0_epochs=0 --out new",
        ("rule=frozen-teacher needs a trained network to learn from", "give --weights"),
    ),
    BadInput(
        "the checkpoint of another space",
        f"{SCORE_WITH} --checkpoint resnet20-cifar100 --space digits",
        ("resnet20-cifar100: was trained for space resnet20, not digits", "leave --space out"),
    ),
    BadInput(
        "the checkpoint of other images",
        f"{SCORE} --data cifar100",
        ("was trained on digits, whose classes or image size cifar100 does not have", "leave --data out"),
    ),
    BadInput(
        "a list of another space than the checkpoint",
        f"{SCORE_WITH} --checkpoint resnet20-cifar100 --data-root .",
        ("list.json: ", "resnet20 allows 4, 8, 12, 16"),
    ),
    BadInput("a search in another space", f"{SEARCH} --space resnet20", ("not resnet20", "leave --space out")),
    BadInput("a search on other images", f"{SEARCH} --data cifar10", ("whose classes or image size cifar10",)),
    BadInput(
        "weights of another space",
        f"{TRAIN} --weights resnet20-cifar100 --space digits",
        ("was trained for space resnet20, not digits",),
    ),
    BadInput("weights of other images", f"{TRAIN} --weights resnet20-cifar100", ("recipe digits is for images",)),
    BadInput("one arch per step by the sandwich rule", f"{TRAIN} --n 1", ("n is 1", "at least 2 archs")),
    BadInput(
        "a warm-up as long as the training",
        f"{TRAIN} --set warmup_steps=2",
        ("a warm-up of 2 steps", "training of 2 steps", "--set warmup_steps=0"),
        torch=True,
    ),
    BadInput("resuming what is not there", f"{TRAIN} --resume", ("new: there is no run to resume", "without --resume")),
    BadInput(
        "resuming what shall be deleted",
        f"{TRAIN} --out run --resume --overwrite",
        ("run: --overwrite would delete the run that --resume asks for", "give one of them"),
    ),
    BadInput(
        "a run to resume without settings",
        f"{TRAIN} --out run --resume",
        ("there is no run to resume",),
        removed("run/settings.json"),
    ),
    BadInput("resuming in an empty folder", f"{TRAIN} --resume", ("new: there is no run to resume",), folder("new")),
    BadInput("choosing more images than there are", f"{CHOOSE} --count 598", ("--count 598", "choose 1 to 597")),
    BadInput(
        "choosing by more archs than there are",
        f"{CHOOSE} --archs-scored 6",
        ("has 5 archs, not 6; lower --archs-scored",),
    ),
    BadInput(
        "more images than an image list has",
        f"{SCORE} --images-file images.json --images 21",
        ("the first 21 images were requested", "has 20: choose 1 to 20"),
        torch=True,
    ),
    BadInput(
        "a warm-up alone that is longer than the training",
        f"{STANDALONE} --set warmup_steps=1000",
        ("a warm-up of 1000 steps is not shorter than the training of ", "--set warmup_steps=0"),
        torch=True,
    ),
    BadInput("a device that is not here", f"{SCORE} --device cuda", ("device 'cuda' is not here", "cpu"), torch=True),
    BadInput("training where no such device is", f"{TRAIN} --device cuda", ("device 'cuda' is not here",), torch=True),
    BadInput("a search where no such device is", f"{SEARCH} --device cuda", ("device 'cuda' is not here",), torch=True),
    BadInput(
        "alone where no such device is", f"{STANDALONE} --device cuda", ("device 'cuda' is not here",), torch=True
    ),
    BadInput(
        "scores of another space",
        f"{RANK} --space resnet20",
        ("scores.json: holds scores of space digits, not resnet20", "leave --space out"),
    ),
    BadInput(
        "a submission without its space",
        "rank reference.json reference.json",
        ("reference.json: ", "resnet20 allows 4, 8, 12, 16", "give the search space"),
    ),
    BadInput("a list of another space", "archs check list.json", ("resnet20 allows 4, 8, 12, 16", "the search space")),
    BadInput("a list of widths as digits", f"{CHECK} --space resnet48", ("list.json: ", "resnet48 expects ")),
    BadInput(
        "a reference of other archs",
        "rank scores.json other.json",
        ("the scores lack 1 arch of the reference: other", "give a reference for the archs that were scored"),
        written("other.json", json.dumps({"other": {"acc": 0.5, "arch": ONES}})),
    ),
    BadInput(
        "a reference that shares no arch",
        "rank scores.json other.json --common",
        ("share no arch", "give a reference for the archs that were scored"),
        written("other.json", json.dumps({"other": {"acc": 0.5, "arch": ONES}})),
    ),
    BadInput(
        "a reference whose arch1 is another arch",
        "rank scores.json other.json --common",
        ("arch1 is ", "in the scores but", ONES, "in the reference"),
        written("other.json", json.dumps({"arch1": {"acc": 0.5, "arch": ONES}})),
    ),
    BadInput(
        "a reference that lacks archs",
        "rank scores.json other.json",
        ("the reference lacks 3 archs of the scores: arch3, arch4, arch5", "--common ranks the 2 that both have"),
        several(copied("reference.json", "other.json"), changed("other.json", lambda content: first_archs(content, 2))),
    ),
]


def first_archs(content, count):
    """Return the first archs of a list."""
    return json.dumps(dict(list(json.loads(content).items())[:count])).encode()


# inputs that are not there, or are no files

READERS = [
    ("a list to check", "archs check --space digits {}"),
    ("a list to score", f"{SCORE} --archs {{}}"),
    ("a list to train alone", f"{STANDALONE} --archs {{}}"),
    ("scores", RANK.replace("scores.json", "{}")),
    ("scores to compare with", f"{RANK} --against {{}}"),
    ("the first scores of an ensemble", ENSEMBLE.replace("scores.json", "{}", 1)),
    ("scores of an ensemble", ENSEMBLE.replace("scores.acc.json", "{}", 1)),
    ("reference accuracies", RANK.replace("reference.json", "{}")),
    ("a checkpoint to score", f"{SCORE_WITH} --checkpoint {{}}"),
    ("a checkpoint to search", f"{SEARCH} --checkpoint {{}}"),
    ("weights to train on", f"{TRAIN} --weights {{}}"),
    ("an image list", f"{SCORE} --images-file {{}}"),
]

PLACES = [
    ("is not there", "odd", ("odd: cannot be read (No such file", "check the path"), no_damage),
    ("is a folder", "odd", ("odd: is a folder; give a regular file",), folder("odd")),
    ("is a pipe", "odd", ("odd: is a pipe; give a regular file",), pipe("odd")),
    ("is a device without end", "/dev/zero", ("/dev/zero: is no regular file; give a regular file",), no_damage),
    ("is a link to nothing", "odd", ("odd: cannot be read (No such file",), link("odd", "nowhere")),
    ("is a link to itself", "odd", ("odd: cannot be read (Too many levels of symbolic links",), link("odd", "odd")),
    ("has a name of 300 letters", LONG_NAME, (f"{LONG_NAME}: cannot be read (File name too long",), no_damage),
    ("is below a file", "list.json/odd", ("list.json/odd: cannot be read (Not a directory",), no_damage),
    ("has a name that is not UTF-8", NOT_UTF8, (r"n\udcffme: cannot be read (No such file",), no_damage),
    ("has a name of two lines", "o\ndd", (r"o\ndd: cannot be read (No such file",), no_damage),
    ("has no name", "", (".: is a folder",), no_damage),
]

MISPLACED_INPUTS = [
    BadInput(f"{reader} that {what}", words.format(f"'{path}'"), said, damage)
    for reader, words in READERS
    for what, path, said, damage in PLACES
]


# arch lists and score files

GOOD = f'"good": {{"acc": 0, "arch": "{TWO}"}}'


def listing(entry):
    """Return a list of a good arch and an entry."""
    return f'{{{GOOD}, "bad": {entry}}}'


def coded(code):
    """Return a list of a good arch and an arch with this code, which is JSON text."""
    return listing(f'{{"acc": 0, "arch": {code}}}')


def numbered(number):
    """Return a list of a good arch and an arch with this number."""
    return listing(f'{{"acc": {number}, "arch": "{ONES}"}}')


LISTS = [
    ("is empty", "", ("is empty", "create it again")),
    ("is blank", " \n\t\n", ("is empty",)),
    ("is cut off", f'{{{GOOD}, "bad": {{"acc"', ("is truncated", "create it again")),
    ("is cut off in a name", '{"arch1', ("is truncated",)),
    ("is text", "arch1 16-16-16\n", ("is not JSON",)),
    ("is a table", f"name,acc,arch\narch1,0,{ONES}\n", ("is not JSON",)),
    ("is Python", str({"arch1": {"acc": 0, "arch": ONES}}), ("is not JSON",)),
    ("has a comma too many", f"{{{GOOD},}}", ("is not JSON",)),
    ("is two lists", f"{{{GOOD}}}\n{{{GOOD}}}", ("is not JSON", "Extra data")),
    ("is binary", bytes(range(256)), ("is not UTF-8 text",)),
    ("is zeros", bytes(1000), ("is not JSON",)),
    ("is compressed", gzip.compress(f"{{{GOOD}}}".encode()), ("is not UTF-8 text", "uncompressed")),
    ("is a pickle", pickle.dumps({"arch1": 0}), ("is not UTF-8 text",)),
    ("is UTF-16", f"{{{GOOD}}}".encode("utf-16"), ("is not UTF-8 text",)),
    ("is Latin-1", f'{{"Löwe": {{"acc": 0, "arch": "{ONES}"}}}}'.encode("latin-1"), ("is not UTF-8 text",)),
    ("begins with a byte order mark", f"\ufeff{{{GOOD}}}", ("is not JSON", "BOM")),
    ("is an array", f'["{ONES}"]', ("the file is a list; expected an object",)),
    ("is a number", "17", ("the file is 17; expected an object",)),
    ("is a string", f'"{ONES}"', ("expected an object",)),
    ("is null", "null", ("the file is null; expected an object",)),
    ("is NaN", "NaN", ("the file is NaN; expected an object",)),
    ("has no archs", "{}", ("contains no archs",)),
    ("is nested too deeply", "[" * 100_000, ("is nested too deeply",)),
    ("is objects nested too deeply", '{"a":' * 100_000, ("is nested too deeply",)),
    ("has NaN for a number", numbered("NaN"), ("acc of bad is NaN; expected a finite number",)),
    ("has an infinite number", numbered("-Infinity"), ("acc of bad is -Infinity; expected a finite number",)),
    ("has a number that overflows", numbered("1e999"), ("acc of bad is Infinity; expected a finite number",)),
    ("has an integer beyond all floats", numbered("1" + "0" * 400), ("acc of bad is 1000", "expected a finite number")),
    ("has an integer of 5000 digits", numbered("9" * 5000), ("a number of thousands of digits",)),
    ("has a number in quotes", numbered('"0.5"'), ('acc of bad is "0.5"; expected a finite number',)),
    ("has true for a number", numbered("true"), ("acc of bad is true; expected a finite number",)),
    ("has null for a number", numbered("null"), ("acc of bad is null; expected a finite number",)),
    ("has an array for a number", numbered("[1]"), ("acc of bad is a list; expected a finite number",)),
    ("lacks a number", listing(f'{{"arch": "{ONES}"}}'), ("bad lacks the field 'acc'", "required are acc, arch")),
    ("lacks a code", listing('{"acc": 1}'), ("bad lacks the field 'arch'",)),
    (
        "has a field too many",
        listing(f'{{"acc": 1, "arch": "{ONES}", "loss": 2}}'),
        ("unknown field 'loss'", "acc, arch"),
    ),
    ("has a field twice", listing(f'{{"acc": 1, "acc": 2, "arch": "{ONES}"}}'), ("'acc' appears twice in bad",)),
    ("has null for an arch", listing("null"), ("bad is null; expected an object",)),
    ("has an array for an arch", listing(f'[0, "{ONES}"]'), ("bad is a list; expected an object",)),
    ("has a code alone for an arch", listing(f'"{ONES}"'), ("bad is ", "expected an object")),
    ("has a name twice", f"{{{GOOD}, {GOOD}}}", ("'good' appears twice in the file; keep one",)),
    ("has an arch twice", coded(f'"{TWO}"'), ("good and bad are the same arch", "keep one")),
    ("has an empty name", f'{{"": {{"acc": 0, "arch": "{ONES}"}}}}', ('the name ""', "printable")),
    ("has a name of two lines", f'{{"a\\nb": {{"acc": 0, "arch": "{ONES}"}}}}', (r'the name "a\nb"', "printable")),
    ("has half a character for a name", f'{{"\\ud800": {{"acc": 0, "arch": "{ONES}"}}}}', (r"\ud800", "printable")),
    ("has an escape code for a name", f'{{"\\u001b[2J": {{"acc": 0, "arch": "{ONES}"}}}}', (r"\u001b[2J", "printable")),
    ("has a number for a code", coded("16"), ("arch of bad is 16; expected its code as a string",)),
    ("has null for a code", coded("null"), ("arch of bad is null; expected its code",)),
    ("has an array for a code", coded("[1, 1]"), ("arch of bad is a list; expected its code",)),
    ("has an empty code", coded('""'), ("layer 1 of bad '' is ''; write a width as a plain integer",)),
    ("has a layer too few", coded(f'"{ONES[:-2]}"'), ("has 19 layers; digits has 20",)),
    ("has a layer too many", coded(f'"{ONES}-1"'), ("has 21 layers; digits has 20",)),
    ("has a width that is too large", coded(f'"5{ONES[1:]}"'), ("asks for width 5; digits allows 1, 2, 3, 4",)),
    ("has a width of 0", coded(f'"0{ONES[1:]}"'), ("asks for width 0; digits allows 1, 2, 3, 4",)),
    ("has a negative width", coded(f'"-1{ONES[1:]}"'), ("is ''; write a width as a plain integer",)),
    ("has a width with a point", coded(f'"1.0{ONES[1:]}"'), ("is '1.0'; write a width as a plain integer",)),
    ("has a width with a zero in front", coded(f'"01{ONES[1:]}"'), ("is '01'; write a width",)),
    ("has a width with a space", coded(f'" 1{ONES[1:]}"'), ("is ' 1'; write a width",)),
    ("has a raised width", coded(f'"²{ONES[1:]}"'), ("is '²'; write a width",)),
    ("has a width beyond 2^64", coded(f'"{HUGE}{ONES[1:]}"'), (f"is '{HUGE}'; write a width",)),
    ("has a code of a million letters", coded(f'"{"1-" * 500_000}1"'), ("has 500001 layers; digits has 20",)),
    ("has a width of a million digits", coded(f'"{"1" * 1_000_000}{ONES[1:]}"'), ("write a width as a plain integer",)),
    ("has a name of a million letters", f'{{"{"n" * 1_000_000}": {{"acc": 0, "arch": "1"}}}}', ("has 1 layers",)),
    (
        "is a score file",
        '{"format": "nni-nas-consistency scores 1", "provenance": {}}',
        ("is a score file", "arch list"),
    ),
]

BAD_LISTS = [
    BadInput(
        f"a list that {what}",
        "archs check --space digits bad.json",
        ("bad.json: ", *said),
        written("bad.json", content),
    )
    for what, content, said in LISTS
]

OTHER_READERS = [
    ("a list to score", f"{SCORE} --archs bad.json"),
    ("a list to train alone", f"{STANDALONE} --archs bad.json"),
    ("a submission", "rank bad.json reference.json --space digits"),
    ("a reference", "rank scores.json bad.json"),
]
EVERYWHERE = ("is empty", "is cut off", "is binary", "is an array", "has NaN for a number", "is nested too deeply")

BAD_LISTS += [
    BadInput(f"{reader} that {what}", words, ("bad.json: ", *said), written("bad.json", content))
    for reader, words in OTHER_READERS
    for what, content, said in LISTS
    if what in EVERYWHERE
]

BAD_LISTS += [
    BadInput(
        "scores to be scored", f"{SCORE} --archs scores.json", ("scores.json: is a score file; give an arch list",)
    ),
    BadInput("scores to be trained alone", f"{STANDALONE} --archs scores.json", ("scores.json: is a score file",)),
    BadInput("a checkpoint as a list", f"{SCORE} --archs supernet.safetensors", ("supernet.safetensors: ", "UTF-8")),
    BadInput("a checkpoint as scores", "rank supernet.safetensors reference.json", ("supernet.safetensors: ", "UTF-8")),
]

FORMAT = '"format": "nni-nas-consistency scores 1"'
SCORED = f'"scores": {{"arch1": {{"arch": "{ONES}", "score": 1}}}}'
OF_DIGITS = '"provenance": {"space": "digits"}'

SCORES = [
    (
        "are of the future",
        f'{{"format": "nni-nas-consistency scores 9", {OF_DIGITS}, {SCORED}}}',
        ("scores 9", "scores 1"),
    ),
    ("are of an unknown format", f'{{"format": "csv", {OF_DIGITS}, {SCORED}}}', ('has format "csv"', "scores 1")),
    ("have no scores", f"{{{FORMAT}, {OF_DIGITS}}}", ("the file lacks the field 'scores'", "required are")),
    ("have no provenance", f"{{{FORMAT}, {SCORED}}}", ("provenance", "expected an object")),
    ("have an array as provenance", f'{{{FORMAT}, "provenance": [], {SCORED}}}', ("provenance is a list",)),
    ("have a text as provenance", f'{{{FORMAT}, "provenance": "digits", {SCORED}}}', ('provenance is "digits"',)),
    (
        "have a field too many",
        f'{{{FORMAT}, {OF_DIGITS}, {SCORED}, "x": 1}}',
        ("unknown field 'x'", "format, provenance"),
    ),
    ("have a field twice", f"{{{FORMAT}, {OF_DIGITS}, {SCORED}, {SCORED}}}", ("'scores' appears twice in the file",)),
    ("are an array", f'{{{FORMAT}, {OF_DIGITS}, "scores": [1]}}', ("scores is a list; expected an object",)),
    ("are none", f'{{{FORMAT}, {OF_DIGITS}, "scores": {{}}}}', ("contains no archs",)),
    ("have an acc", f'{{{FORMAT}, {OF_DIGITS}, "scores": {{{GOOD}}}}}', ("lacks the field 'score'", "score, arch")),
    ("are NaN", f"{{{FORMAT}, {OF_DIGITS}, {SCORED.replace('1}}', 'NaN}}')}}}", ("score of arch1 is NaN",)),
    (
        "have NaN in their provenance",
        f'{{{FORMAT}, "provenance": {{"space": "digits", "a": [NaN]}}, {SCORED}}}',
        ("NaN",),
    ),
    ("have a setting twice", f'{{{FORMAT}, "provenance": {{"a": 1, "a": 2}}, {SCORED}}}', ("'a' appears twice",)),
    ("are of an unknown space", f'{{{FORMAT}, "provenance": {{"space": "darts"}}, {SCORED}}}', ("darts", "resnet20, ")),
    ("have a number as space", f'{{{FORMAT}, "provenance": {{"space": 20}}, {SCORED}}}', ("space 20", "resnet20, ")),
    ("have an array as space", f'{{{FORMAT}, "provenance": {{"space": [1]}}, {SCORED}}}', ("a list", "resnet20, ")),
    ("are cut off", f"{{{FORMAT}, {OF_DIGITS}, ", ("is truncated",)),
    (
        "have a provenance nested too deeply",
        f'{{{FORMAT}, "provenance": {{"space": "digits", "a": {"[" * 900}{"]" * 900}}}, {SCORED}}}',
        ("is nested too deeply",),
    ),
]

BAD_SCORES = [
    BadInput(f"scores that {what}", "rank bad.json reference.json", ("bad.json: ", *said), written("bad.json", content))
    for what, content, said in SCORES
]

IMAGE_FORMAT = '"format": "nni-nas-consistency images 1"'


def image_list(images, head=f'{IMAGE_FORMAT}, "data": "digits"'):
    """Return the JSON text of an image list."""
    return f'{{{head}, "images": {images}, "provenance": {{}}}}'


IMAGE_LISTS = [
    ("is empty", "", ("is empty",)),
    ("is cut off", image_list("[1, 2")[:-30], ("is truncated",)),
    ("is an array", "[1, 2, 3]", ("the file is a list; expected an object",)),
    ("is nested too deeply", "[" * 100_000, ("is nested too deeply",)),
    ("is a list of archs", f"{{{GOOD}}}", ("the file lacks the field 'format'", "required are")),
    ("has no images", image_list("[]"), ("names no images; make one with `images choose`",)),
    ("has a number for its images", image_list("5"), ("names no images",)),
    ("has an image beyond the last", image_list("[0, 597]"), ("names the image 597", "from 0 to 596")),
    ("has a negative image", image_list("[-1]"), ("names the image -1", "from 0 to 596")),
    ("has image 2^64", image_list(f"[{HUGE}]"), (f"names the image {HUGE}",)),
    ("has half an image", image_list("[0.5]"), ("names the image 0.5",)),
    ("has NaN for an image", image_list("[NaN]"), ("names the image NaN",)),
    ("has true for an image", image_list("[true]"), ("names the image true",)),
    ("has an image in words", image_list('["first"]'), ('names the image "first"',)),
    ("has an object for an image", image_list('[{"a": 1}]'), ("names the image an object",)),
    ("has an image twice", image_list("[3, 3]"), ("image 3 appears twice; keep one",)),
    ("is of other images", image_list("[0]", f'{IMAGE_FORMAT}, "data": "cifar10"'), ('of "cifar10", not of "digits"',)),
    ("is of an array of images", image_list("[0]", f'{IMAGE_FORMAT}, "data": []'), ('of a list, not of "digits"',)),
    (
        "is of the future",
        image_list("[0]", '"format": "images 2", "data": "digits"'),
        ('the format "images 2"', "images 1"),
    ),
    ("has a number as format", image_list("[0]", '"format": 1, "data": "digits"'), ("the format 1, not",)),
]

BAD_SCORES += [
    BadInput(
        f"an image list that {what}",
        f"{SCORE} --images-file bad.json",
        ("bad.json: ", *said),
        written("bad.json", content),
    )
    for what, content, said in IMAGE_LISTS
]


# checkpoints of supernets

NOT_SAFETENSORS = "is not a safetensors file"
NO_CHECKPOINT = "is not a supernet checkpoint"

FILES = [
    ("is empty", b"", (NOT_SAFETENSORS, "nni-consistency train")),
    ("has a few bytes", b"abc", (NOT_SAFETENSORS,)),
    ("is text", b"weights = 3\n" * 10, ("is not a ",)),
    ("is JSON", b'{"format": "nni-nas-consistency supernet 2"}', ("is not a ",)),
    ("is a pickle that makes a folder", pickle.dumps(Malice()), ("is not a ",)),
    ("is a zip file", zipped("data.pkl"), ("is not a ",)),
    ("is zeros", bytes(1000), ("is not a ",)),
    ("says that its header has 2^63 bytes", (2**63).to_bytes(8, "little") + b"{}", ("is not a ",)),
    ("ends in its header", safetensors({"__metadata__": {"format": "nni"}})[:-4], (NOT_SAFETENSORS,)),
    ("has a header that is no JSON", safetensors(b"{__metadata__}"), (NOT_SAFETENSORS,)),
    ("has a header that is not UTF-8", safetensors(b'{"\xff": 1}'), (NOT_SAFETENSORS,)),
    ("has a header nested too deeply", safetensors(b"[" * 100_000), (NOT_SAFETENSORS,)),
    ("has an array as header", safetensors([]), (NOT_SAFETENSORS,)),
    ("has a number as header", safetensors(3), (NOT_SAFETENSORS,)),
    ("has no metadata", safetensors({}), (NO_CHECKPOINT,)),
    ("has an array as metadata", safetensors({"__metadata__": []}), (NO_CHECKPOINT,)),
    ("has null as metadata", safetensors({"__metadata__": None}), (NO_CHECKPOINT,)),
    ("has the metadata of others", safetensors({"__metadata__": {"format": "pt"}}), (NO_CHECKPOINT,)),
]

CHECKPOINTS = [
    BadInput(
        f"a checkpoint that {what}",
        f"{SCORE_WITH} --checkpoint bad",
        ("bad: ", *said, "train` writes one"),
        written("bad", content),
    )
    for what, content, said in FILES
]

NO_SPACE = ("its metadata has no text 'space'", "copy or train it again")
NO_ABOUT = ("its metadata has no text 'about'", "copy or train it again")
SPACE_UNREADABLE = ("'space' of its metadata is not JSON", "copy or train it again")
ABOUT_UNREADABLE = ("'about' of its metadata is not JSON", "copy or train it again")

METADATA = [
    ("of format 9", metadata(format="nni-nas-consistency supernet 9"), (NO_CHECKPOINT,)),
    ("without a format", metadata(format=None), (NO_CHECKPOINT,)),
    ("with a number as format", header(lambda h: h["__metadata__"].update(format=2)), (NO_CHECKPOINT,)),
    ("with an array as format", header(lambda h: h["__metadata__"].update(format=["a"])), (NO_CHECKPOINT,)),
    ("without a space", metadata(space=None), NO_SPACE),
    ("with an empty space", metadata(space=""), SPACE_UNREADABLE),
    ("with a space that is no JSON", metadata(space="ResNet20Space(10, 1, 8)"), SPACE_UNREADABLE),
    ("with an object as space", header(lambda h: h["__metadata__"].update(space={"class": "A"})), NO_SPACE),
    ("with null as space", metadata(space="null"), ("space is null; expected an object",)),
    ("with an array as space", metadata(space='["ResNet20Space"]'), ("space is a list; expected an object",)),
    ("with a text as space", metadata(space='"digits"'), ('space is "digits"; expected an object',)),
    ("with NaN as space", metadata(space="NaN"), ("space is NaN; expected an object",)),
    (
        "with NaN in its space",
        metadata(space='{"class": "ResNet20Space", "width_unit": NaN}'),
        ("space width_unit is NaN; expected a finite number",),
    ),
    ("with a space nested too deeply", metadata(space="[" * 100_000), ("nested too deeply", "copy or train it again")),
    ("of the class of an array", inside("space", **{"class": []}), ("different space than resnet20", "class []")),
    (
        "of an unknown class",
        inside("space", **{"class": "Darts"}),
        ("different space than resnet20, resnet48, ", "class 'Darts'", "in Python"),
    ),
    ("of another width unit", inside("space", width_unit=2), ("different space than resnet20", "width_unit 2")),
    ("without about", metadata(about=None), NO_ABOUT),
    ("with an about that is no JSON", metadata(about="{"), ABOUT_UNREADABLE),
    ("with an array as about", metadata(about="[]"), ("about is a list; expected an object",)),
    ("with a number as about", metadata(about="3"), ("about is 3; expected an object",)),
    ("with NaN in its about", metadata(about='{"seed": NaN}'), ("about seed is NaN; expected a finite number",)),
    ("with Infinity in its about", metadata(about='{"lr": [1, {"a": Infinity}]}'), ("about lr a is Infinity",)),
    ("with a number beyond all floats", metadata(about='{"lr": 1e999}'), ("about lr is Infinity",)),
    ("with an integer of 5000 digits", metadata(about=f'{{"seed": {"9" * 5000}}}'), ("'about'",)),
    ("with an about nested too deeply", metadata(about='{"a":' * 100_000), ("nested too deeply",)),
    (
        "with an about that is nearly too deep",
        metadata(about=f'{{"a": {"[" * 900}{"]" * 900}}}'),
        ("nested too deeply", "copy or train it again"),
    ),
    (
        "with a number as sharing",
        header(lambda h: h["__metadata__"].update(sharing=3)),
        ("its sharing is 3; expected",),
    ),
    ("with an unknown sharing", metadata(sharing="conv=low-rank"), ("sharing conv=low-rank: ", "use the version that")),
    ("with an empty sharing", metadata(sharing=""), ("sharing '' cannot be read", "use the version that")),
    ("with a data set that is an array", inside("about", data=["digits"]), ("'data'", "['digits']")),
    ("with a data set that is a number", inside("about", data=10), ("'data'", "10")),
]

CHECKPOINTS += [
    BadInput(f"a checkpoint {what}", SCORE, ("supernet.safetensors: ", *said), damage)
    for what, damage, said in METADATA
]


def tensor(name, **changes):
    """Return what changes what the header says about a tensor."""
    return header(lambda before: before[name].update(changes))


def weights(change):
    """Return what saves a supernet with other weights, as a training would that went wrong."""

    def damage():
        import torch
        from helpers import tiny_supernet

        from nni_nas_consistency import save_supernet

        supernet = tiny_supernet(torch.float32)
        with torch.no_grad():
            change(supernet)
        save_supernet(Path("supernet.safetensors"), supernet, {"space": "digits", "data": "digits"})

    return damage


STEM = "links.0.conv.conv.weight"

DAMAGED_HEADERS = [
    ("without tensors", written("supernet.safetensors", b""), ()),
    ("with a negative size", tensor(STEM, shape=[-4, 1, 3, 3]), ()),
    ("with a size beyond 2^64", tensor(STEM, shape=[2**64, 1, 3, 3]), ()),
]

CHECKPOINTS += [
    BadInput(f"a checkpoint {what}", SCORE, ("supernet.safetensors: ", *said), damage)
    for what, damage, said in DAMAGED_HEADERS
]

TENSORS = [
    ("with a number of classes in words", inside("space", num_classes="ten"), ("num_classes 'ten' instead of 10",)),
    ("with a million classes", inside("space", num_classes=10**6), ("num_classes 1000000 instead of 10",)),
    ("with an argument too many", inside("space", depth=20), ("depth 20 instead of None",)),
    ("with the sharing of another", metadata(sharing="conv=end,bn=full,fc=full"), ("links.0.conv.conv.out1.weight",)),
    ("whose last kilobyte is missing", shortened("supernet.safetensors", -1000), ()),
    ("with a kilobyte too many", changed("supernet.safetensors", lambda content: content + bytes(1000)), ()),
    ("without a tensor", header(lambda before: before.pop(STEM)), ()),
    ("with an unknown type", tensor(STEM, dtype="F7"), ()),
    ("with integers as weights", tensor(STEM, dtype="I32"), ()),
    ("with weights of another shape", tensor(STEM, shape=[2, 2, 3, 3]), (STEM, "(2, 2, 3, 3)")),
    ("with a shape that needs more bytes", tensor(STEM, shape=[4, 2, 3, 3]), ()),
    ("with a place beyond the file", tensor(STEM, data_offsets=[10**9, 10**9 + 144]), ()),
    ("with two tensors in one place", tensor(STEM, data_offsets=[0, 144]), ()),
    ("with a tensor of another name", header(lambda before: before.update(stem=before.pop(STEM))), ()),
]

CHECKPOINTS += [
    BadInput(f"a checkpoint {what}", SCORE, ("supernet.safetensors: ", *said), damage, torch=True)
    for what, damage, said in TENSORS
]

CHECKPOINTS += [
    BadInput(
        "weights to train on that are cut off",
        f"{TRAIN} --weights supernet.safetensors",
        ("supernet.safetensors: cannot be read", "copy or train it again"),
        shortened("supernet.safetensors", -1000),
        torch=True,
    ),
    BadInput(
        "weights to train on with kernels that would have to become one",
        f"{TRAIN} --weights supernet.safetensors --sharing conv=end:4",
        ("supernet.safetensors, of conv=end,bn=full,fc=full, cannot start one of conv=end:4,", "or leave it out"),
        metadata(sharing="conv=end,bn=full,fc=full"),
    ),
    BadInput(
        "a checkpoint to search that is cut off",
        SEARCH,
        ("supernet.safetensors: cannot be read", "copy or train it again"),
        shortened("supernet.safetensors", -1000),
        torch=True,
    ),
    BadInput(
        "a checkpoint of a training that diverged",
        SCORE,
        ("the loss of arch", "is nan", "the supernet has diverged: take an earlier checkpoint"),
        weights(lambda supernet: supernet.links[0].conv.conv.weight.fill_(float("nan"))),
        code=1,
        torch=True,
    ),
    BadInput(
        "a search on a training that diverged",
        SEARCH,
        ("is nan", "the supernet has diverged: take an earlier checkpoint"),
        weights(lambda supernet: supernet.links[-1].linear.bias.fill_(float("nan"))),
        code=1,
        torch=True,
    ),
    BadInput(
        "weights to train on that diverged",
        f"{TRAIN} --weights supernet.safetensors",
        ("the loss of arch", "nan"),
        weights(lambda supernet: supernet.links[-1].linear.bias.fill_(float("nan"))),
        code=1,
        torch=True,
    ),
    BadInput("a list as a checkpoint", f"{SCORE_WITH} --checkpoint list.json", ("list.json: is not a ",)),
    BadInput(
        "an unknown supernet of the package", f"{SCORE_WITH} --checkpoint resnet20-cifar10", ("resnet20-cifar100",)
    ),
    BadInput(
        "a folder of a run as a checkpoint",
        f"{SCORE_WITH} --checkpoint run",
        ("run: is a folder", "supernet.safetensors"),
    ),
    BadInput(
        "a checkpoint of Lightning",
        f"{SCORE_WITH} --checkpoint run/checkpoints/last.ckpt",
        ("last.ckpt: is not a ", "train` writes one"),
    ),
]


# outputs

FILE_WRITERS = [
    ("the scores of score", SCORE),
    ("the scores of search", SEARCH),
    ("a sample", SAMPLE),
    ("an image list", CHOOSE),
]

FILE_PLACES = [
    ("is a folder", "odd", ("odd: is a folder; name a file to write",), folder("odd")),
    ("is a pipe", "odd", ("odd: is a pipe; name a file to write",), pipe("odd")),
    ("is a device", "/dev/full", ("/dev/full: is no regular file; name a file to write",), no_damage),
    ("is a link to nothing", "odd", ("odd: is a link to a file that is not there",), link("odd", "nowhere")),
    ("is a link to itself", "odd", ("odd: is a link to a file that is not there",), link("odd", "odd")),
    ("is in a folder that is not there", "new/odd", ("new/odd: there is no folder new; make it",), no_damage),
    ("is below a file", "list.json/odd", ("list.json/odd: ", "choose another --out"), no_damage),
    (
        "is where nobody can write",
        "/proc/odd",
        ("/proc/odd: nothing can be written into /proc", "choose another"),
        no_damage,
    ),
    ("has a name of 300 letters", LONG_NAME, (f"{LONG_NAME}: ", "File name too long", "choose another"), no_damage),
    ("has a name of 220 letters", "n" * 220, ("the name is too long; choose another",), no_damage),
    ("has a path of 5000 letters", "n/" * 2500 + "n", ("File name too long", "choose another --out"), no_damage),
    ("has no name", "", (".: is a folder; name a file",), no_damage),
    ("is the folder above", "..", ("..: is a folder; name a file",), no_damage),
]

OUTPUTS = [
    BadInput(f"{writer} whose file {what}", f"{words} --out '{path}'", said, damage)
    for writer, words in FILE_WRITERS
    for what, path, said, damage in FILE_PLACES
]

FOLDER_WRITERS = [
    ("the run of train", f"{TRAIN} --out {{}}"),
    ("the run of quickstart", f"{QUICKSTART} --out {{}}"),
    ("the accuracies of standalone", f"{STANDALONE} --out {{}}"),
    ("a report", f"{RANK} --report {{}}"),
]

FOLDER_PLACES = [
    ("is a file", "list.json", ("list.json: ",), no_damage),
    ("is below a file", "list.json/odd", ("list.json/odd: ",), no_damage),
    ("is a pipe", "odd", ("odd: ",), pipe("odd")),
    ("is a device", "/dev/null", ("/dev/null: ",), no_damage),
    ("is a link to nothing", "odd", ("odd: ",), link("odd", "nowhere")),
    ("is a link to itself", "odd", ("odd: ",), link("odd", "odd")),
    ("is where nobody can write", "/proc/odd/new", ("/proc/odd/new: ",), no_damage),
    ("has a name of 300 letters", LONG_NAME, (f"{LONG_NAME}: ", "File name too long"), no_damage),
]

OUTPUTS += [
    BadInput(f"{writer} whose folder {what}", words.format(f"'{path}'"), (*said, "choose another"), damage)
    for writer, words in FOLDER_WRITERS
    for what, path, said, damage in FOLDER_PLACES
]

TAKEN = [
    ("the lock of a run", TRAIN, "new/lock", folder, ("choose another --out",)),
    ("the checkpoints of a run", TRAIN, "new/checkpoints", lambda path: written(path, "x"), ("is there already",)),
    ("the metrics of a run", TRAIN, "new/metrics", lambda path: written(path, "x"), ("is there already",)),
    ("the supernet of a run", TRAIN, "new/supernet.safetensors", folder, ("is there already",)),
    ("the settings of a run", TRAIN, "new/settings.json", folder, ("is a folder",)),
    ("the seeds of references", STANDALONE, "new/seeds", lambda path: written(path, "x"), ("is there already",)),
    ("the mean of references", STANDALONE, "new/reference.json", folder, ("is there already",)),
    ("what is about references", STANDALONE, "new/about.json", folder, ("is there already",)),
    ("the page of a report", f"{RANK} --report new", "new/report.html", folder, ("is a folder",)),
    ("the JSON of a report", f"{RANK} --report new", "new/report.json", folder, ("is a folder",)),
    ("a plot of a report", f"{RANK} --report new", "new/ranks.png", folder, ("is a folder",)),
    ("the scores of quickstart", QUICKSTART, "new/scores.json", folder, ("is a folder",)),
    ("the report of quickstart", QUICKSTART, "new/report.html", folder, ("is a folder",)),
    ("the submission of scores", SCORE, "out.submission.json", folder, ("is a folder",)),
    ("the other metric of scores", SCORE, "out.acc.json", folder, ("is a folder",)),
    ("the journal of scores", SCORE, "out.journal", folder, ("(Is a directory)",)),
    ("the journal of a search", SEARCH, "out.journal", folder, ("(Is a directory)",)),
]

OUTPUTS += [
    BadInput(
        f"something else in the place of {what}",
        words,
        (f"{path}: ", *said),
        taken(path),
        torch=words in (TRAIN, STANDALONE) or path.endswith("journal"),
    )
    for what, words, path, taken, said in TAKEN
]

OUTPUTS += [
    BadInput("scores over their list", f"{SCORE} --out list.json --overwrite", ("list.json: is an input of this job",)),
    BadInput("scores over their checkpoint", f"{SCORE} --out supernet.safetensors", ("is an input of this job",)),
    BadInput(
        "a search over its checkpoint", f"{SEARCH} --out supernet.safetensors --overwrite", ("is an input of this job",)
    ),
    BadInput(
        "scores over the link to their list",
        f"{SCORE} --out alias.json",
        ("alias.json: is an input of this job",),
        link("alias.json", "list.json"),
    ),
    BadInput(
        "scores over other scores",
        f"{SCORE} --out scores.json --metric acc",
        ("scores.json: is there already", "choose another --out, or --overwrite it"),
        torch=True,
    ),
    BadInput(
        "a search over scores",
        f"{SEARCH} --out scores.json",
        ("scores.json: holds something else than this search", "or --overwrite it"),
        torch=True,
    ),
    BadInput("an image list over its list", f"{CHOOSE} --out list.json", ("list.json: is an input of this job",)),
    BadInput(
        "an image list over another file",
        f"{CHOOSE} --out scores.json",
        ("scores.json: is there already", "choose another --out, or --overwrite it"),
    ),
    BadInput(
        "scores over their image list", f"{SCORE} --images-file images.json --out images.json", ("is an input of",)
    ),
    BadInput("a search over a text", SEARCH, ("out.json: is not JSON",), written("out.json", "mine"), torch=True),
    BadInput(
        "scores over a text",
        SCORE,
        ("out.json: is there already", "choose another --out, or --overwrite it"),
        written("out.json", "mine"),
        torch=True,
    ),
    BadInput(
        "training on what the run would write",
        f"train --recipe digits --epochs 1 {FEW} --out run --weights run/supernet.safetensors",
        ("run/supernet.safetensors: is what this run would write; give another --out",),
        torch=True,
    ),
]


# folders of runs

AGAIN = f"train --recipe digits --epochs 1 {FEW} --out run"
ON = f"train --recipe digits --epochs 1 {FEW} --out killed"
SETTINGS = "run/settings.json"

RUNS = [
    BadInput("a run with another seed", f"{AGAIN} --seed 1", ("run: holds a run with seed 0, not 1", "--overwrite it")),
    BadInput("a run with other archs per step", f"{AGAIN} --n 4", ("run: holds a run with n 3, not 4",)),
    BadInput("a run with another step", f"{AGAIN} --step sliced", ("step 'auto', not 'sliced'",)),
    BadInput(
        "a run resumed with another rate", f"{AGAIN} --resume --set lr=0.3", ("holds a run with lr 0.2, not 0.3",)
    ),
    BadInput("a run on more images", f"{AGAIN} --train-images 65", ("holds a run with images 64, not 65",)),
    BadInput("settings that are empty", AGAIN, ("settings.json: is empty",), written(SETTINGS, "")),
    BadInput("settings that are cut off", AGAIN, ("settings.json: is truncated",), shortened(SETTINGS, 20)),
    BadInput("settings that are an array", AGAIN, ("settings.json: the file is a list",), written(SETTINGS, "[]")),
    BadInput("settings that are null", AGAIN, ("settings.json: the file is null",), written(SETTINGS, "null")),
    BadInput("settings that are binary", AGAIN, ("settings.json: is not UTF-8",), written(SETTINGS, b"\xff\xfe")),
    BadInput("settings that are zeros", AGAIN, ("settings.json: is not JSON",), written(SETTINGS, bytes(100))),
    BadInput("settings with NaN", AGAIN, ("settings.json: lr is NaN",), fields(SETTINGS, lr=float("nan"))),
    BadInput("settings with a seed in words", AGAIN, ("seed 'zero', not 0",), fields(SETTINGS, seed="zero")),
    BadInput("settings with an array as seed", AGAIN, ("seed [0], not 0",), fields(SETTINGS, seed=[0])),
    BadInput("settings with an object as seed", AGAIN, ("seed {'a': 1}, not 0",), fields(SETTINGS, seed={"a": 1})),
    BadInput(
        "settings of the future",
        AGAIN,
        ("holds a run with optimizer 'adam', not None",),
        fields(SETTINGS, optimizer="adam"),
    ),
    BadInput("settings that lack everything", AGAIN, ("run: holds a run with ", "not "), written(SETTINGS, "{}")),
    BadInput(
        "settings with a key twice", AGAIN, ("'seed' appears twice",), written(SETTINGS, '{"seed": 0, "seed": 1}')
    ),
    BadInput("settings nested too deeply", AGAIN, ("is nested too deeply",), written(SETTINGS, '{"a":' * 100_000)),
    BadInput("settings with a byte order mark", AGAIN, ("BOM",), changed(SETTINGS, lambda c: b"\xef\xbb\xbf" + c)),
    BadInput("settings that are a folder", AGAIN, ("is a folder",), several(removed(SETTINGS), folder(SETTINGS))),
    BadInput("settings that are a pipe", AGAIN, ("is a pipe",), several(removed(SETTINGS), pipe(SETTINGS))),
    BadInput(
        "settings that are a link to nothing",
        AGAIN,
        ("settings.json: cannot be read (No such file",),
        several(removed(SETTINGS), link(SETTINGS, "nowhere")),
    ),
    BadInput("a run without its settings", AGAIN, ("is there already, without the settings",), removed(SETTINGS)),
]

LAST = "killed/checkpoints/last.ckpt"
NEXT = "delete it, and the run begins anew"
VERSION = "pytorch-lightning_version"


def without(key):
    return lambda content: {name: value for name, value in content.items() if name != key}


def with_field(**changes):
    return lambda content: content | changes


def bit_flipped(content):
    """Return a file with a bit flipped in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


NO_SEAL = ("is cut off, or is no checkpoint of a training run", NEXT)
NO_CHECKPOINT_OF_A_RUN = ("is no checkpoint of a training run", NEXT)
OTHER_RUN = ("was made with other settings than those of the run", "give another --out, or --overwrite")
NOT_GONE_ON = ("cannot be gone on from", NEXT)

LAST_CHECKPOINTS = [
    ("that is empty", written(LAST, b""), NO_SEAL),
    ("that is text", written(LAST, "garbage"), NO_SEAL),
    ("that is zeros", written(LAST, bytes(10_000)), NO_SEAL),
    ("that is cut off", shortened(LAST, -1000), NO_SEAL),
    ("that is half there", shortened(LAST, 20_000), NO_SEAL),
    ("that is another zip file", written(LAST, zipped("data.txt")), NO_SEAL),
    ("that is a pickle which makes a folder", written(LAST, pickle.dumps(Malice())), NO_SEAL),
    (
        "that is such a pickle, sealed",
        written(LAST, sealed(pickle.dumps(Malice()) + b"\0\0")),
        ("cannot be read", NEXT),
    ),
    ("that is a zip file, sealed", written(LAST, sealed(zipped("data.txt"))), ("cannot be read", NEXT)),
    ("with a bit flipped", changed(LAST, bit_flipped), ("is damaged: the SHA-256 of its content is", NEXT)),
    ("that holds a list", training(LAST, lambda content: [1, 2]), NO_CHECKPOINT_OF_A_RUN),
    ("that holds nothing", training(LAST, lambda content: {}), NO_CHECKPOINT_OF_A_RUN),
    ("of another run", training(LAST, with_field(run="0" * 64)), OTHER_RUN),
    ("of no run", training(LAST, without("run")), OTHER_RUN),
    ("with an array as run", training(LAST, with_field(run=[1])), OTHER_RUN),
    ("without weights", training(LAST, without("state_dict")), NO_CHECKPOINT_OF_A_RUN),
    ("with an array as weights", training(LAST, with_field(state_dict=[1])), NO_CHECKPOINT_OF_A_RUN),
    ("with no weights in it", training(LAST, with_field(state_dict={})), NOT_GONE_ON),
    ("with texts as weights", training(LAST, with_field(state_dict={"model.links.0": "x"})), NOT_GONE_ON),
    ("without optimizers", training(LAST, without("optimizer_states")), NO_CHECKPOINT_OF_A_RUN),
    ("with a number as optimizers", training(LAST, with_field(optimizer_states=3)), NO_CHECKPOINT_OF_A_RUN),
    ("with a foreign optimizer", training(LAST, with_field(optimizer_states=[{"state": 1}])), NOT_GONE_ON),
    ("with a text as schedules", training(LAST, with_field(lr_schedulers="cosine")), NO_CHECKPOINT_OF_A_RUN),
    ("with a foreign schedule", training(LAST, with_field(lr_schedulers=[3])), NOT_GONE_ON),
    ("without loops", training(LAST, without("loops")), NO_CHECKPOINT_OF_A_RUN),
    ("with foreign loops", training(LAST, with_field(loops={"fit_loop": 3})), NOT_GONE_ON),
    ("with an epoch in words", training(LAST, with_field(epoch="one")), NO_CHECKPOINT_OF_A_RUN),
    ("with an array as callbacks", training(LAST, with_field(callbacks=[1])), NO_CHECKPOINT_OF_A_RUN),
    ("with a version that is a number", training(LAST, with_field(**{VERSION: 2})), NO_CHECKPOINT_OF_A_RUN),
    ("with a version that is no version", training(LAST, with_field(**{VERSION: "x"})), NOT_GONE_ON),
]

RUNS += [
    BadInput(f"a checkpoint of a run {what}", ON, ("last.ckpt: ", *said), damage)
    for what, damage, said in LAST_CHECKPOINTS
]

RUNS += [
    BadInput(
        "a checkpoint of a run that is a folder", ON, ("last.ckpt: is a folder",), several(removed(LAST), folder(LAST))
    ),
    BadInput("a checkpoint of a run that is a pipe", ON, ("last.ckpt: is a pipe",), several(removed(LAST), pipe(LAST))),
    BadInput(
        "a checkpoint of a run that is a device",
        ON,
        ("last.ckpt: is no regular file",),
        several(removed(LAST), link(LAST, "/dev/zero")),
    ),
]

ALONE = STANDALONE.replace("--out new", "--out alone")
SEED = "alone/seeds/0.json"

RUNS += [
    BadInput("accuracies of longer trainings", f"{ALONE} --epochs 2", ("alone: holds a run with optimization ",)),
    BadInput("accuracies of more archs", f"{ALONE} --limit 3", ("alone: holds a run with archs ", "--overwrite it")),
    BadInput(
        "accuracies whose settings are cut off", ALONE, ("settings.json: is ",), shortened("alone/settings.json", 9)
    ),
    BadInput("a seed that is empty", ALONE, ("0.json: is empty",), written(SEED, "")),
    BadInput("a seed that is cut off", ALONE, ("0.json: is truncated",), shortened(SEED, 30)),
    BadInput("a seed with NaN", ALONE, ("0.json: acc of arch1 is NaN",), changed(SEED, lambda c: nan_first(c))),
    BadInput(
        "a seed of other archs", ALONE, ("0.json: holds other archs than the list",), copied("reference.json", SEED)
    ),
    BadInput("a seed that is a folder", ALONE, ("0.json: is a folder",), several(removed(SEED), folder(SEED))),
    BadInput("a seed that is a pipe", ALONE, ("0.json: is a pipe",), several(removed(SEED), pipe(SEED))),
    BadInput("a seed that is binary", f"{ALONE} --seeds 2", ("0.json: is not UTF-8",), written(SEED, b"\xff")),
]

RUNS = [replace(row, torch=True) for row in RUNS]


def nan_first(content):
    """Return a list whose first accuracy is NaN."""
    entries = json.loads(content)
    entries["arch1"]["acc"] = float("nan")
    return json.dumps(entries).encode()


# journals

HALF = f"{SCORE} --out half.json --shard 1/2"
OTHER_HALF = f"{SCORE} --out half.json --shard 2/2"
HALF_JOURNAL = "half.shard1of2.journal"
FOREIGN = ("is not a scoring journal; move it away",)
AGAIN_SCORED = "delete the line, and the segment is scored again"
NO_SEGMENT = ("is no finished segment", AGAIN_SCORED)


def head(**changes):
    return lambda first, rest: [first | changes, *rest]


def line(text):
    return lambda first, rest: [first, *rest, text]


def segment(index=0, loss=(-1.0,), acc=(0.5,)):
    return lambda first, rest: [first, *rest, [index, {"loss": list(loss), "acc": list(acc)}]]


NESTED = "[" * 100_000

JOURNALS = [
    ("that is a text", HALF, lambda first, rest: ["my notes", "two lines"], FOREIGN),
    ("without a head", HALF, lambda first, rest: rest, FOREIGN),
    ("whose head is a number", HALF, lambda first, rest: [3, *rest], FOREIGN),
    ("whose head is an array", HALF, lambda first, rest: [[1, 2], *rest], FOREIGN),
    ("whose head has no format", HALF, lambda first, rest: [{"metric": "loss"}, *rest], FOREIGN),
    ("of the future", HALF, head(format="nni-nas-consistency journal 9"), FOREIGN),
    ("whose format is an array", HALF, head(format=["a"]), FOREIGN),
    ("whose head is nested too deeply", HALF, lambda first, rest: [NESTED, *rest], FOREIGN),
    ("of another metric", HALF, head(metric="acc"), ('metric "acc" instead of "loss"', "use the same settings")),
    ("of other images", HALF, head(images=51), ("images 51 instead of 50", "use the same settings")),
    ("with a setting that is an array", HALF, head(bn=["batch"]), ('bn ["batch"] instead of "batch"',)),
    ("with a line that is a number", HALF, line("3"), ("expected a list of its index and its scores", *NO_SEGMENT)),
    ("with a line that is an object", HALF, line("{}"), ("expected a list of its index and its scores", *NO_SEGMENT)),
    ("with a line of three", HALF, line("[0, {}, 1]"), NO_SEGMENT),
    ("with a segment in words", HALF, segment("0"), ('its index is "0"; expected 0, 1, 2', *NO_SEGMENT)),
    ("with a segment that is an array", HALF, segment([0]), ("its index is a list", *NO_SEGMENT)),
    ("with a segment that is true", HALF, segment(True), ("its index is true", *NO_SEGMENT)),
    ("with a negative segment", HALF, segment(-1), ("its index is -1", *NO_SEGMENT)),
    (
        "with a segment that the list does not have",
        HALF,
        segment(5),
        ("segment 5 are {'loss': 1, 'acc': 1}, expected no such segment",),
    ),
    ("with segment 2^64", HALF, segment(2**64), (f"segment {HUGE} are ", "expected no such segment")),
    ("with null for scores", HALF, line("[0, null]"), ("is null; expected an object", *NO_SEGMENT)),
    ("with no scores", HALF, line("[0, {}]"), ("its metrics are none; allowed are loss, acc", *NO_SEGMENT)),
    (
        "with an unknown metric",
        HALF,
        line('[0, {"loss": [1], "auc": [1]}]'),
        ("its metrics are loss, auc", *NO_SEGMENT),
    ),
    (
        "with one metric only",
        HALF,
        line('[0, {"acc": [0.5]}]'),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    ("with a number for a metric", HALF, line('[0, {"acc": 0.5, "loss": 1}]'), ("its loss is 1; expected a list",)),
    (
        "with too few scores",
        HALF,
        segment(loss=[], acc=[]),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    (
        "with too many scores",
        HALF,
        segment(loss=[1, 2], acc=[1, 2]),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    ("with more losses than accuracies", HALF, segment(loss=[1, 2]), ("are not of as many archs", *NO_SEGMENT)),
    ("with a score in words", HALF, segment(loss=["high"]), ('loss is "high"; expected a finite', *NO_SEGMENT)),
    ("with a score that is NaN", HALF, segment(loss=[float("nan")]), ("loss is NaN", *NO_SEGMENT)),
    ("with a score beyond all floats", HALF, segment(loss=[10**400]), ("loss is 10000", *NO_SEGMENT)),
    ("of the other shard that is a text", OTHER_HALF, lambda first, rest: ["my notes", "two lines"], FOREIGN),
    ("of the other shard with a score in words", OTHER_HALF, segment(acc=["high"]), NO_SEGMENT),
    (
        "of the other shard with too many scores",
        OTHER_HALF,
        segment(loss=[1, 2], acc=[1, 2]),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    ("of the other shard with other images", OTHER_HALF, head(images=51), ("images 51 instead of 50",)),
]

BAD_JOURNALS = [
    BadInput(f"a journal {what}", words, (f"{HALF_JOURNAL}: ", *said), journal(HALF_JOURNAL, change), torch=True)
    for what, words, change, said in JOURNALS
]

BEGUN = f"{SEARCH} --out begun.json"

SEARCHES = [
    ("that is a text", lambda first, rest: ["my notes", "two lines"], FOREIGN),
    ("of another seed", head(seed=1), ("seed 1 instead of 0", "use the same settings")),
    ("of another population", head(population=3), ("population 3 instead of 2",)),
    ("with a line that is a number", line("3"), ("line 4 is no finished segment",)),
    ("with an arch in words", segment("0"), ("line 4 is no finished segment", 'its index is "0"')),
    ("with an arch beyond the last", segment(3), ("segment 3 are ", "expected no such segment")),
    (
        "with no scores of an arch",
        segment(loss=[], acc=[]),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    (
        "with two scores of an arch",
        segment(loss=[1, 2], acc=[1, 2]),
        ("segment 0 are ", "expected 1 of loss", "delete its line"),
    ),
    ("with a score that is NaN", segment(loss=[float("nan")]), ("line 4 is no finished segment", "loss is NaN")),
    ("with one metric only", line('[0, {"acc": [0.5]}]'), ("segment 0 are ", "expected 1 of loss", "delete its line")),
]

BAD_JOURNALS += [
    BadInput(
        f"a search's journal {what}", BEGUN, ("begun.journal: ", *said), journal("begun.journal", change), torch=True
    )
    for what, change, said in SEARCHES
]

BAD_JOURNALS += [
    BadInput("a journal that is a pipe", SCORE, ("out.journal: ", *FOREIGN), pipe("out.journal"), torch=True),
    BadInput(
        "a journal that is a device", SCORE, ("out.journal: ", *FOREIGN), link("out.journal", "/dev/zero"), torch=True
    ),
    BadInput(
        "a journal that is binary", SCORE, ("out.journal: ", *FOREIGN), written("out.journal", b"\xff\n"), torch=True
    ),
    BadInput("a search's journal that is a pipe", SEARCH, ("out.journal: ", *FOREIGN), pipe("out.journal"), torch=True),
    BadInput(
        "a journal that is a link to nothing",
        SCORE,
        ("out.journal: ", *FOREIGN),
        link("out.journal", "nowhere"),
        torch=True,
    ),
]


# data sets

WIDE = written("wide.json", json.dumps({"arch1": {"acc": 0, "arch": "-".join(["4"] * 20)}}))
OF_CIFAR = [
    ("score", "score --checkpoint resnet20-cifar100 --archs wide.json --out out.json"),
    ("search", "search --checkpoint resnet20-cifar100 --trials 2 --population 2 --out out.json"),
    ("images choose", "images choose --checkpoint resnet20-cifar100 --archs wide.json --out out.json"),
    ("train", "train --recipe short --epochs 1 --out new"),
    ("standalone", "standalone --space resnet20 --archs wide.json --epochs 1 --out new"),
]

ROOTS = [
    BadInput(f"{verb} without a data root", words, ("cifar100 needs --data-root", "--download fetches it there"), WIDE)
    for verb, words in OF_CIFAR
]

ROOTS += [
    BadInput(f"{verb} with a data root that is not there", f"{words} --data-root odd", ("odd", "--download"), WIDE)
    for verb, words in OF_CIFAR
]

SCORE_CIFAR = OF_CIFAR[0][1]
CIFAR_FILES = ("train", "test", "meta")

ROOTS += [
    BadInput("a data root that is a file", f"{SCORE_CIFAR} --data-root list.json", ("list.json", "folder"), WIDE),
    BadInput("a data root below a file", f"{SCORE_CIFAR} --data-root list.json/odd", ("list.json/odd", "folder"), WIDE),
    BadInput(
        "a data root that is empty",
        f"{SCORE_CIFAR} --data-root odd",
        ("CIFAR100 is not in odd", "--download"),
        several(WIDE, folder("odd")),
        torch=True,
    ),
    BadInput(
        "a data root without its files",
        f"{SCORE_CIFAR} --data-root odd",
        ("train is missing", "--download"),
        several(WIDE, folder("odd/cifar-100-python")),
        torch=True,
    ),
    BadInput(
        "a data root of damaged files",
        f"{SCORE_CIFAR} --data-root odd",
        ("odd/cifar-100-python/train is damaged", "--download"),
        several(WIDE, *(written(f"odd/cifar-100-python/{name}", "x") for name in CIFAR_FILES)),
        torch=True,
    ),
    BadInput(
        "a data root of folders for files",
        f"{SCORE_CIFAR} --data-root odd",
        ("odd/cifar-100-python/train is ", "--download"),
        several(WIDE, *(folder(f"odd/cifar-100-python/{name}") for name in CIFAR_FILES)),
        torch=True,
    ),
    BadInput(
        "a data root of pipes for files",
        f"{SCORE_CIFAR} --data-root odd",
        ("odd/cifar-100-python/train is ", "--download"),
        several(WIDE, folder("odd/cifar-100-python"), *(pipe(f"odd/cifar-100-python/{name}") for name in CIFAR_FILES)),
        torch=True,
    ),
    BadInput("a data root of nobody", f"{SCORE_CIFAR} --data-root '~nobody-here/data'", ("~nobody-here",), WIDE),
    BadInput("a data root of 300 letters", f"{SCORE_CIFAR} --data-root {LONG_NAME}", (LONG_NAME,), WIDE),
    BadInput("a data root that is not UTF-8", f"{SCORE_CIFAR} --data-root {NOT_UTF8}", (r"n\udcffme",), WIDE),
    BadInput(
        "a download into a file",
        f"{SCORE_CIFAR} --data-root list.json --download",
        ("list.json", "could not be downloaded"),
        WIDE,
        torch=True,
    ),
    BadInput(
        "data of another space for training alone",
        "standalone --space digits --archs list.json --data cifar100 --epochs 1 --out new",
        ("cifar100 needs --data-root",),
    ),
]


# runs that fail

FAILING = [
    BadInput(
        "a learning rate that blows up",
        f"{TRAIN} --set lr=1e30 --set grad_clip=none",
        ("the loss of arch", "Lower the learning rate"),
        code=1,
        torch=True,
    ),
    BadInput(
        "a learning rate that learns nothing",
        f"{TRAIN} --set lr=1000 --set grad_clip=none",
        ("the training ended at a loss of ", "where guessing has 2.30: it diverged", "lower the learning rate"),
        code=1,
        torch=True,
    ),
]

ENSEMBLES = [
    BadInput("an ensemble of nothing", "ensemble", ("Missing argument 'scores'", "ensemble --help")),
    BadInput(
        "an ensemble of one score file",
        "ensemble scores.json --out out.json",
        ("scores.json: the mean of one score file is the file itself", "give two, or a --capacity-prior"),
    ),
    BadInput(
        "an ensemble of one score file twice",
        "ensemble scores.json scores.json --out out.json",
        ("scores.json: is given twice",),
    ),
    BadInput("a prior that is no number", f"{ENSEMBLE} --capacity-prior much", ("should be a valid number", "'much'")),
    BadInput("a negative prior", f"{ENSEMBLE} --capacity-prior -1", ("-1", "0", "--help")),
    BadInput("a prior that drowns the scores", f"{ENSEMBLE} --capacity-prior 11", ("11", "10", "--help")),
    BadInput("a prior that is not finite", f"{ENSEMBLE} --capacity-prior nan", ("nan", "--help")),
    BadInput(
        "an ensemble in place of other scores",
        "ensemble scores.json scores.acc.json --out scores.submission.json",
        ("scores.submission.json: is there already", "--overwrite"),
    ),
    BadInput("an ensemble in place of a member", f"{ENSEMBLE} --out scores.json", ("scores.json", "choose another")),
    BadInput(
        "one supernet twice",
        f"{SCORE} --checkpoint supernet.safetensors",
        ("--checkpoint supernet.safetensors: is given twice",),
    ),
    BadInput(
        "supernets of two spaces",
        f"{SCORE} --checkpoint resnet20-cifar100",
        ("resnet20-cifar100: was trained for space resnet20, supernet.safetensors for digits",),
    ),
    BadInput("a comparison without its value", f"{RANK} --against", ("'--against' requires an argument",)),
    BadInput(
        "a comparison with scores of no arch that is ranked",
        f"{RANK} --against other.json",
        ("other.json: lacks 5 of the archs that are ranked, such as arch1",),
        written("other.json", '{"x": {"acc": 0.5, "arch": "' + ONES + '"}}'),
    ),
]

ROWS = [
    *WORDS,
    *COMBINATIONS,
    *MISPLACED_INPUTS,
    *BAD_LISTS,
    *BAD_SCORES,
    *CHECKPOINTS,
    *OUTPUTS,
    *RUNS,
    *BAD_JOURNALS,
    *ROOTS,
    *FAILING,
    *ENSEMBLES,
]
