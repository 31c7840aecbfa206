"""Evaluate a published subnet of AutoFormer, or any other arch, on a folder of images: top-1 and top-5 accuracy.

python examples/autoformer/evaluate.py --name tiny --weights tiny.safetensors --data-root imagenet
"""

import sys

from arguments import command, name_parser

if __name__ == "__main__":
    parser = name_parser(__doc__)
    parser.add_argument("--weights", required=True, help="a network of convert.py or finetune.py; or a supernet")
    parser.add_argument("--arch", help="the arch to cut out of a supernet: a sample as JSON, or tiny, small, base")
    options, others = parser.parse_known_args()
    sys.exit(command("evaluate", options, others, weights=options.weights, arch=options.arch))
