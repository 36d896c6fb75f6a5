"""The checks of a bundle that run its own code, in a process of their own: ``run_bundle.py FOLDER RESULTS WORK CHECK…``.

``verify_bundle.py`` starts it with the bundle in front of ``PYTHONPATH``, so that what is checked is the bundle's copy of
``custom`` and never the repository's. A line of JSON goes to RESULTS as each check ends; an error ends the process, with its
cause as the last line.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

import torch
from bundle_checks import WEIGHTS, metadata_of, names_custom, read_json, strings
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out

__all__ = ["CHECKS"]

STANDALONE = ("train", "preprocess", "inference", "decode")  # the configurations that no other is beneath
ON_TOP = ("", "evaluate", "explain", "explore", "detect_anomalies", "generate")


def config(folder: Path, name: str) -> str:
    """Path of a configuration."""
    return str(folder / "configs" / f"{name}.json")


def parsed(folder: Path, *names: str, **override: Any) -> ConfigParser:
    """Read configurations on top of each other, and the metadata."""
    parser = ConfigParser()
    parser.read_config([config(folder, name) for name in names])
    parser.read_meta(config(folder, "metadata"))
    parser.update(override)
    return parser


def check_code(folder: Path, work: Path) -> Iterator[str]:
    """The bundle's own ``custom`` is at work, and has every component that a configuration names."""
    if not names_custom(folder):
        return
    home = Path(importlib.import_module("custom").__file__ or "").resolve().parent
    if (folder / "custom").is_dir() and home != (folder / "custom").resolve():
        yield f"the package custom comes from {home}, not from the bundle"
    for path in sorted((folder / "configs").glob("*.json")):
        for key, text in strings(read_json(path)):
            if key.endswith("_target_") and text.startswith("custom.") and locate(text) is None:
                yield f"configs/{path.name}, {key}: there is no {text}"


def check_keys(folder: Path, work: Path) -> Iterator[str]:
    """Every configuration fits on top of some other, and something there reads each of its keys."""
    unread = importlib.import_module("custom.config").unread_keys if names_custom(folder) else lambda content: []
    bases = [name for name in STANDALONE if Path(config(folder, name)).is_file()]
    between = [name for name in ON_TOP if not name or Path(config(folder, name)).is_file()]
    for path in sorted((folder / "configs").glob("*.json")):
        if path.stem == "metadata":
            continue
        stacks = (
            [[path.stem]] if path.stem in bases else [[a, *filter(None, [b]), path.stem] for a, b in product(bases, between)]
        )
        complaints = []
        for stack in (s for s in stacks if len(set(s)) == len(s)):
            complaints.append(_complaint(folder, stack, unread))
            if not complaints[-1]:
                break
        else:
            yield f"configs/{path.name}: {min(complaints, key=len)}"


def _complaint(folder: Path, stack: list[str], unread: Callable[[Any], list[str]]) -> str:
    """What is wrong with configurations on top of each other; empty if nothing is."""
    try:
        own = {key.split("::")[0].lstrip("+") for key in read_json(Path(config(folder, stack[-1])))}
        dead = own.intersection(unread(parsed(folder, *stack).get()))
    except KeyError as error:  # an id that reaches into nothing
        return f"does not fit on {' + '.join(stack[:-1])}: {error}"
    return f"nothing reads {', '.join(sorted(dead))}" if dead else ""


def check_network(folder: Path, work: Path) -> Iterator[str]:
    """The network takes and gives the declared shapes, for the declared classes."""
    meta, given = metadata_of(folder), _settings(folder, "network")
    inputs = {k: v for k, v in meta["network_data_format"]["inputs"].items() if k != "image"}
    extra = {name: torch.zeros(1, dtype=getattr(torch, value["dtype"])) for name, value in inputs.items()}
    shapes = [config(folder, "metadata"), config(folder, "inference")]
    verify_net_in_out("network_def", *shapes, any=8, device="cpu", extra_forward_args=extra, **given)
    parser = parsed(folder, "inference", **given)
    labels = [text.split(": ", 1)[-1] for text in str(meta.get("label_classes")).split(", ")]
    if "class_names" in parser and (named := parser.get_parsed_content("class_names")) != labels:
        yield f"label_classes are {labels}, the network of configs/inference.json has {named}"


