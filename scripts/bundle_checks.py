"""What can be checked of a bundle without running anything of it; each check yields its complaints, none if all is well.

:py:mod:`run_bundle` has the checks that run the bundle's own code, ``verify_bundle.py`` is the command.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from jsonschema import Draft201909Validator

__all__ = [
    "CHECKS",
    "EXPORTS",
    "check_packed",
    "class_names",
    "is_large_file",
    "is_shared",
    "large_files",
    "metadata_of",
    "model_card",
    "names_custom",
    "read_checks",
    "read_json",
    "sha256",
    "strings",
]

SCHEMA = Path(__file__).with_name("metadata_schema.json")
REQUIRED = ["LICENSE", *(f"configs/{name}.json" for name in ("metadata", "inference", "train"))]
REQUIRED += ["docs/README.md", "docs/data_license.txt"]
LICENSES = {"apache-2.0": ("Apache License", "Version 2.0"), "mit": ("MIT License",)}
HEADER = "---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: {}\n---\n"
SHARED = ("LICENSE", "configs", "docs", "models")  # of a bundle; all else may be people's data, or leads to them
ADDED = ("README.md", "custom", "requirements.txt", "large_files.yml", "large_files.yaml", "large_files.json")  # in an archive
EXPORTS = (".ts", ".onnx")
OF_MODELS = (".pt", ".json", *EXPORTS)
TRAINING_STATE = "last.pt"
COMPILED = (".pyc", ".pyo", ".so", ".pyd")  # code that nobody can read before running it
WEIGHTS = "models/model.pt"
VERSION = re.compile(r"\d+\.\d+\.\d+")
EXACT = re.compile(r"\d+(\.\d+)*((a|b|rc|\.post)\d+)?$")
ABSOLUTE = re.compile(r"/\w|~|[A-Za-z]:[\\/]|\\\\|file:")
IN_EXPRESSION = re.compile(r"(?<!\+)(?<!\+ )['\"](/\w|~/|[A-Za-z]:[\\/])")  # not "@folder + '/file'"


def read_json(path: Path) -> Any:
    """Read JSON whose objects name no key twice; ValueError says where it is broken."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
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
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def license_name(folder: Path) -> str:
    """The name by which Hugging Face knows the licence, as MONAI's ``push_to_hf_hub`` finds it out."""
    path = folder / "LICENSE"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return next((name for name, words in LICENSES.items() if all(word in text for word in words)), "unknown")


def model_card(folder: Path) -> str:
    """``docs/README.md`` under the header that MONAI's ``push_to_hf_hub`` puts there."""
    return HEADER.format(license_name(folder)) + (folder / "docs" / "README.md").read_text(encoding="utf-8")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def class_names(meta: dict[str, Any]) -> dict[str, str]:
    """The ``label_classes``, channel -> class."""
    return dict(re.findall(r"(\d+): ([^,]+)", str(meta.get("label_classes"))))


def is_shared(path: PurePath) -> bool:
    """Whether a file of a bundle's folder, named from there, goes into an archive."""
    if path.parts[0] not in SHARED or path.suffix in COMPILED or any(part.startswith(".") for part in path.parts):
        return False
    return path.parts[0] != "models" or (path.suffix in OF_MODELS and path.name != TRAINING_STATE)


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
    """Three numbers, of which the changelog tells what they bring."""
    meta = metadata_of(folder)
    version, changelog = meta.get("version"), meta.get("changelog", {})
    if not VERSION.fullmatch(str(version)):
        yield f"version {version} is not three numbers such as 1.0.0"
    elif version not in changelog:
        yield f"version {version} is not in the changelog, whose versions are {', '.join(changelog) or 'none'}"


def check_packages(folder: Path) -> Iterator[str]:
    """Every version is exact, and the one that ``requirements.txt`` installs."""
    meta, pinned = metadata_of(folder), pins(folder / "requirements.txt")
    base = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    versions = {name: meta.get(key) for name, key in base.items()} | dict(meta.get("required_packages_version", {}))
    for name, version in versions.items():
        if not EXACT.match(str(version)):
            yield f"the version of {name}, {version}, is not an exact one, which the zoo's CI installs"
        elif pinned is not None and version not in pinned.get(canonical(name), set()):
            wanted = " or ".join(sorted(pinned.get(canonical(name), {"no exact version of it"})))
            yield f"{name} is {version} in configs/metadata.json, requirements.txt installs {wanted}"


def pins(path: Path) -> dict[str, set[str]] | None:
    """Package -> versions that the lines ``name==version`` name; markers may choose among several. None without a file."""
    if not path.is_file():
        return None
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(encoding="utf-8", errors="replace"), re.M):
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
    labels = class_names(meta)
    if labels != pred.get("channel_def"):
        yield f"label_classes {labels} are not the channels of pred, {pred.get('channel_def')}"
    if pred.get("num_channels") != len(labels):
        yield f"pred has {pred.get('num_channels')} channels for {len(labels)} classes"


