#!/usr/bin/env bash
# Prepare, train and evaluate on ABIDE: scripts/real_abide_fmri_asd_classification.sh RAW_DIR
set -euo pipefail
raw=${1:?give the folder of the study, with its sites and Phenotypic_V1_0b_preprocessed1.csv}
configs="$(dirname "$0")/../bundles/abide_fmri_asd_classification/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

run --config_file "$configs/preprocess.json" --raw_dir "$raw"
run --config_file "['$configs/train.json','$configs/strided_stem.json']"
run --config_file "['$configs/train.json','$configs/strided_stem.json','$configs/evaluate.json']"
