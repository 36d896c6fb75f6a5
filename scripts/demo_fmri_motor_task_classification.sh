#!/usr/bin/env bash
# The whole way on a phantom study: scripts/demo_fmri_motor_task_classification.sh FOLDER
set -euo pipefail
out=${1:?give a folder for the demo}
configs="$(dirname "$0")/../bundles/fmri_motor_task_classification/configs"
grid=(--spacing "[11.2,11.2,11.2]" --spatial_size "[18,20,14]")
coarse=(--network_def::strides "[2,1]")  # voxels of 11 mm: halving the grid twice would blur the limbs
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

python "$(dirname "$0")/phantom.py" motor "$out/raw" --n_subjects 12 --n_runs 3 --conditions "[3,4,5,6]"
run --config_file "$configs/preprocess.json" --raw_dir "$out/raw" --dataset_dir "$out/data" --split::test 0.33 "${grid[@]}"
run --config_file "['$configs/preprocess.json','$configs/explore.json']" --raw_dir "$out/raw" --dataset_dir "$out/data" \
    --output_dir "$out/eval" "${grid[@]}"
run --config_file "$configs/train.json" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --spatial_size "[18,20,14]" "${coarse[@]}" --epochs 20
run --config_file "['$configs/train.json','$configs/evaluate.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --spatial_size "[18,20,14]" "${coarse[@]}"
run --config_file "['$configs/inference.json','$configs/explain.json']" \
    --dataset_dir "$out/data" --ckpt_path "$out/models/model.pt" --output_dir "$out/eval" "${grid[@]}" "${coarse[@]}"
echo "The report: $out/eval/report.html"
