"""Fine-tune a network of AutoFormer with a new head, by default on CIFAR-10: 100 epochs, 5 of them warm-up.

python examples/autoformer/finetune.py --name tiny --weights tiny.safetensors --data-root data --out runs/cifar10
"""

import sys

from arguments import command, name_parser

if __name__ == "__main__":
    parser = name_parser(__doc__)
    parser.add_argument("--weights", required=True, help="a network of convert.py; or a supernet, with --arch")
    parser.add_argument("--data", default="cifar10", help="the data set, as nni-consistency fit names it")
    options, others = parser.parse_known_args()
    sys.exit(command("fit", options, others, weights=options.weights, data=options.data))
