#!/usr/bin/env bash
# Prepare, train and evaluate on ds004044: scripts/real_fmri_motor_task_classification.sh RAW_DIR
set -euo pipefail
raw=${1:?give the folder of the BIDS dataset}
configs="$(dirname "$0")/../bundles/fmri_motor_task_classification/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

run --config_file "$configs/preprocess.json" --raw_dir "$raw"
run --config_file "$configs/train.json"
run --config_file "['$configs/train.json','$configs/evaluate.json']"
