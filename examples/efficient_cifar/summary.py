"""Print the trials of a search, the best first; of equally accurate ones, the shorter comes first."""

import argparse
import json
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what the trials were given as --out")
    o = parser.parse_args()
    results = {path.parent.name: json.loads(path.read_text()) for path in o.folder.glob("*/result.json")}
    if not results:
        parser.error(f"{o.folder}: holds no finished trial; name the folder that the trials wrote to")
    ranked = sorted(results.items(), key=lambda each: (-each[1]["accuracy"], each[1]["seconds"]))
    names = list(ranked[0][1]["parameters"])
    print("  ".join(["trial", "accuracy", "seconds", *names]))
    for trial, result in ranked:
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in result["parameters"].values()]
        print("  ".join([trial, f"{result['accuracy']:.4f}", f"{result['seconds']:.0f}", *values]))
