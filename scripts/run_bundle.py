"""The checks of a bundle that run its own code, in a process of their own: ``run_bundle.py FOLDER RESULTS WORK CHECK…``.

``verify_bundle.py`` starts it with the bundle in front of ``PYTHONPATH``, so that what is checked is the bundle's copy of
``custom`` and never the repository's. A line of JSON goes to RESULTS as each check ends; an error ends the process, with its
cause as the last line.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

import onnx
import torch
from bundle_checks import WEIGHTS, class_names, is_shared, metadata_of, names_custom, read_json, sha256, strings
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from torch import nn

__all__ = ["CHECKS", "check_fit", "export"]

STANDALONE = ("train", "preprocess", "inference", "decode")  # the configurations that no other is beneath
ON_TOP = ("", "evaluate", "explain", "explore", "detect_anomalies", "generate")
WRITTEN_ANEW = ("version", "byteorder", ".data/serialization_id")  # records that PyTorchFileWriter adds itself


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
    for path in sorted((folder / "configs").glob("*.json")):
        complaints = []
        for stack in _stacks(folder, path.stem) if path.stem != "metadata" else ():
            complaints.append(_complaint(folder, stack, unread))
            if not complaints[-1]:
                break
        else:
            yield from (f"configs/{path.name}: {text}" for text in sorted(complaints, key=len)[:1])


def _stacks(folder: Path, name: str) -> Iterator[list[str]]:
    """The configurations that one may lie on, itself on top."""
    bases, between = ([n for n in names if not n or Path(config(folder, n)).is_file()] for names in (STANDALONE, ON_TOP))
    if name in bases:
        yield [name]
        return
    yield from ([base, *filter(None, [other]), name] for base, other in product(bases, between) if other != name)


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
    labels = list(class_names(meta).values())
    if "class_names" in parser and (named := parser.get_parsed_content("class_names")) != labels:
        yield f"label_classes are {labels}, the network of configs/inference.json has {named}"


def check_fit(folder: Path) -> Iterator[str]:
    """The weights fit network and classes of ``inference.json``, and what else ``models/`` holds was fitted to them."""
    from custom.networks.weights_digest import weights_digest

    parser, weights = parsed(folder, "inference"), folder / WEIGHTS
    others = [p for p in sorted((folder / "models").rglob("*.pt")) if p != weights and is_shared(p.relative_to(folder))]
    try:
        network = _with_weights(parser.get_parsed_content("network_def"), weights)
        fitted_to = {path: _digest_in(path) for path in others}
        known = read_json(weights.with_suffix(".json")).get("class_names")
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
        return
    if known and "class_names" in parser and (named := parser.get_parsed_content("class_names")) != known:
        yield f"{WEIGHTS} was trained for {known}, as models/model.json says, configs/inference.json names {named}"
    digests = {None, "", *(weights_digest(module) for module in (network, *network.children()))}
    for path in [path for path, digest in fitted_to.items() if digest not in digests]:
        yield f"{path.relative_to(folder)} was fitted to other weights than {WEIGHTS}: fit it again, or remove it"


def _with_weights(network: nn.Module, path: Path) -> nn.Module:
    from custom.own_files import load_tensors  # of the bundle, which may have none

    weights = load_tensors(path, "put a copy in its place, or train again.")
    try:
        network.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} does not fit the network of configs/inference.json: the settings and overlays that it was trained with "
            f"belong into that file. {error}"
        ) from error
    return network


def _digest_in(path: Path) -> str | None:
    """Of the network that a probe was fitted to, or of the extractor that a harmonizer was; None for other files."""
    from custom.own_files import load_tensors

    content = load_tensors(path, "fit it again, or remove it.")
    names = content.get("_extra_state")  # of a harmonizer JSON, of an extractor the strides
    if isinstance(names, torch.Tensor) and names.dtype == torch.uint8:
        return json.loads(bytes(names.tolist())).get("feature_digest")
    return content["weights"] if isinstance(content.get("weights"), str) else None


def check_export(folder: Path, work: Path) -> Iterator[str]:
    """The weights fit and go into TorchScript, of a network of several inputs into ONNX; exports are of these weights."""
    complaints = list(check_fit(folder))
    yield from complaints or _check_exports(folder)
    if not complaints:
        export(folder, work / ("model.ts" if _takes_one_input(folder) else "model.onnx"))


def _check_exports(folder: Path) -> Iterator[str]:
    weights, ts, graph = (folder / "models" / f"model{suffix}" for suffix in (".pt", ".ts", ".onnx"))
    stale = "holds other weights than model.pt: export it again, or remove it"
    if ts.is_file():
        found, wanted = torch.jit.load(ts, map_location="cpu").state_dict(), torch.load(weights, weights_only=True)
        tensors = {name: value for name, value in wanted.items() if not name.endswith("_extra_state")}
        if not all(name in found and torch.equal(found[name], value) for name, value in tensors.items()):
            yield f"models/model.ts {stale}"
    if graph.is_file():
        told = {entry.key: entry.value for entry in onnx.load(graph, load_external_data=False).metadata_props}
        if told.get("weights_sha256") != json.dumps(sha256(weights)):
            yield f"models/model.onnx {stale}"


def export(folder: Path, path: Path) -> None:
    """Write TorchScript by MONAI's ``ckpt_export``, or ONNX by the bundle's ``export.json``, from its ``models/model.pt``.

    Of ``export.json`` only the export runs: a record of the run would name places of this machine.
    """
    if path.suffix == ".onnx":
        _run(folder, "infer", "inference", "export", ckpt_path=str(folder / WEIGHTS), onnx_path=str(path), run=["@export"])
        return
    if not _takes_one_input(folder):
        raise ValueError(f"{folder.name} has a network of several inputs, MONAI's ckpt_export knows one: give --onnx instead.")
    files = str(path), str(folder / WEIGHTS), config(folder, "metadata"), config(folder, "inference")
    ckpt_export("network_def", *files, use_trace=True)
    _leave_out_places(path)


def _leave_out_places(path: Path) -> None:
    """Write TorchScript again without what names source files of this machine, and torch's digest of all of it."""
    reader, plain = torch._C.PyTorchFileReader(str(path)), path.with_suffix(".plain")
    writer = torch._C.PyTorchFileWriter(str(plain))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in WRITTEN_ANEW:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    plain.replace(path)


