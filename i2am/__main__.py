"""Run the command line: ``python -m i2am``."""

import sys

from i2am.cli import main

sys.exit(main())
