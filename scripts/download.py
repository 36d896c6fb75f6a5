"""Download a public study: ``python scripts/download.py abide RAW --n_subjects 10``; repeat it to go on where it stopped."""

from __future__ import annotations

import fire

from custom.data.abide_fetch import fetch as abide


def main() -> None:
    """Command line: one subcommand per study; prints the folder to give as ``--raw_dir``."""
    fire.Fire({"abide": abide})


if __name__ == "__main__":
    main()
