#!/usr/bin/env bash
# Prepare, train and evaluate on ds000002, ds000011, ds000017 and ds000052: scripts/real_fmri_learning_stage_classification.sh RAW_DIR
set -euo pipefail
raw=${1:?give the folder of the BIDS datasets, one folder each}
configs="$(dirname "$0")/../bundles/fmri_learning_stage_classification/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

run --config_file "$configs/preprocess.json" --raw_dir "$raw"
run --config_file "$configs/train.json"
run --config_file "['$configs/train.json','$configs/evaluate.json']"
