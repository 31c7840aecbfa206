"""Convert weights of AutoFormer's official code, or NNI's, to a checkpoint of this package.

python examples/autoformer/convert.py supernet-tiny.pth --name tiny --arch tiny --out tiny.safetensors
"""

import sys

from arguments import command, name_parser

if __name__ == "__main__":
    parser = name_parser(__doc__)
    parser.add_argument("source", help="the .pth file")
    parser.add_argument("--arch", help="the arch to cut out of a supernet: a sample as JSON, or tiny, small, base")
    options, others = parser.parse_known_args()
    sys.exit(command("convert", options, [options.source, *others], arch=options.arch))