def check_configs(folder: Path) -> Iterator[str]:
    """Every configuration parses, names no key twice, no ``#`` (MONAI rewrites it), and no place of one machine."""
    for path in sorted((folder / "configs").glob("*.json")):
        try:
            complaints = [f"configs/{path.name}, {text}" for text in _complaints_of_config(path)]
        except (ValueError, RecursionError) as error:
            complaints = [f"configs/{path.name} cannot be read: {error}"]
        yield from complaints


def _complaints_of_config(path: Path) -> Iterator[str]:
    content = read_json(path)
    for key, text in strings(content) if path.name != "metadata.json" else ():
        if "#" in text:
            yield f"{key}: MONAI turns the '#' in {text!r} into '::'"
        if (IN_EXPRESSION.search if text.startswith("$") else ABSOLUTE.match)(text):
            yield f"{key}: {text!r} is an absolute path, which other machines do not have"


def strings(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a configuration with its id."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in items:
            yield from strings(value, f"{key}::{name}" if key else str(name))


def check_large_files(folder: Path) -> Iterator[str]:
    """What ``large_files.yml`` lists is there, and is what it describes."""
    try:
        entries = large_files(folder)
    except ValueError as error:
        yield str(error)
        return
    for entry in entries:
        if not is_large_file(entry):
            yield f"large_files lists {reprlib.repr(entry)}, which lacks path, url, hash_val or hash_type"
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


def check_weights(folder: Path) -> Iterator[str]:
    """Weights that are claimed are there, are those that the file beside them describes, and know the bundle's classes."""
    weights, described = folder / WEIGHTS, folder / "models" / "model.json"
    if weights.is_file() != described.is_file():
        there, missing = (weights, described) if weights.is_file() else (described, weights)
        yield f"models/{missing.name} is missing beside models/{there.name}"
    for path in sorted((folder / "models").rglob("*.json")):
        known, of = _json_object(path), path.with_suffix(".pt")
        if of.is_file() and ("weights_sha256" in known or of == weights) and sha256(of) != known.get("weights_sha256"):
            yield (
                f"{of.relative_to(folder)} is not what {path.relative_to(folder)} describes (sha256 "
                f"{known.get('weights_sha256')}): one of them is of another training"
            )
    known, names = _json_object(described), list(class_names(metadata_of(folder)).values())
    if known.get("permuted") is not None:
        yield f"{WEIGHTS} was trained with permuted labels, as models/model.json says, which mean nothing: train it again"
    if names and known.get("class_names", names) != names:
        yield f"{WEIGHTS} was trained for {known['class_names']}, as models/model.json says, label_classes are {names}"


def is_large_file(entry: Any) -> bool:
    """Whether an entry says all that it takes to fetch a file and to know it."""
    return isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("path", "url", "hash_val", "hash_type"))


def large_files(folder: Path) -> list[Any]:
    """The entries of ``large_files.yml``, ``.yaml`` or ``.json``, which MONAI reads; ValueError if it is malformed."""
    paths = [p for p in sorted(folder.glob("large_files.*")) if p.suffix in (".yml", ".yaml", ".json")]
    if not paths:
        return []
    return list(chain.from_iterable(map(_listed, paths)))


def _listed(path: Path) -> list[Any]:
    from monai.bundle import ConfigParser  # seconds, which few bundles need
    from yaml import YAMLError

    try:
        content = ConfigParser.load_config_file(path)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, where large_files are to be listed")
    found = content.get("large_files")
    return found if isinstance(found, list) else [found]


def check_packed(folder: Path) -> Iterator[str]:
    """Of an archive: it has what it needs to run alone, and nothing else, such as scans of people or code without a source."""
    for name in ("requirements.txt", "README.md"):
        if not (folder / name).is_file():
            yield f"{name} is missing: pack the bundle by scripts/package_bundle.py"
    if names_custom(folder) and not (folder / "custom" / "__init__.py").is_file():
        yield "custom/ is missing, which the configs name: the bundle cannot run alone"
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        if path.suffix in COMPILED:
            yield f"{path} is compiled code, which nobody can read before running it: leave it out"
    stray = [path for path in files if path.parts[0] not in ADDED and not is_shared(path) and path.suffix not in COMPILED]
    for name in sorted({str(path) if path.parts[0] in SHARED else path.parts[0] for path in stray}):
        yield f"{name} is not what a bundle consists of, and may hold people's data: leave it out"


def names_custom(folder: Path) -> bool:
    """Whether a configuration names a component of ``custom``."""
    return any('"custom.' in path.read_text(encoding="utf-8", errors="replace") for path in (folder / "configs").glob("*.json"))


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "files": check_files,
    "metadata": check_metadata,
    "version": check_version,
    "packages": check_packages,
    "classes": check_classes,
    "configs": check_configs,
    "weights": check_weights,
    "large files": check_large_files,
}
READ_METADATA = ("version", "packages", "classes")  # which the schema is to fit first


def read_checks(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of every check that reads, with its complaints."""
    broken = False
    for name, check in CHECKS.items():
        if not (broken and name in READ_METADATA):
            complaints = list(check(folder))
            broken |= name == "metadata" and bool(complaints)
            yield name, complaints
