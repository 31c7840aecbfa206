"""`python -m nni_nas_consistency`: the command line."""

import sys

from nni_nas_consistency.cli.main import main

sys.exit(main())
