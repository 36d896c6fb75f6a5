#!/usr/bin/env bash
# The whole way on a phantom study: scripts/demo_oasis_mri_alzheimers_classification.sh FOLDER
set -euo pipefail
out=${1:?give a folder for the demo}
configs="$(dirname "$0")/../bundles/oasis_mri_alzheimers_classification/configs"
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

python "$(dirname "$0")/phantom.py" oasis "$out/raw" --n_subjects 80 --voxel_size 3 --with_cdr_only True --age_min 60
run --config_file "['$configs/preprocess.json','$configs/binary.json']" \
    --raw_dir "$out/raw" --dataset_dir "$out/data" --spacing 4 --spatial_size 48
run --config_file "['$configs/train.json','$configs/binary.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval" --epochs 24 \
    --train::random_transforms::1::translate_range "[1,1,1]"
run --config_file "['$configs/train.json','$configs/binary.json','$configs/evaluate.json']" \
    --dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval"
run --config_file "['$configs/inference.json','$configs/binary.json','$configs/explain.json']" \
    --dataset_dir "$out/data" --ckpt_path "$out/models/model.pt" --output_dir "$out/eval" --spacing 4 --spatial_size 48
echo "The report: $out/eval/report.html"
