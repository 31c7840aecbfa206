"""Bad inputs of studies; the rows join the table of `bad_inputs.py`, which imports this last."""

from bad_inputs import HUGE, LONG_NAME, PLACES, TRAIN, BadInput
from damages import folder, several, written

FEW = "--epochs 2 --train-images 256 --limit 4 --images 20 --seeds 1 --device cpu"
STUDY = f"study sampling {FEW} --out new"
OWN = f"study own.yml {FEW} --out new"
SETTINGS = """
baseline: a
all: {recipe: digits, n: 2, distill_from: never, warmup_steps: 0}
settings:
  a: {}
  b: {lr: 0.1}
"""

WORDS = [
    BadInput("study without a name", "study", ("Missing argument 'name'", "study --help")),
    BadInput(
        "an unknown study",
        f"study shering {FEW} --out new",
        ("there is no study 'shering'", "evaluation, hyper, paths, pool, sampling, sandwich, sharing, unsharing"),
    ),
    BadInput("a study of an empty name", f"study '' {FEW} --out new", ("there is no study ''",)),
    BadInput("a study of a long name", f"study {LONG_NAME} --out new", ("there is no study 'nnnn", "…'")),
    BadInput("two studies", f"{STUDY} hyper", ("(hyper)", "study --help")),
    BadInput("a study without seeds", f"{STUDY} --seeds 0", ("'--seeds'", "greater than or equal to 1, not '0'")),
    BadInput("a study with a negative seed", f"{STUDY} --seeds -1", ("'--seeds'", "not '-1'")),
    BadInput("a study with a million seeds", f"{STUDY} --seeds 1000000", ("'--seeds'", "1000, not 1000000")),
    BadInput("a study with seeds that are no number", f"{STUDY} --seeds five", ("'--seeds'", "not 'five'")),
    BadInput("a study without epochs", f"{STUDY} --epochs 0", ("'--epochs'", "not '0'")),
    BadInput("a study of endless epochs", f"{STUDY} --epochs {HUGE}", ("'--epochs'", "10000, not")),
    BadInput("a study of no archs", f"{STUDY} --limit 0", ("'--limit'", "not '0'")),
    BadInput("a study of one arch", f"{STUDY} --limit 1", ("the accuracies of 1 archs do not rank them",)),
    BadInput("a study on no images", f"{STUDY} --images 0", ("'--images'", "not '0'")),
    BadInput("a study on too many images", f"{STUDY} --images 598", ("--images 598: digits has 597 test images",)),
    BadInput("a study that trains on no images", f"{STUDY} --train-images 0", ("'--train-images'", "not '0'")),
    BadInput(
        "a study that trains on too many images",
        f"{STUDY} --train-images 1201",
        ("--train-images 1201: digits has 1200 training images",),
    ),
    BadInput(
        "a study with a long warm-up",
        "study sampling --epochs 1 --train-images 64 --out new",
        ("a warm-up of 2 steps is not shorter than the training of 1 steps",),
    ),
    BadInput("a study on an unknown space", f"{STUDY} --space resnet21", ("'resnet21'", "'digits'")),
    BadInput(
        "a study on a space that it has no settings for",
        f"{STUDY} --space resnet48",
        ("study sampling has settings for space digits, resnet20, not resnet48", "'spaces'"),
    ),
    BadInput("a study on unknown data", f"{STUDY} --data mnist", ("'mnist'", "'digits'")),
    BadInput(
        "a study without reference accuracies",
        "study sampling --space resnet20 --out new",
        ("there are no reference accuracies of resnet20 on cifar100 in the package", "give --reference"),
    ),
    BadInput(
        "a study without data",
        "study sampling --space resnet20 --reference reference.json --out new",
        ("cifar100 needs --data-root",),
    ),
    BadInput(
        "a study whose data root is no folder",
        "study sampling --space resnet20 --reference reference.json --data-root list.json --out new",
        ("--data-root list.json: is no folder",),
    ),
    BadInput("a study on a device that is not here", f"{STUDY} --device tpu", ("'tpu'", "'cuda'")),
    BadInput(
        "a study whose archs are of another space",
        f"{STUDY} --reference odd.json",
        ("odd.json: ", "digits has 20"),
        written("odd.json", '{"arch1": {"acc": 0.5, "arch": "23451"}}'),
    ),
    BadInput(
        "a study whose archs are all as good",
        f"{STUDY} --reference list.json",
        ("list.json: the accuracies of 4 archs do not rank them; give another list",),
    ),
    BadInput("a study to show that is not there", f"{STUDY} --show", ("new: holds no study; leave --show out",)),
]
WORDS += [
    BadInput(f"study {flag}=yes", f"{STUDY} {flag}=yes", (f"'{flag}' does not take a value",))
    for flag in ("--show", "--json", "--overwrite", "--download")
]

