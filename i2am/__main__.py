# PYTHON_ARGCOMPLETE_OK - a shell's global completion looks for this.
"""Run the command line: ``python -m i2am``."""

import sys

from i2am.cli import main

sys.exit(main())
