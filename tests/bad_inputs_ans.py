"""Bad inputs of pools and phases; the rows join the table of `bad_inputs.py`, which imports this last."""

import json

from bad_inputs import (
    EVERYWHERE,
    FILE_PLACES,
    HUGE,
    LISTS,
    ONES,
    PLACES,
    TRAIN,
    TWO,
    BadInput,
    listing,
)
from damages import copied, folder, several, written

POOL = "archs pool list.json --space digits --every 2 --out out.json"
ON_POOL = f"{TRAIN} --set sampling=pool"
ANS = "train --space digits --recipe ans-digits --n 2 --train-images 64 --device cpu --out new"
LATER = f"{ANS} --from-phase 3 --weights supernet.safetensors"
OF_2021 = json.dumps({"arch1": {"acc": 0, "arch": "-".join(["16"] * 20)}})

WORDS = [
    BadInput("pool without a list", "archs pool", ("Missing argument 'file'", "archs pool --help")),
    BadInput("a pool of two lists", f"{POOL} list.json", ("(list.json)", "archs pool --help")),
    BadInput("a pool without an output", "archs pool list.json", ("Missing option '--out'", "archs pool --help")),
    BadInput("a pool of no size", "archs pool list.json --out out.json", ("give either --every N", "or --random N")),
    BadInput("a pool of two sizes", f"{POOL} --random 3", ("give either --every N", "or --random N")),
    BadInput("every 0th arch", f"{POOL} --every 0", ("--every", "greater than or equal to 1", "not '0'")),
    BadInput("every half arch", f"{POOL} --every 0.5", ("--every", "valid integer", "not '0.5'")),
    BadInput("every 2^64th arch", f"{POOL} --every {HUGE}", ("--every", "less than or equal to", HUGE)),
    BadInput("no random archs", f"{POOL} --random 0", ("--random", "greater than or equal to 1", "not '0'")),
    BadInput("random archs in words", f"{POOL} --random few", ("--random", "valid integer", "not 'few'")),
    BadInput("2^64 random archs", f"{POOL} --random {HUGE}", ("--random", "less than or equal to", HUGE)),
    BadInput("a pool by a negative seed", f"{POOL} --seed=-1", ("--seed", "greater than or equal to 0", "not '-1'")),
    BadInput("a pool by a seed of 2^64", f"{POOL} --seed {HUGE}", ("--seed", "less than or equal to", HUGE)),
    BadInput("a pool by a seed in words", f"{POOL} --seed today", ("--seed", "valid integer", "not 'today'")),
    BadInput("a seed that draws nothing", f"{POOL} --seed 3", ("--seed 3 belongs to --random",)),
    BadInput("a pool of no such space", f"{POOL} --space resnet", ("--space", "'resnet'", "'resnet20'")),
    BadInput("a value for --overwrite of a pool", f"{POOL} --overwrite=yes", ("--overwrite", "does not take a value")),
    BadInput(
        "more random archs than there are",
        "archs pool list.json --space digits --random 6 --out out.json",
        ("list.json: a pool of 6 archs cannot be drawn from 5", "ask for fewer"),
    ),
    BadInput("a pool over its list", f"{POOL} --out list.json --overwrite", ("list.json: is an input of this job",)),
    BadInput("a pool over another file", f"{POOL} --out scores.json", ("scores.json: holds something else",)),
    BadInput("a pool of another space's list", "archs pool list.json --every 2 --out o", ("resnet20 allows 4, 8",)),
    BadInput("--pool without its value", f"{ON_POOL} --pool", ("'--pool' requires an argument",)),
    BadInput("--from-phase without its value", f"{ANS} --from-phase", ("'--from-phase' requires an argument",)),
    BadInput("phase 9", f"{LATER} --from-phase 9", ("--from-phase 9: recipe ans-digits has the phases 0 to 4",)),
    BadInput("phase -1", f"{LATER} --from-phase=-1", ("--from-phase", "greater than or equal to 0", "not '-1'")),
    BadInput("phase 2.5", f"{LATER} --from-phase 2.5", ("--from-phase", "valid integer", "not '2.5'")),
    BadInput("phase 2^64", f"{LATER} --from-phase {HUGE}", ("--from-phase", "less than or equal to", HUGE)),
    BadInput(
        "phase 1 of a recipe that has one",
        f"{TRAIN} --weights supernet.safetensors --from-phase 1",
        ("--from-phase 1: recipe digits has the phases 0 to 0",),
    ),
    BadInput("a later phase of nothing", f"{ANS} --from-phase 3", ("--from-phase 3 needs --weights", "phase 2 ended")),
    BadInput(
        "a later phase of a run that does not keep the one before",
        f"{ANS} --from-phase 3 --weights run",
        ("--from-phase 3 starts from run/phase2/supernet.safetensors, which is not there", "ended in run"),
    ),
    BadInput(
        "a setting of a phase that is left out",
        f"{LATER} --set phase2_lr=1",
        ("--set phase2_lr=1: --from-phase 3 leaves phase 2 out",),
    ),
    BadInput("a phase that is not there", f"{ANS} --set phase5_lr=1", ("the recipe has the phases 0 to 4",)),
]