WORDS.append(
    BadInput(
        "one sampled arch that would teach nobody",
        f"{TRAIN} --n 1 --set rule=sampled-teacher",
        ("n is 1; rule 'sampled-teacher' needs at least 2 archs per step", "--set distill_from=never"),
    )
)

FOLDERS = [
    BadInput("a study whose folder is a file", f"{STUDY} --out list.json", ("list.json: is no folder",)),
    BadInput("a study where nobody can write", f"{STUDY} --out /proc/new", ("/proc/new: nothing can be written",)),
    BadInput(
        "a study whose page would be a folder",
        STUDY,
        ("new/study.html: is a folder; name a file to write",),
        folder("new/study.html"),
    ),
    BadInput(
        "a study in the folder of another one",
        STUDY,
        ("new: holds a study with study 'hyper', not 'sampling'", "--overwrite it"),
        written("new/study.json", '{"study": "hyper"}'),
    ),
    BadInput(
        "a study in the folder of one with other settings",
        f"{OWN} --show",
        ("new: holds a study with b trainings 0 lr 0.2, not 0.1", "choose another --out"),
        several(
            written("own.yml", SETTINGS),
            written("new/study.json", '{"study": "own", "b": {"trainings": [{"lr": 0.2}]}}'),
        ),
    ),
    BadInput(
        "results without a study",
        STUDY,
        ("new/results: is there already, without the settings of the study",),
        folder("new/results"),
    ),
    BadInput("a damaged study", STUDY, ("new/study.json: is truncated",), written("new/study.json", '{"study": ')),
]


def own(what, said, change, to):
    """Return a row about a file of settings in which one text is another."""
    assert change in SETTINGS
    return BadInput(f"settings: {what}", OWN, said, written("own.yml", SETTINGS.replace(change, to)))


