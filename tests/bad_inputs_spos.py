"""Bad inputs of SPOS-CIFAR: shrinking, archs that always run, fast training; joined to the table of `bad_inputs.py`."""

import json

from damages import copied, folder, no_damage, several, written

HUGE = str(2**64)
FEW = "--n 3 --train-images 64 --val-images 20 --set warmup_steps=0 --device cpu"
TRAIN = f"train --recipe digits --epochs 1 {FEW} --out new"
SPOS = f"train --space spos-digits --epochs 1 {FEW} --out new"
ALONE = "standalone --space digits --archs list.json --epochs 1 --limit 2 --device cpu --out new"
SEARCH = "search --checkpoint supernet.safetensors --images 50 --trials 3 --population 2 --device cpu --out out.json"
SHRINK = "shrink --checkpoint supernet.safetensors --images 50 --archs-per-candidate 1 --keep 1 --device cpu"
SHRINK += " --out out.json"

ROUND = {"scores": {"w1": [[1, -2.0], [2, -1.5]]}, "dropped": {"w1": 1}, "provenance": {}}
RECORD = {"format": "nni-nas-consistency shrinking 1", "space": "digits", "rounds": [ROUND]}


def record(**changes):
    return written("record.json", json.dumps({**RECORD, **changes}))


def of_round(**changes):
    return record(rounds=[{**ROUND, **changes}])


