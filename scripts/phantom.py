"""Write a small synthetic study: ``python scripts/phantom.py oasis RAW_DIR``, in the raw layout of the real one.

``oasis_slices DATASET_DIR`` writes prepared slices with known atrophy, for pre-training.
"""

from __future__ import annotations

import fire

from custom.phantoms.abide import write_study as abide
from custom.phantoms.haxby import write_study as haxby
from custom.phantoms.learning_stage import write_study as learning_stage
from custom.phantoms.motor import write_study as motor
from custom.phantoms.oasis import write_study as oasis
from custom.phantoms.oasis_slices import write_slices as oasis_slices


def main() -> None:
    """Command line: one subcommand per study."""
    studies = {"abide": abide, "haxby": haxby, "learning_stage": learning_stage, "motor": motor, "oasis": oasis}
    fire.Fire({**studies, "oasis_slices": oasis_slices})


if __name__ == "__main__":
    main()
