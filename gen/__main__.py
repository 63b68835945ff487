"""`python -m gen`, the same as `generate`."""

import sys

from gen.cli import main

sys.exit(main())
