"""Bad inputs of searches within bounds, joined to the table of `bad_inputs.py`."""

import json

from damages import folder, no_damage, written

HUGE = str(2**64)
SEARCH = "search --checkpoint supernet.safetensors --images 50 --trials 3 --device cpu --out out.json"

ONES = "-".join("1" * 20)
LATENCY = {
    "machine": "here",
    "device": "cpu",
    "torch": "2.0",
    "threads": 1,
    "batch_size": 1,
    "network": "digits",
    "arch": ONES,
    "milliseconds": 1.5,
}


def latency(**changes):
    return json.dumps({**LATENCY, **changes}) + "\n"


COUNTS = ["", "0", "-1", "many", "1.5.2", "nan", "inf", "1e30", "4 M", "4MB", "²", HUGE + "0", "0.2", "1e-3"]
TIMES = ["", "0", "-1", "fast", "nan", "inf", "1e3", "3600001", "2ms", "²"]

ROWS = [
    (f"search {option} {text!r}", f"{SEARCH} {option}='{text}'", (option, "is no count from 1 to 10^18"))
    for option in ("--max-macs", "--max-params")
    for text in COUNTS
]
ROWS += [
    (f"search --max-latency-ms {text!r}", f"{SEARCH} --max-latency-ms='{text}'", ("is no time in milliseconds",))
    for text in TIMES
]
ROWS += [
    (
        "a bound on MACs that no arch meets",
        f"{SEARCH} --max-macs 100",
        ("--max-macs 100: no arch costs as little; the smallest, 1-1-", " MACs; give a larger bound"),
    ),
    (
        "a bound on parameters that no arch meets",
        f"{SEARCH} --max-params 0.1k",
        ("--max-params 100: no arch costs as little; the smallest, 1-1-", " parameters; give a larger bound"),
    ),
    ("no such strategy", f"{SEARCH} --strategy greedy", ("'greedy'", "'evolution', 'random'", "search --help")),
    (
        "a population of a random search",
        f"{SEARCH} --strategy random --population 3",
        ("--population 3 belongs to --strategy evolution, not random",),
    ),
    ("no such cost", f"{SEARCH} --pareto p --pareto-cost flops", ("'flops'", "'macs', 'params', 'latency'")),
    ("a Pareto cost without a folder", f"{SEARCH} --pareto-cost params", ("--pareto-cost params needs --pareto",)),
    ("a batch of no latency", f"{SEARCH} --latency-batch 4", ("--latency-batch belongs to --max-latency-ms",)),
    ("a file of no latency", f"{SEARCH} --latency-file f.jsonl", ("--latency-file belongs to --max-latency-ms",)),
    ("a batch of 0", f"{SEARCH} --max-latency-ms 5 --latency-batch 0", ("--latency-batch", "greater than or equal")),
    ("a batch of 2^64", f"{SEARCH} --max-latency-ms 5 --latency-batch {HUGE}", ("--latency-batch", "less than", HUGE)),
    ("a batch in words", f"{SEARCH} --max-latency-ms 5 --latency-batch one", ("valid integer", "'one'")),
]
DAMAGED = [
    (
        "a file in the place of the Pareto folder",
        f"{SEARCH} --pareto list.json",
        ("list.json: is no folder",),
        no_damage,
    ),
    (
        "a folder in the place of the Pareto set",
        f"{SEARCH} --pareto p",
        ("pareto.json: is a folder",),
        folder("p/pareto.json"),
    ),
    (
        "latencies in no folder",
        f"{SEARCH} --max-latency-ms 5 --latency-file no/f.jsonl",
        ("there is no folder no",),
        no_damage,
    ),
    (
        "latencies in a list of archs",
        f"{SEARCH} --max-latency-ms 5 --latency-file list.json",
        ("list.json: is no file of latencies; name another --latency-file",),
        no_damage,
    ),
    (
        "latencies that are binary",
        f"{SEARCH} --max-latency-ms 5 --latency-file bad",
        ("bad: is no file of latencies; name another --latency-file",),
        written("bad", b"\xff\xfe\n"),
    ),
    (
        "latencies in the place of a folder",
        f"{SEARCH} --max-latency-ms 5 --latency-file run",
        ("run: is a folder",),
        no_damage,
    ),
    (
        "a search that goes on without its latencies",
        f"{SEARCH} --max-latency-ms 5",
        ("out.latencies.jsonl: is missing, though the search at out.json was begun with it",),
        written("out.journal", ""),
    ),
]
LINES = [
    ("without a machine", json.dumps({"arch": ONES}) + "\n", "the line lacks the field 'machine'"),
    ("with a field too many", latency(speed=3), "the line has an unknown field 'speed'"),
    ("with a number as machine", latency(machine=3), "machine is 3; expected a text"),
    ("with NaN", latency(milliseconds=float("nan")), "milliseconds is NaN; expected a finite number"),
    ("below 0", latency(milliseconds=-1), "milliseconds is -1; expected a number above 0"),
    ("with true as threads", latency(threads=True), "threads is true; expected a whole number"),
    ("with half a thread", latency(threads=0.5), "threads is 0.5; expected a whole number"),
    ("that is no object", "[1]\n", "the line is a list; expected an object"),
    ("that is no JSON", "fast\n", "is not JSON"),
    ("with a number of 5000 digits", latency().replace("1.5", "9" * 5000), "thousands of digits"),
    ("nested too deeply", "[" * 100_000 + "\n", "nested too deeply"),
]
DAMAGED += [
    (f"a latency {what}", f"{SEARCH} --max-latency-ms 5 --latency-file bad", ("bad: ", said), written("bad", content))
    for what, content, said in LINES
]


