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
        f"{SEARCH} --max-params 0.5k",
        ("--max-params 500: no arch costs as little; the smallest, 1-1-", " parameters; give a larger bound"),
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


def rows(bad_input):
    """Return the rows, made with the class of the table."""
    plain = [bad_input(name, words, said) for name, words, said in ROWS]
    return plain + [bad_input(name, words, said, damage) for name, words, said, damage in DAMAGED]
