"""`python -m ui` is the `generate-ui` command."""

import sys

from ui.cli import main

sys.exit(main())