EXTRACT = f"extract --checkpoint supernet.safetensors --arch {ONES} --out new.safetensors"
SPACES = "'resnet20', 'resnet48', "

ROWS += [
    ("extract without a checkpoint", f"extract --arch {ONES}", ("Missing option '--checkpoint'",)),
    ("extract without an arch", "extract --checkpoint supernet.safetensors", ("Missing option '--arch'",)),
    ("a word after extract", f"{EXTRACT} digits", ("(digits)", "extract --help")),
    (
        "extract of no such arch",
        f"{EXTRACT} --arch 5{ONES[1:]}",
        ("layer 1 of --arch '5-1-", "digits allows 1, 2, 3, 4"),
    ),
    ("extract of no code", f"{EXTRACT} --arch ''", ("layer 1 of --arch ''", "write a width as a plain integer")),
    ("extract of another space", f"{EXTRACT} --space resnet20", ("not resnet20", "leave --space out")),
    ("extract in no space", f"{EXTRACT} --space nb", ("'nb'", SPACES)),
    ("extract on other images", f"{EXTRACT} --data cifar10", ("whose classes or image size cifar10 does not have",)),
    ("extract on no images", f"{EXTRACT} --data mnist", ("'mnist'", "'cifar100', 'cifar10'")),
    (
        "extract without a data root",
        f"{EXTRACT} --checkpoint resnet20-cifar100 --arch {'-'.join(['4'] * 20)}",
        ("cifar100 needs --data-root",),
    ),
    (
        "extract with a data root that is not there",
        f"{EXTRACT} --checkpoint resnet20-cifar100 --arch {'-'.join(['4'] * 20)} --data-root odd",
        ("odd", "--download"),
    ),
    ("extract with statistics of each batch", f"{EXTRACT} --bn batch", ("'batch'", "'train', 'test', 'supernet'")),
    ("extract by more images than there are", f"{EXTRACT} --images 1201", ("--images 1201", "1200 training images")),
    ("extract by more test images", f"{EXTRACT} --bn test --images 598", ("--images 598", "597 test images")),
    ("extract by no image", f"{EXTRACT} --images 0", ("--images", "greater than or equal to 1", "not '0'")),
    ("extract by half an image", f"{EXTRACT} --images 0.5", ("--images", "valid integer", "not '0.5'")),
    (
        "images of the supernet's statistics",
        f"{EXTRACT} --bn supernet --images 5",
        ("--images 5 belongs to --bn train",),
    ),
    ("extract in batches of 0", f"{EXTRACT} --batch-size 0", ("--batch-size", "greater than or equal to 1")),
    ("extract in batches of 2^64", f"{EXTRACT} --batch-size {HUGE}", ("--batch-size", "less than or equal to", HUGE)),
    ("extract --overwrite=yes", f"{EXTRACT} --overwrite=yes", ("'--overwrite' does not take a value",)),
    ("extract --download=yes", f"{EXTRACT} --download=yes", ("'--download' does not take a value",)),
    ("extract into no folder", f"{EXTRACT} --out no/new.safetensors", ("there is no folder no",)),
    ("extract over its checkpoint", f"{EXTRACT} --out supernet.safetensors", ("is an input of this job",)),
    ("extract over a file", f"{EXTRACT} --out list.json", ("list.json: is there already", "--overwrite it")),
    ("extract into a module of Python", f"{EXTRACT} --out json.safetensors", ("json.py: would hide the module json",)),
    ("extract into torch", f"{EXTRACT} --out torch.safetensors", ("torch.py: would hide the module torch",)),
    (
        "ONNX in the place of the weights",
        f"{EXTRACT} --onnx new.safetensors",
        ("new.safetensors: would be written twice",),
    ),
    ("ONNX over a file", f"{EXTRACT} --onnx list.json", ("list.json: is there already",)),
    ("ONNX in no folder", f"{EXTRACT} --onnx no/a.onnx", ("there is no folder no",)),
]
DAMAGED += [
    ("a module that is there", EXTRACT, ("new.py: is there already; choose another name",), written("new.py", "")),
    (
        "extract from no checkpoint",
        EXTRACT,
        ("supernet.safetensors: is not a safetensors file",),
        written("supernet.safetensors", b"abc"),
    ),
]


ROWS += [
    ("no such verb of spaces", "spaces exprot", ("No such command 'exprot'", "spaces --help")),
    ("a word after spaces export", "spaces export digits", ("(digits)", "spaces export --help")),
    ("export of no space", "spaces export --space darts", ("'darts'", "'resnet20'")),
    ("export into no folder", "spaces export --out no/space.json", ("there is no folder no",)),
    ("export over a file", "spaces export --out list.json", ("list.json: holds something else", "--overwrite it")),
    ("spaces export --overwrite=yes", "spaces export --overwrite=yes", ("'--overwrite' does not take a value",)),
]
DAMAGED += [
    ("export over a folder", "spaces export --out f", ("f: is a folder",), folder("f")),
]


def rows(bad_input):
    """Return the rows, made with the class of the table."""
    plain = [bad_input(name, words, said) for name, words, said in ROWS]
    return plain + [bad_input(name, words, said, damage) for name, words, said, damage in DAMAGED]
