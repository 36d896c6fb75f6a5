"""Write a small synthetic study in the raw layout of the real one: ``python scripts/phantom.py oasis RAW_DIR``."""

from __future__ import annotations

import fire

from custom.phantoms.oasis import write_study as oasis


def main() -> None:
    """Command line: one subcommand per study."""
    fire.Fire({"oasis": oasis})


if __name__ == "__main__":
    main()