CHANGES = [
    ("end_lr=-1", "a number of at least 0, not '-1'"),
    ("end_lr=0.3", "end_lr is 0.3, above lr, 0.2, which falls to it; lower --set end_lr=…"),
    ("stem_norm=none", "affine or plain, not 'none'"),
    ("pool_size=0", "a whole number from 1 to 100,000, or none, not '0'"),
    ("pool_size=3", "pool_size belongs to sampling=pool, not strict-fair; add --set pool_size=none"),
    ("rule=pool-distillation", "distill_from belongs to rule=sandwich, not pool-distillation"),
    ("sampling=pool", "phase 0 of recipe digits draws from a pool; give one with --pool, or --set pool_size=N"),
]

WORDS += [BadInput(f"--set {change!r}", f"{TRAIN} --set '{change}'", (said,)) for change, said in CHANGES]
WORDS += [
    BadInput(
        "archs alone at a rate that rises",
        "standalone --space digits --archs list.json --set end_lr=1 --out new",
        ("end_lr is 1.0, above lr, 0.1",),
    ),
]

COMBINATIONS = [
    BadInput("a pool that nothing draws from", f"{TRAIN} --pool list.json", ("--pool list.json: recipe digits draws",)),
    BadInput(
        "a pool of a phase that draws from none", f"{ANS} --pool phase0=list.json", ("phase 0 draws from no pool",)
    ),
    BadInput("a pool of a phase that is left out", f"{LATER} --pool phase1=list.json", ("these do: 3, 4",)),
    BadInput(
        "a pool of phase 9", f"{ANS} --pool phase9=list.json", ("phase 9 draws from no pool, but these do: 1, 2",)
    ),
    BadInput("two pools", f"{ANS} --pool list.json --pool o.json", ("--pool o.json: all phases would have two pools",)),
    BadInput("two pools of a phase", f"{ANS} --pool phase1=a --pool phase1=b", ("phase 1 would have two pools",)),
    BadInput(
        "a pool of another space", f"{ON_POOL} --pool wide.json", ("layer 1 of arch1",), written("wide.json", OF_2021)
    ),
    BadInput("a pool that is a score file", f"{ON_POOL} --pool scores.json", ("scores.json: is a score file",)),
    BadInput(
        "a pool that the run would write",
        f"{ON_POOL} --pool new/metrics/pool.json",
        ("new/metrics/pool.json: is what this run would write; give another --out",),
        several(folder("new/metrics"), copied("list.json", "new/metrics/pool.json")),
        torch=True,
    ),
]


def weighted(*weights):
    """Return a pool of two archs with these weights, which are JSON text."""
    entries = (
        (name, code, weight) for (name, code), weight in zip({"a": ONES, "b": TWO}.items(), weights, strict=True)
    )
    return "{" + ", ".join(f'"{n}": {{"acc": 0, "arch": "{c}", "weight": {w}}}' for n, c, w in entries) + "}"


WEIGHTS = [
    ("has a negative weight", weighted("1", "-0.5"), ("weight of b is -0.5; expected a number of at least 0",)),
    ("has weights of 0 alone", weighted("0", "0.0"), ("the weights of the pool sum to 0.0", "no arch could be drawn")),
    ("has a weight that is text", weighted("1", '"2"'), ('weight of b is "2"; expected a finite number',)),
    ("has a weight of null", weighted("1", "null"), ("weight of b is null", "or no weight")),
    ("has an infinite weight", weighted("1", "1e999"), ("weight of b is Infinity; expected a finite number",)),
    ("has weights beyond all floats", weighted("1e308", "1e308"), ("the weights of the pool sum to inf",)),
    ("has a weight twice", listing(f'{{"acc": 0, "arch": "{ONES}", "weight": 1, "weight": 2}}'), ("'weight' appears",)),
]

POOLS = [
    BadInput(f"a pool that {what}", f"{ON_POOL} --pool odd.json", ("odd.json: ", *said), written("odd.json", content))
    for what, content, said in WEIGHTS
    + [row for row in LISTS if row[0] in (*EVERYWHERE, "has no archs", "has an arch twice")]
]
POOLS += [
    BadInput(
        f"a list to take a pool from that {what}",
        POOL.replace("list.json", "odd.json"),
        said,
        written("odd.json", content),
    )
    for what, content, said in LISTS
    if what in EVERYWHERE
]
POOLS += [
    BadInput(f"{reader} that {what}", words.format(f"'{path}'"), said, damage)
    for reader, words in (
        ("a pool to train on", f"{ON_POOL} --pool {{}}"),
        ("a list to take a pool from", "archs pool {} --space digits --every 2 --out out.json"),
    )
    for what, path, said, damage in PLACES
]
POOLS += [
    BadInput(f"a pool whose file {what}", f"{POOL} --out '{path}'", said, damage)
    for what, path, said, damage in FILE_PLACES
]

ANS_ROWS = [*WORDS, *COMBINATIONS, *POOLS]
