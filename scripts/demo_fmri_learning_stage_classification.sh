#!/usr/bin/env bash
# The whole way on a phantom study: scripts/demo_fmri_learning_stage_classification.sh FOLDER
set -euo pipefail
out=${1:?give a folder for the demo}
configs="$(dirname "$0")/../bundles/fmri_learning_stage_classification/configs"
grid=(--spacing "[16,16,16]" --spatial_size "[12,14,10]")
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

python "$(dirname "$0")/phantom.py" learning_stage "$out/raw" --n_subjects 12
run --config_file "$configs/preprocess.json" --raw_dir "$out/raw" --dataset_dir "$out/data" --split::test 0.33 "${grid[@]}"
run --config_file "['$configs/preprocess.json','$configs/explore.json']" --raw_dir "$out/raw" --dataset_dir "$out/data" \
    --output_dir "$out/eval" "${grid[@]}"
run --config_file "$configs/train.json" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --spatial_size "[12,14,10]"
run --config_file "['$configs/train.json','$configs/evaluate.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --spatial_size "[12,14,10]"
run --config_file "['$configs/inference.json','$configs/explain.json']" \
    --dataset_dir "$out/data" --ckpt_path "$out/models/model.pt" --output_dir "$out/eval" "${grid[@]}"
echo "The report: $out/eval/report.html"