def check_export(folder: Path, work: Path) -> Iterator[str]:
    """The weights fit the network and go into TorchScript, a network of several inputs into ONNX; a ``model.ts`` loads."""
    load_weights(folder)
    export(folder, work / ("model.ts" if _takes_one_input(folder) else "model.onnx"))
    for path in (folder / "models").glob("model.ts"):
        torch.jit.load(path, map_location="cpu")
    yield from ()


def load_weights(folder: Path) -> None:
    """Load ``models/model.pt`` into the network of ``inference.json``; RuntimeError if it does not fit."""
    network = parsed(folder, "inference").get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))


def export(folder: Path, path: Path) -> None:
    """Write TorchScript by MONAI's ``ckpt_export``, or ONNX by the bundle's ``export.json``, from its ``models/model.pt``."""
    if path.suffix == ".onnx":
        _run(folder, "infer", "inference", "export", ckpt_path=str(folder / WEIGHTS), onnx_path=str(path))
        return
    if not _takes_one_input(folder):
        raise ValueError(f"{folder.name} has a network of several inputs, MONAI's ckpt_export knows one: give --onnx instead.")
    files = str(path), str(folder / WEIGHTS), config(folder, "metadata"), config(folder, "inference")
    ckpt_export("network_def", *files, use_trace=True)


def write_export(name: str) -> Callable[[Path, Path], Iterator[str]]:
    """Return what writes ``models/<name>`` for ``package_bundle.py``; what a process did before shows in TorchScript."""

    def write(folder: Path, work: Path) -> Iterator[str]:
        export(folder, folder / "models" / name)
        yield from ()

    return write


def _takes_one_input(folder: Path) -> bool:
    return len(metadata_of(folder)["network_data_format"]["inputs"]) == 1


def check_trial(folder: Path, work: Path) -> Iterator[str]:
    """On the bundle's phantom: prepare, have MONAI's properties, train for one epoch, infer."""
    phantom = _settings(folder, "phantom")
    if not phantom:
        return
    raw, data, ckpt = str(work / "raw"), str(work / "data"), str(work / "models/model.pt")
    importlib.import_module(f"custom.phantoms.{phantom.pop('study')}").write_study(raw, **phantom)
    _run(folder, "train", "preprocess", raw_dir=raw, dataset_dir=data)
    places = {"dataset_dir": data, "ckpt_dir": str(work / "models"), "output_dir": str(work / "eval")}
    yield from _run(folder, "train", "train", epochs=1, **places)
    yield from _run(folder, "infer", "inference", dataset_dir=raw, ckpt_path=ckpt, output_dir=places["output_dir"])


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """What ``metadata.json`` says under ``trial`` of a run that is small enough for a test."""
    return dict(metadata_of(folder).get("trial", {}).get(name, {}))


def _run(folder: Path, kind: str, *names: str, **override: Any) -> list[str]:
    """Run configurations with the trial's settings and return the properties that MONAI asks for and does not find."""
    files = [config(folder, name) for name in names]
    settings = {} if names[-1] == "export" else _settings(folder, names[-1])
    workflow = ConfigWorkflow(config_file=files, workflow_type=kind, logging_file=False, **settings | override)
    workflow.initialize()
    missing = workflow.check_properties() if names[-1] in ("train", "inference") else []
    workflow.run()
    workflow.finalize()
    return [f"configs/{names[-1]}.json lacks the property {name} that MONAI asks for" for name in missing or []]


CHECKS: dict[str, Callable[[Path, Path], Iterator[str]]] = {
    "code": check_code,
    "keys": check_keys,
    "network": check_network,
    "export": check_export,
    "trial": check_trial,
    "model.ts": write_export("model.ts"),
    "model.onnx": write_export("model.onnx"),
}


def main(folder: str, results: str, work: str, *names: str) -> None:
    """Run the named checks in turn."""
    current = [""]

    def tell(complaints: list[str]) -> None:
        with Path(results).open("a") as lines:
            lines.write(json.dumps([current[0], complaints]) + "\n")

    def tell_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = error
        while cause.__cause__:
            cause = cause.__cause__
        tell([f"{type(cause).__name__}: {cause}"])
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = tell_cause
    for name in names:
        current[0] = name
        tell(list(CHECKS[name](Path(folder), Path(work))))


if __name__ == "__main__":
    main(*sys.argv[1:])