CHANGES = [
    ("nesterov=yes", "nesterov is true or false, not 'yes'"),
    ("decay=exponential", "cosine, cosine-per-epoch, linear or linear-per-epoch, not 'exponential'"),
    ("macs_bins=1:2", "FROM:TO:BINS in MACs, such as 290e6:360e6:7, 1 to 100 bins; or none, not '1:2'"),
    ("macs_bins=5:3:7", "not '5:3:7'"),
    ("macs_bins=1:5:0", "not '1:5:0'"),
    ("macs_bins=1:nan:7", "not '1:nan:7'"),
    ("macs_bins=1:5:7", "macs_bins belongs to sampling=macs-bins, not strict-fair; leave it out"),
    ("sampling=macs-bins", "sampling=macs-bins needs bins: add --set macs_bins=FROM:TO:BINS"),
]
ROWS = [(f"--set {change}", f"{TRAIN} --set {change}", (said,)) for change, said in CHANGES]
ROWS += [
    (
        "a linear decay with the constant rate of a cosine",
        f"{TRAIN} --set decay=linear --set decay_epochs=3",
        ("decay_epochs belongs to decay=cosine, not linear; add --set decay_epochs=none",),
    ),
    (
        "Nesterov's momentum without any",
        f"{TRAIN} --set nesterov=true --set momentum=0",
        ("nesterov=true needs a momentum above 0",),
    ),
    (
        "archs that always run where none does",
        f"{SPOS} --always list.json",
        ("--always list.json: belongs to rule=sandwich, not multi-path; add --set rule=sandwich",),
    ),
    ("more archs that always run than a step has", f"{TRAIN} --always list.json", ("has 5 archs, more than the 3",)),
    ("no list of archs that always run", f"{TRAIN} --always none.json", ("none.json: cannot be read",)),
    ("train by no record", f"{TRAIN} --shrunk none.json", ("none.json: cannot be read",)),
    ("search by no record", f"{SEARCH} --shrunk none.json", ("none.json: cannot be read",)),
    ("search by a list as record", f"{SEARCH} --shrunk list.json", ("list.json: the file lacks the field 'format'",)),
    ("search by no such metric", f"{SEARCH} --metric top5", ("'top5'", "'loss', 'acc'")),
    ("search with no such statistics", f"{SEARCH} --bn none", ("'none'", "'supernet', 'train', 'test', 'batch'")),
    ("search in batches of 0", f"{SEARCH} --batch-size 0", ("--batch-size", "greater than or equal to")),
    ("search in batches of 2^64", f"{SEARCH} --batch-size {HUGE}", ("--batch-size", "less than or equal to", HUGE)),
    (
        "images to calibrate on that nothing uses",
        f"{SEARCH} --calibration-images 50",
        ("--calibration-images 50 belongs to --bn train, not batch; leave it out",),
    ),
    (
        "more images to calibrate on than there are",
        f"{SEARCH} --bn train --calibration-images 1201",
        ("--calibration-images 1201: digits has 1200 training images; choose 1 to 1200",),
    ),
    ("no image to calibrate on", f"{SEARCH} --bn train --calibration-images 0", ("greater than or equal to",)),
    ("shrink without a checkpoint", "shrink", ("Missing option '--checkpoint'", "shrink --help")),
    ("shrink no space", f"{SHRINK} --space spos", ("'spos'", "'spos-cifar'", "shrink --help")),
    ("shrink another space", f"{SHRINK} --space spos-digits", ("was trained for space digits, not spos-digits",)),
    ("shrink on no data set", f"{SHRINK} --data mnist", ("'mnist'", "'cifar100', 'cifar10'")),
    ("shrink on other images", f"{SHRINK} --data cifar100", ("was trained on digits",)),
    ("shrink with a folder of none", f"{SHRINK} --data cifar10 --data-root no", ("supernet.safetensors: was trained",)),
    ("shrink into no folder", f"{SHRINK} --out no/out.json", ("there is no folder no",)),
    ("shrink onto the supernet", f"{SHRINK} --out supernet.safetensors", ("is an input of this job",)),
    ("shrink after no record", f"{SHRINK} --from none.json", ("none.json: cannot be read",)),
    ("shrink by no arch", f"{SHRINK} --archs-per-candidate 0", ("--archs-per-candidate", "greater than or equal to")),
    ("shrink by 2^64 archs", f"{SHRINK} --archs-per-candidate {HUGE}", ("less than or equal to", HUGE)),
    ("shrink to nothing", f"{SHRINK} --keep 0", ("--keep", "greater than or equal to")),
    ("shrink to 2^64", f"{SHRINK} --keep {HUGE}", ("--keep", "less than or equal to", HUGE)),
    ("shrink within no bound", f"{SHRINK} --max-macs few", ("--max-macs 'few' is no count from 1 to 10^18",)),
    ("shrink within a bound that no arch meets", f"{SHRINK} --max-macs 100", ("--max-macs 100: no arch costs as",)),
    ("shrink by no such metric", f"{SHRINK} --metric auc", ("'auc'", "'loss', 'acc'")),
    ("shrink with no such statistics", f"{SHRINK} --bn running", ("'running'", "'supernet', 'train'")),
    ("shrink in half a batch", f"{SHRINK} --batch-size 0.5", ("--batch-size", "valid integer", "'0.5'")),
    ("shrink in batches of 2^64", f"{SHRINK} --batch-size {HUGE}", ("--batch-size", "less than or equal to", HUGE)),
    ("shrink calibrated on nothing", f"{SHRINK} --calibration-images 5", ("belongs to --bn train, not batch",)),
    ("shrink on too many images", f"{SHRINK} --images 598", ("--images 598: digits has 597 test images",)),
    ("shrink with a seed below 0", f"{SHRINK} --seed -1", ("--seed", "greater than or equal to")),
    ("shrink with a seed of 2^64", f"{SHRINK} --seed {HUGE}", ("--seed", "less than or equal to", HUGE)),
    ("shrink on a toaster", f"{SHRINK} --device toaster", ("'toaster'", "'auto', 'cpu', 'cuda'")),
    ("shrink --overwrite=yes", f"{SHRINK} --overwrite=yes", ("'--overwrite' does not take a value",)),
    ("shrink --download=yes", f"{SHRINK} --download=yes", ("'--download' does not take a value",)),
    ("alone with labels too smooth", f"{ALONE} --set label_smoothing=1", ("at least 0 and below 1, not '1'",)),
    ("alone with logits of nothing", f"{ALONE} --set logits_scale=0", ("logits_scale is a number above 0, not '0'",)),
    (
        "alone with too large a cutout",
        f"{ALONE} --set cutout=9",
        ("from 0 for none to 8, that of the images, not '9'",),
    ),
    ("alone with half a cutout", f"{ALONE} --set cutout=0.5", ("not '0.5'",)),
    ("alone in no precision", f"{ALONE} --precision fp16", ("'fp16'", "'32-true', 'bf16-mixed', '16-mixed'")),
    ("alone on no image", f"{ALONE} --train-images 0", ("--train-images", "greater than or equal to")),
    ("alone on too many images", f"{ALONE} --train-images 1201", ("digits has 1200 training images",)),
    (
        "alone by a linear decay with a constant rate",
        f"{ALONE} --set decay=linear --set decay_epochs=0",
        ("decay_epochs belongs to decay=cosine",),
    ),
]