OWN_SETTINGS = [
    own("no baseline", ("own.yml: lacks the part 'baseline'",), "baseline: a\n", ""),
    own("an unknown baseline", ("the baseline 'c' is no setting; name one of a, b",), "baseline: a", "baseline: c"),
    own("a setting with a name of the study's own", ("'images'", "needs itself"), "  b: {lr", "  images: {lr"),
    own("a baseline that is a list", ("baseline is a list; expected a word",), "baseline: a", "baseline: [a]"),
    own(
        "an unknown part", ("has an unknown part 'seeds'", "allowed are title"), "baseline: a", "seeds: 5\nbaseline: a"
    ),
    own("no settings", ("the baseline 'a' is no setting",), "  a: {}\n  b: {lr: 0.1}\n", ""),
    own("settings that are a list", ("settings is a list; expected NAME",), "  a: {}\n  b: {lr: 0.1}", "  - a\n  - b"),
    own("two of one name", ("'a' appears twice in settings",), "  b: {lr: 0.1}", "  a: {lr: 0.1}"),
    own("a word twice", ("'lr' appears twice in setting 'b'",), "{lr: 0.1}", "{lr: 0.1, lr: 0.2}"),
    own("a part twice", ("'baseline' appears twice in the file",), "baseline: a", "baseline: a\nbaseline: b"),
    own("an unknown word", ("study own, b: --set depth=3: there is no setting 'depth'",), "lr: 0.1", "depth: 3"),
    own("a number that is a word", ("study own, b: --set lr=high: lr is a number",), "lr: 0.1", "lr: high"),
    own("a number that is true", ("study own, b: --set lr=true: lr is a number",), "lr: 0.1", "lr: true"),
    own("a number that is nothing", ("lr is a number of at least 0, not ''",), "lr: 0.1", "lr:"),
    own("a number that is a list", ("lr of setting 'b' is a list; expected a word or a number",), "0.1", "[0.1, 0.2]"),
    own("a setting that is a number", ("setting 'b' is '3'; expected NAME: VALUE",), "{lr: 0.1}", "3"),
    own("a setting that is a path", ("a setting has the name '../b'",), "  b:", "  ../b:"),
    own("a setting of no name", ("a setting has the name ''",), "  b:", "  '':"),
    own("then that is no list", ("then of setting 'b' is a mapping",), "{lr: 0.1}", "{then: {lr: 0.1}}"),
    own("then of words", ("then of setting 'b' is 'on'",), "{lr: 0.1}", "{then: [on]}"),
    own("an unknown recipe", ("study own: there is no recipe 'digts'",), "recipe: digits", "recipe: digts"),
    own("an unknown metric", ("study own, b: metric is loss or acc, not 'error'",), "lr: 0.1", "metric: error"),
    own("unknown statistics", ("bn is supernet, train, test or batch, not 'own'",), "lr: 0.1", "bn: own"),
    own("no orders", ("orders is a whole number from 1 to 100, not '0'",), "lr: 0.1", "orders: 0"),
    own("flip that is no flag", ("flip is true or false, not 'maybe'",), "lr: 0.1", "flip: maybe"),
    own(
        "an unknown sharing",
        ("study own, b: sharing conv=most: there is no such rule",),
        "lr: 0.1",
        "sharing: conv=most",
    ),
    own("a pool of no size", ("pool is 'every N' or 'random N'", "not 'all'"), "lr: 0.1", "pool: all"),
    own("a pool that nothing draws from", ("draws from no pool", "sampling: pool"), "lr: 0.1", "pool: every 2"),
    own(
        "a pool larger than the list",
        ("a pool of 5 archs cannot be drawn from 4",),
        "lr: 0.1",
        "sampling: pool, pool: random 5",
    ),
    own(
        "kernels that become one",
        ("study own, b: a supernet of conv=end", "kernels that differ would have to become one"),
        "lr: 0.1",
        "sharing: conv=end, then: [{sharing: conv=full}]",
    ),
    own(
        "a teacher that has not learnt",
        ("study own, b: rule=frozen-teacher needs a trained network",),
        "lr: 0.1",
        "rule: frozen-teacher",
    ),
    own("one arch by the sandwich rule", ("study own, b: n is 1; rule 'sandwich' needs",), "lr: 0.1", "n: 1"),
    own(
        "an unknown space",
        ("study own: there is no space 'moon'; allowed are resnet20,",),
        "all:",
        "spaces: {moon: {}}\nall:",
    ),
    BadInput("settings: no text", OWN, ("own.yml: is empty; give baseline, settings",), written("own.yml", "")),
    BadInput("settings: a word", OWN, ("own.yml: the file is 'a'; expected NAME",), written("own.yml", "a")),
    BadInput("settings: no YAML", OWN, ("own.yml: is not YAML: ", "line 1"), written("own.yml", "a: [b")),
    BadInput("settings: two documents", OWN, ("own.yml: is not YAML: ",), written("own.yml", "a: b\n---\na: b")),
    BadInput("settings: binary", OWN, ("own.yml: is not ",), written("own.yml", b"\xff\x00")),
    BadInput("settings: nested deeply", OWN, ("own.yml: is nested too deeply",), written("own.yml", "[" * 5000)),
    BadInput("settings: two megabytes", OWN, ("own.yml: has more than 1,000,000",), written("own.yml", "#" * 2**21)),
]
OWN_SETTINGS += [
    BadInput("a file of settings that is not there", OWN, ("own.yml: cannot be read (No such file",)),
    BadInput("a file of settings that is a folder", OWN, ("own.yml: is a folder",), folder("own.yml")),
]
OWN_SETTINGS += [
    BadInput(f"reference accuracies of a study that {what}", f"{STUDY} --reference '{path}'", said, damage)
    for what, path, said, damage in PLACES
]

STUDY_ROWS = [*WORDS, *FOLDERS, *OWN_SETTINGS]
