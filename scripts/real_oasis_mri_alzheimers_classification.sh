#!/usr/bin/env bash
# Prepare, train and evaluate on OASIS-1: scripts/real_oasis_mri_alzheimers_classification.sh RAW_DIR
set -euo pipefail
raw=${1:?give the folder that holds disc1 … disc12 and oasis_cross-sectional.csv}
configs="$(dirname "$0")/../bundles/oasis_mri_alzheimers_classification/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

run --config_file "$configs/preprocess.json" --raw_dir "$raw"
run --config_file "$configs/train.json"
run --config_file "['$configs/train.json','$configs/evaluate.json']"
