"""Download a public study; repeat the command to go on where it stopped.

``python scripts/download.py abide RAW --n_subjects 10``
``python scripts/download.py haxby RAW --subjects "[1,2]"``
``python scripts/download.py openneuro RAW --datasets "['ds000052']" --include "['*_task-weatherprediction_*']"``
"""

from __future__ import annotations

import fire

from custom.data.abide_fetch import fetch as abide
from custom.data.haxby_fetch import fetch_haxby as haxby
from custom.data.openneuro_fetch import fetch_openneuro as openneuro


def main() -> None:
    """Command line: one subcommand per study; prints the folder to give as ``--raw_dir``."""
    fire.Fire({"abide": abide, "haxby": haxby, "openneuro": openneuro})


if __name__ == "__main__":
    main()
