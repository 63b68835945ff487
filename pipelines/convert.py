"""Run `python -m pipelines.convert SOURCE DEST`; all of it is in pipelines/dalle/convert/."""

import sys

from pipelines.dalle.convert.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
