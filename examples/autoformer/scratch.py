"""Train a subnet of AutoFormer from scratch: 500 epochs of ImageNet, mixup, cutmix, drop path, label smoothing.

python examples/autoformer/scratch.py --name tiny --data-root imagenet --out runs/scratch
"""

import sys

from arguments import command, name_parser

if __name__ == "__main__":
    parser = name_parser(__doc__)
    parser.add_argument("--arch", help="the arch: a sample as JSON; by default the published one of --name")
    options, others = parser.parse_known_args()
    sys.exit(command("fit", options, others, arch=options.arch or options.name))
