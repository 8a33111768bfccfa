"""``python -m distilled_nlu``: the same as ``distilled-nlu``."""

import sys

from distilled_nlu.cli import main

sys.exit(main())
