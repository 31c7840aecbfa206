"""`python -m nni_nas_consistency`: the command line."""

from nni_nas_consistency.cli import main

main()
