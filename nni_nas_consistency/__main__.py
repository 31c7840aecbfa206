"""`python -m nni_nas_consistency`: the command line."""

from nni_nas_consistency.cli.main import main

main()
