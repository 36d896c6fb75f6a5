#!/usr/bin/env bash
# Prepare, train and evaluate on Haxby's study as nilearn fetches it: scripts/real_haxby_fmri_diffusion.sh RAW_DIR
set -euo pipefail
raw=${1:?give the folder with haxby2001, see scripts/download.py haxby}
configs="$(dirname "$0")/../bundles/haxby_fmri_diffusion/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

run --config_file "$configs/preprocess.json" --raw_dir "$raw"
run --config_file "$configs/train.json"
run --config_file "['$configs/train.json','$configs/evaluate.json']"
