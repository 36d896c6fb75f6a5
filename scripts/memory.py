"""Memory of a bundle: ``python scripts/memory.py oasis``, ``abide``, ``haxby``, or ``fmri`` for the two decoders.

Prints the peak of preparation for few and for many subjects, and the memory of training: at the end of each epoch of the 3D
network, or the peak of a step on one whole scan of the others. Of the diffusion bundle: the peak of a step, of the fit before
it, and of generation.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import fire
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from custom.phantoms import abide as abide_phantom
from custom.phantoms import oasis as oasis_phantom

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
OASIS = BUNDLES / "oasis_mri_alzheimers_classification" / "configs"
ABIDE = BUNDLES / "abide_fmri_asd_classification" / "configs"
ONE_STEP = """
import sys, torch
from custom.networks import CNNTransformer, SliceCNNLSTM, SliceViT
network, shape = eval(sys.argv[1]), eval(sys.argv[2])
torch.nn.functional.cross_entropy(network(torch.randn(1, *shape)), torch.tensor([0])).backward()
"""
RUNS = {  # whole runs: what the decoders' windows can grow to
    "CNNTransformer(4, (100, 100, 100), 232)": (232, 100, 100, 100),
    "SliceViT(2, (64, 64, 30), 237)": (237, 64, 64, 30),
    "SliceViT(2, (64, 64, 30), 237, dim=192, slice_depth=6, frame_depth=2)": (237, 64, 64, 30),
}

HAXBY = BUNDLES / "haxby_fmri_diffusion" / "configs"
HAXBY_TASK = """
import json, sys, torch
from monai.bundle import ConfigParser
from custom.diffusion import generate
parser = ConfigParser()
parser.read_config(sys.argv[1])
parser.update({"device": "cpu", **json.loads(sys.argv[3])})
network, batch, classes, frames, grid = map(
    parser.get_parsed_content, ("network", "batch_size", "num_classes", "frames", "spatial_size")
)
if sys.argv[2] == "fit":
    network.gaussian.fit(torch.randn(8 * classes, frames, *grid), torch.arange(8 * classes) % classes)
elif sys.argv[2] == "training step":
    optimizer = parser.get_parsed_content("optimizer")
    network(torch.randn(batch, frames, *grid), torch.tensor([500]), torch.zeros(batch).long()).square().mean().backward()
    optimizer.step()
else:
    sampler = parser.get_parsed_content("sampler")
    sampler.set_timesteps(2)  # from the second on all steps are alike
    generate(network, sampler, (frames, *grid), [0] * batch, range(batch))
"""
WINDOWS: dict[str, dict] = {  # batch and grid -> settings of train.json
    "1×9×40×64×64": {"batch_size": 1},
    "12×9×64×64×1": {"spatial_size": [64, 64, 1]},
}


def oasis(few: int = 6, many: int = 24, epochs: int = 5) -> None:
    """Measure on phantoms of 2 mm, prepared to the bundle's 128³.

    Args:
        few: subjects of the small study.
        many: subjects of the large one.
        epochs: of the training on the small study.
    """
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            oasis_phantom.write_study(f"{folder}/raw{count}", n_subjects=count, with_cdr_only=True)
            peak = _prepare(OASIS, folder, count, ["--split::test=0.5", "--split::validation=0.5"])
            print(f"preparation of {count} subjects: peak {peak:.0f} MiB in the largest process")
        _train(f"{folder}/data{few}", folder, epochs)


def abide(few: int = 2, many: int = 8) -> None:
    """Measure on phantoms of 64×64×34 voxels and 176 frames, prepared to the bundle's grid, at three sites.

    Args:
        few: subjects of a site in the small study.
        many: subjects of a site in the large one.
    """
    for strides in ("(2, 2, 1)", "(1, 1, 1)"):
        peak = _peak([sys.executable, "-c", ONE_STEP, f"SliceCNNLSTM(strides={strides})", "(176, 64, 64, 34)"])
        print(f"training step on one 64×64×34×176 scan, strides {strides}: peak {peak:.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            abide_phantom.write_study(f"{folder}/raw{count}", 3, count, shape=(64, 64, 34), n_frames=176)
            peak = _prepare(ABIDE, folder, count, ["--split::stratify=label", "--split::test=0.34", "--split::validation=0.5"])
            print(f"preparation of {3 * count} subjects: peak {peak:.0f} MiB in the largest process")


def fmri() -> None:
    """Measure a training step of the decoders' networks on one whole run, which alone takes ``T × X × Y × Z × 4`` bytes."""
    for network, shape in RUNS.items():
        peak = _peak([sys.executable, "-c", ONE_STEP, network, str(shape)])
        print(f"training step on one run of {'×'.join(map(str, shape))}, {network}: peak {peak:.0f} MiB")


def haxby() -> None:
    """Measure the diffusion bundle on its whole grid, window by window, and on batches of one slice; nothing is read."""
    for name, settings in WINDOWS.items():
        tasks = [("fit", False), ("generation", False), ("training step", True), ("training step", False)]
        for task, checkpointing in tasks:
            changed = json.dumps({**settings, "network_def::unet::checkpointing": checkpointing})
            peak = _peak([sys.executable, "-c", HAXBY_TASK, str(HAXBY / "train.json"), task, changed])
            print(f"{task} {name}, {'' if checkpointing else 'no '}checkpointing: peak {peak:.0f} MiB", flush=True)


def _prepare(configs: Path, folder: str, count: int, arguments: list[str]) -> float:
    arguments = [f"--raw_dir={folder}/raw{count}", f"--dataset_dir={folder}/data{count}", *arguments]
    return _peak([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs / "preprocess.json"), *arguments])


def _peak(command: list[str]) -> float:
    """Run a command; return the peak of the largest of its processes in MiB, never less than this process holds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # of the process and of those that it waited for
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return usage.ru_maxrss / 1024


def _train(dataset: str, folder: str, epochs: int) -> None:
    files = [str(OASIS / "train.json")]
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
    fire.Fire({"oasis": oasis, "abide": abide, "fmri": fmri, "haxby": haxby})


if __name__ == "__main__":
    main()