WITH_TORCH = [
    (
        "bins of MACs that no arch is in",
        f"{SPOS} --set sampling=macs-bins --set macs_bins=290e6:360e6:7 --set n=1",
        ("macs_bins from 2.9e+08 to 3.6e+08: none of 1000 archs of spos-cifar lies there",),
        no_damage,
    ),
    (
        "float16 without a GPU",
        f"{ALONE} --precision 16-mixed",
        ("precision '16-mixed' is for a GPU; give '32-true' or 'bf16-mixed'",),
        no_damage,
    ),
    (
        "shrink to as many as there are",
        f"{SHRINK} --keep 1000",
        ("no choice of digits has more than 1000 candidate(s) left; lower --keep",),
        no_damage,
    ),
    ("shrink onto a list", f"{SHRINK} --out list.json", ("list.json: ",), no_damage),
]

RECORDS = [
    ("of another format", record(format="scores 1"), 'has the format "scores 1", not'),
    ("of another space", record(space="resnet20"), 'is for space "resnet20", not "digits"; shrink that space'),
    ("without rounds", record(rounds=[]), "holds no rounds; make one with `shrink`"),
    ("whose rounds are none", record(rounds=3), "holds no rounds"),
    ("with a field too many", record(more=1), "the file has an unknown field 'more'"),
    ("whose round is a number", record(rounds=[3]), "round 1 is 3; expected an object"),
    ("without scores", record(rounds=[{"dropped": {}, "provenance": {}}]), "round 1 lacks the field 'scores'"),
    ("that drops what it did not score", of_round(dropped={"w1": 3}), "drops 3 of w1, which it did not score"),
    ("whose score is NaN", of_round(scores={"w1": [[1, float("nan")]]}), "round 1 w1 is NaN; expected a finite number"),
    ("whose scores are no list", of_round(scores={"w1": 3}), "round 1 w1 is 3; expected a list of candidates"),
    ("whose provenance is a text", of_round(provenance="me"), 'provenance is "me"; expected an object'),
    (
        "that drops a label of no space",
        of_round(scores={"w99": [[1, 0.5]]}, dropped={"w99": 1}),
        "digits has no label 'w99'; its labels are w1, ",
    ),
    (
        "that drops a width of no space",
        of_round(scores={"w1": [[9, 0.5]]}, dropped={"w1": 9}),
        "w1 has no choice 9; it has 1, 2, 3, 4",
    ),
    ("that drops one twice", record(rounds=[ROUND, ROUND]), "w1 has no choice 1; it has 2, 3, 4"),
    ("that is cut off", written("record.json", json.dumps(RECORD)[:50]), "is truncated"),
    ("that is a folder", folder("record.json"), "is a folder"),
]
DAMAGED = [
    (f"{verb.split()[0]} by a record {what}", f"{verb} {option} record.json", ("record.json: ", said), damage)
    for what, damage, said in RECORDS
    for verb, option in ((TRAIN, "--shrunk"), (SEARCH, "--shrunk"), (SHRINK, "--from"))
]
DAMAGED += [
    (
        "shrink onto its own record",
        f"{SHRINK} --from record.json --out record.json",
        ("record.json: is an input of this job",),
        record(),
    ),
    (
        "an arch that always runs and is dropped",
        f"{TRAIN} --always list.json --n 5 --shrunk record.json",
        ("archs of digits are drawn with 2, 3, 4 there",),
        several(record(), copied("list.json", "other.json")),
    ),
]


def rows(bad_input):
    """Return the rows, made with the class of the table."""
    plain = [bad_input(name, words, said) for name, words, said in ROWS]
    plain += [bad_input(name, words, said, damage) for name, words, said, damage in DAMAGED]
    return plain + [bad_input(name, words, said, damage, torch=True) for name, words, said, damage in WITH_TORCH]
