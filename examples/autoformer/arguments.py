"""What the scripts of this folder share: `--name`, and the call of the verb that does the work.

All other options are those of the verb: `nni-consistency fit --help` and the like list them.
"""

import argparse
from collections.abc import Sequence

from nni_nas_consistency.cli.main import main

NAMES = ("tiny", "small", "base", "digits")
"""The search spaces; digits is a toy that runs in seconds."""


def name_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of `--name`, which leaves all other options to the verb."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", choices=NAMES, required=True, help="which AutoFormer")
    return parser


def command(verb: str, options: argparse.Namespace, others: Sequence[str], **given: object) -> int:
    """Run a verb of `nni-consistency` on a space of AutoFormer, and return its exit code.

    Args:
        verb: The verb.
        options: Those of the script.
        others: Words for the verb as they are.
        given: Options of the verb that the script sets; None: left out.
    """
    words = [verb, "--space", f"autoformer-{options.name}"]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return main([*words, *others])