def write_export(name: str) -> Callable[[Path, Path], list[str]]:
    """Return what writes ``models/<name>`` for ``package_bundle.py``; what a process did before shows in TorchScript."""

    def write(folder: Path, work: Path) -> list[str]:
        export(folder, folder / "models" / name)
        return []

    return write


def _takes_one_input(folder: Path) -> bool:
    return len(metadata_of(folder)["network_data_format"]["inputs"]) == 1


def check_trial(folder: Path, work: Path) -> Iterator[str]:
    """On the bundle's phantom: prepare, have MONAI's properties, train for one epoch, infer."""
    phantom = _settings(folder, "phantom")
    raw, data, ckpt = str(work / "raw"), str(work / "data"), str(work / "models/model.pt")
    importlib.import_module(f"custom.phantoms.{phantom.pop('study')}").write_study(raw, **phantom)
    _run(folder, "train", "preprocess", raw_dir=raw, dataset_dir=data)
    places = {"dataset_dir": data, "ckpt_dir": str(work / "models"), "output_dir": str(work / "eval")}
    yield from _run(folder, "train", "train", epochs=1, **places)
    before = _results(work)
    yield from _run(folder, "infer", "inference", dataset_dir=raw, ckpt_path=ckpt, output_dir=places["output_dir"])
    if not _results(work) - before:
        yield "configs/inference.json wrote nothing into its output_dir"


def _results(work: Path) -> set[Path]:
    """The files below the trial's ``output_dir``, but for records of runs and locks."""
    files = [path for path in (work / "eval").rglob("*") if path.is_file()]
    return {path for path in files if path.parent.name != "runs" and not path.name.startswith(".")}


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


CHECKS: dict[str, Callable[[Path, Path], Iterable[str]]] = {
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
