"""Memory of the OASIS bundle: ``python scripts/memory.py``.

Prints the peak of preparation for few and for many subjects, and the memory at the end of each epoch of 3D training.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import fire
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from custom.phantoms.oasis import write_study

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "oasis_mri_alzheimers_classification" / "configs"


def memory(few: int = 6, many: int = 24, epochs: int = 5) -> None:
    """Measure on phantoms of 2 mm, prepared to the bundle's 128³.

    Args:
        few: subjects of the small study.
        many: subjects of the large one.
        epochs: of the training on the small study.
    """
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            write_study(f"{folder}/raw{count}", n_subjects=count, with_cdr_only=True)
            print(f"preparation of {count} subjects: peak {_prepare(folder, count):.0f} MiB in the largest process")
        _train(f"{folder}/data{few}", folder, epochs)


def _prepare(folder: str, count: int) -> float:
    """Peak of the largest process so far: it stays where it was if more subjects need no more memory."""
    arguments = [f"--raw_dir={folder}/raw{count}", f"--dataset_dir={folder}/data{count}", "--split::validation=0.5"]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "preprocess.json"), *arguments]
    subprocess.run([*command, "--split::test=0.5"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _train(dataset: str, folder: str, epochs: int) -> None:
    files = [str(CONFIGS / "train.json")]
    paths = {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}
    small = {"epochs": epochs, "batch_size": 2, "loss::weight": None}  # so few subjects need not hold every class
    workflow = ConfigWorkflow(files, logging_file=False, **paths, **small)
    workflow.initialize()
    trainer: Engine = workflow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: print(f"epoch {e.state.epoch}: {_resident():.0f} MiB"))
    workflow.run()
    workflow.finalize()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Command line."""
    fire.Fire(memory)


if __name__ == "__main__":
    main()
