"""What can be checked of a bundle without running anything of it; each check yields its complaints, none if all is well.

:py:mod:`run_bundle` has the checks that run the bundle's own code, ``verify_bundle.py`` is the command.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from jsonschema import Draft201909Validator

__all__ = [
    "CHECKS",
    "READ_METADATA",
    "check_packed",
    "is_large_file",
    "large_files",
    "metadata_of",
    "model_card",
    "names_custom",
    "read_json",
    "sha256",
    "strings",
]

SCHEMA = Path(__file__).with_name("metadata_schema.json")
REQUIRED = ["LICENSE", *(f"configs/{name}.json" for name in ("metadata", "inference", "train"))]
REQUIRED += ["docs/README.md", "docs/data_license.txt"]
LICENSES = {"apache-2.0": ("Apache License", "Version 2.0"), "mit": ("MIT License",)}
HEADER = "---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: {}\n---\n"
WRITTEN_BY_RUNS = ("data", "raw", "eval", "models/last.pt", "models/*.csv")
WEIGHTS = "models/model.pt"
EXACT = re.compile(r"\d+(\.\d+)*((a|b|rc|\.post)\d+)?$")
ABSOLUTE = re.compile(r"/\w|~|[A-Za-z]:[\\/]|\\\\|file:")
IN_EXPRESSION = re.compile(r"(?<!\+)(?<!\+ )['\"](/\w|~/|[A-Za-z]:[\\/])")  # not "@folder + '/file'"


def read_json(path: Path) -> Any:
    """Read JSON whose objects name no key twice; ValueError says where it is broken."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is given twice")
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)


def metadata_of(folder: Path) -> dict[str, Any]:
    """``metadata.json``, or nothing where it cannot be read, which ``check_files`` and ``check_configs`` complain of."""
    return _json_object(folder / "configs" / "metadata.json")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def license_name(folder: Path) -> str:
    """The name by which Hugging Face knows the licence, as MONAI's ``push_to_hf_hub`` finds it out."""
    path = folder / "LICENSE"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return next((name for name, words in LICENSES.items() if all(word in text for word in words)), "unknown")


def model_card(folder: Path) -> str:
    """``docs/README.md`` under the header that MONAI's ``push_to_hf_hub`` puts there."""
    return HEADER.format(license_name(folder)) + (folder / "docs" / "README.md").read_text(encoding="utf-8")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the checks


def check_files(folder: Path) -> Iterator[str]:
    """What the zoo requires, and a licence that Hugging Face knows."""
    for name in REQUIRED:
        if not (folder / name).is_file():
            yield f"{name} is missing"
    if (folder / "LICENSE").is_file() and license_name(folder) == "unknown":
        yield "LICENSE holds neither the text of Apache-2.0 nor that of MIT"


def check_metadata(folder: Path) -> Iterator[str]:
    """The zoo's schema."""
    validator = Draft201909Validator(json.loads(SCHEMA.read_text()))
    for error in validator.iter_errors(metadata_of(folder)):
        yield f"configs/metadata.json, {'/'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}"


def check_version(folder: Path) -> Iterator[str]:
    """The changelog tells what the version brings."""
    meta = metadata_of(folder)
    version, changelog = meta.get("version"), meta.get("changelog", {})
    if version not in changelog:
        yield f"version {version} is not in the changelog, whose versions are {', '.join(changelog) or 'none'}"


def check_packages(folder: Path) -> Iterator[str]:
    """Every version is exact, and the one that ``requirements.txt`` installs."""
    meta, pinned = metadata_of(folder), pins(folder / "requirements.txt")
    base = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    versions = {name: meta.get(key) for name, key in base.items()} | dict(meta.get("required_packages_version", {}))
    for name, version in versions.items():
        if not EXACT.match(str(version)):
            yield f"the version of {name}, {version}, is not an exact one, which the zoo's CI installs"
        elif pinned and version not in pinned.get(canonical(name), set()):
            wanted = " or ".join(sorted(pinned.get(canonical(name), {"nothing"})))
            yield f"{name} is {version} in configs/metadata.json, requirements.txt installs {wanted}"


