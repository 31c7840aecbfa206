"""Search a trained supernet by evolution within a bound on latency, as published: 512 archs, at most 100 ms a batch.

python examples/autoformer/search.py --name tiny --checkpoint supernet.safetensors --data-root imagenet --out found.json
"""

import sys

from arguments import command, name_parser

BOUNDS = ("--max-macs", "--max-params", "--max-latency-ms")

if __name__ == "__main__":
    parser = name_parser(__doc__)
    options, others = parser.parse_known_args()
    bounded = any(word.split("=")[0] in BOUNDS for word in others)
    published = {} if bounded else {"max_latency_ms": 100, "latency_batch": 256}
    sys.exit(command("search", options, others, trials=512, **published))
