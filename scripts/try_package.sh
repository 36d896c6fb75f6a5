#!/usr/bin/env bash
# What a lab does with an archive, on its phantom: scripts/try_package.sh EMPTY_FOLDER [BUNDLE...]
# Pack, unpack -> new virtual environment with the archive's requirements.txt alone -> prepare, train one epoch, evaluate, infer, export.
# Every step runs inside the unpacked archive, which never sees this repository. The table at the end is seconds per step.
set -euo pipefail
out=${1:?give an empty folder}
shift
scripts="$(cd "$(dirname "$0")" && pwd)"
[ -z "$(ls -A "$out" 2>/dev/null)" ] || { echo "$out is not empty" >&2; exit 1; }
mkdir -p "$out"
out="$(cd "$out" && pwd)"
[ $# -gt 0 ] || set -- $(ls "$scripts/../bundles")
python=${PYTHON:-python}
unset PYTHONPATH
export PYTHONNOUSERSITE=1 OMP_NUM_THREADS=1

step() { # NAME COMMAND...: run in the bundle's folder, note the seconds
    local name=$1 begin=$SECONDS
    shift
    echo "+ $*"
    (cd "$folder" && "$@") > "$out/$bundle.$name.log" 2>&1 || { tail -n 30 "$out/$bundle.$name.log" >&2; echo "$bundle: $name failed" >&2; exit 1; }
    printf '%-40s %-11s %5d\n' "$bundle" "$name" $((SECONDS - begin)) >> "$out/seconds"
}
run() { # NAME CONFIGS [OPTION...]: a workflow with the trial's settings
    local name=$1 configs=$2
    shift 2
    step "$name" "$out/venv/bin/python" -W ignore -m monai.bundle run --config_file "$configs" --args_file "$out/$bundle/$name.json" "$@"
}

for bundle in "$@"; do
    archive=$("$python" "$scripts/package_bundle.py" pack "$scripts/../bundles/$bundle" --out "$out/dist" --weights False)
    folder=$("$python" "$scripts/package_bundle.py" unpack "$archive" "$out/$bundle")
    if [ ! -d "$out/venv" ]; then
        "$python" -m venv "$out/venv"
        step install "$out/venv/bin/pip" install --quiet -r requirements.txt
    fi
    step phantom "$out/venv/bin/python" -W ignore - "$out/$bundle" <<'PYTHON'
import importlib
import json
import sys
from pathlib import Path

trial = json.loads(Path("configs/metadata.json").read_text())["trial"]
for name in ("preprocess", "train", "evaluate", "inference", "export"):
    Path(sys.argv[1], f"{name}.json").write_text(json.dumps(trial.get(name, {})))
phantom = trial["phantom"]
importlib.import_module(f"custom.phantoms.{phantom.pop('study')}").write_study("raw", **phantom)
PYTHON
    run preprocess configs/preprocess.json
    run train configs/train.json --epochs 1
    run evaluate "['configs/train.json','configs/evaluate.json']"
    run inference configs/inference.json
    run export "['configs/inference.json','configs/export.json']"
    for written in data/datalist.json models/model.pt models/model.onnx eval/metrics.json eval/report.html; do
        [ -s "$folder/$written" ] || { echo "$bundle wrote no $written" >&2; exit 1; }
    done
    compgen -G "$folder/eval/inference/*" > /dev/null || compgen -G "$folder/eval/samples/*" > /dev/null \
        || { echo "$bundle inferred nothing" >&2; exit 1; }
done
cat "$out/seconds"