def pins(path: Path) -> dict[str, set[str]]:
    """Package -> versions that the lines ``name==version`` name; markers may choose among several."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text() if path.is_file() else "", re.M):
        found.setdefault(canonical(name), set()).add(version)
    return found


def canonical(name: str) -> str:
    """The name of a package as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_classes(folder: Path) -> Iterator[str]:
    """The output of a classifier has the label's classes as channels; ``run_bundle`` compares them with the network's."""
    meta = metadata_of(folder)
    pred = meta.get("network_data_format", {}).get("outputs", {}).get("pred", {})
    if not isinstance(pred, dict) or pred.get("format") != "classes":
        return
    labels = dict(re.findall(r"(\d+): ([^,]+)", str(meta.get("label_classes"))))
    if labels != pred.get("channel_def"):
        yield f"label_classes {labels} are not the channels of pred, {pred.get('channel_def')}"
    if pred.get("num_channels") != len(labels):
        yield f"pred has {pred.get('num_channels')} channels for {len(labels)} classes"


def check_configs(folder: Path) -> Iterator[str]:
    """Every configuration parses, names no key twice, no ``#`` (MONAI rewrites it), and no place of one machine."""
    for path in sorted((folder / "configs").glob("*.json")):
        try:
            content = read_json(path)
        except ValueError as error:
            yield f"configs/{path.name} cannot be read: {error}"
            continue
        if path.name == "metadata.json":
            continue
        for key, text in strings(content):
            if "#" in text:
                yield f"configs/{path.name}, {key}: MONAI turns the '#' in {text!r} into '::'"
            if (IN_EXPRESSION.search if text.startswith("$") else ABSOLUTE.match)(text):
                yield f"configs/{path.name}, {key}: {text!r} is an absolute path, which other machines do not have"


def strings(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a configuration with its id."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in items:
            yield from strings(value, f"{key}::{name}" if key else str(name))


def check_weights(folder: Path) -> Iterator[str]:
    """Weights that are claimed are there, and are those that ``model.json`` and ``large_files.yml`` describe."""
    weights, described = folder / WEIGHTS, folder / "models" / "model.json"
    for entry in large_files(folder):
        if not is_large_file(entry):
            yield f"large_files lists {entry!r}, which lacks path, url, hash_val or hash_type"
            continue
        path = folder / entry["path"]
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"large_files leads out of the bundle: {entry['path']}"
        elif not path.is_file():
            yield f"{entry['path']} is missing: fetch it by monai.bundle download_large_files, or lay it beside the archive"
        elif entry["hash_type"] != "sha256":
            yield f"large_files gives no sha256 of {entry['path']}"
        elif sha256(path) != entry["hash_val"]:
            yield f"{entry['path']} is not the file whose sha256 large_files gives"
    if weights.is_file() != described.is_file():
        there, missing = (weights, described) if weights.is_file() else (described, weights)
        yield f"models/{missing.name} is missing beside models/{there.name}"
    elif weights.is_file() and sha256(weights) != (known := _json_object(described).get("weights_sha256")):
        yield f"{WEIGHTS} is not what models/model.json describes (sha256 {known}): one of them is of another training"


def is_large_file(entry: Any) -> bool:
    """Whether an entry says all that it takes to fetch a file and to know it."""
    return isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("path", "url", "hash_val", "hash_type"))


def large_files(folder: Path) -> list[Any]:
    """The entries of ``large_files.yml``, ``.yaml`` or ``.json``; MONAI reads it, which needs PyYAML."""
    paths = [p for p in sorted(folder.glob("large_files.*")) if p.suffix in (".yml", ".yaml", ".json")]
    if not paths:
        return []
    from monai.bundle import ConfigParser  # seconds, which few bundles need

    lists = [ConfigParser.load_config_file(path).get("large_files") for path in paths]
    return list(chain.from_iterable(found if isinstance(found, list) else [found] for found in lists))


def check_packed(folder: Path) -> Iterator[str]:
    """Of an archive: it has what it needs to run alone, and nothing that a run wrote, such as scans of people."""
    for name in ("requirements.txt", "README.md"):
        if not (folder / name).is_file():
            yield f"{name} is missing: pack the bundle by scripts/package_bundle.py"
    if names_custom(folder) and not (folder / "custom" / "__init__.py").is_file():
        yield "custom/ is missing, which the configs name: the bundle cannot run alone"
    for path in chain.from_iterable(sorted(folder.glob(pattern)) for pattern in WRITTEN_BY_RUNS):
        yield (f"{path.relative_to(folder)} was written by a run and may hold people's data: it is not to be shared")


def names_custom(folder: Path) -> bool:
    """Whether a configuration names a component of ``custom``."""
    return any('"custom.' in path.read_text(encoding="utf-8") for path in (folder / "configs").glob("*.json"))


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "files": check_files,
    "metadata": check_metadata,
    "version": check_version,
    "packages": check_packages,
    "classes": check_classes,
    "configs": check_configs,
    "weights": check_weights,
}
READ_METADATA = ("version", "packages", "classes")  # which the schema is to fit first
