#!/usr/bin/env bash
# The whole way on a phantom study: scripts/demo_abide_fmri_asd_classification.sh FOLDER
set -euo pipefail
out=${1:?give a folder for the demo}
configs="$(dirname "$0")/../bundles/abide_fmri_asd_classification/configs"
grid=(--voxel_size 12 --spacing 12 --spatial_size "[12,14,8]")
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

python "$(dirname "$0")/phantom.py" abide "$out/raw" --n_sites 6 --subjects_per_site 24
run --config_file "$configs/preprocess.json" --raw_dir "$out/raw" --dataset_dir "$out/data" --split::test 0.25 "${grid[@]}"
run --config_file "['$configs/train.json','$configs/strided_stem.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --epochs 16
run --config_file "['$configs/train.json','$configs/strided_stem.json','$configs/evaluate.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval"
run --config_file "['$configs/inference.json','$configs/strided_stem.json','$configs/explain.json']" \
    --dataset_dir "$out/data" --ckpt_path "$out/models/model.pt" --output_dir "$out/eval" "${grid[@]}"
echo "The report: $out/eval/report.html"
