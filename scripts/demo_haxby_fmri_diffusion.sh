#!/usr/bin/env bash
# The whole way on a phantom study: scripts/demo_haxby_fmri_diffusion.sh FOLDER
set -euo pipefail
out=${1:?give a folder for the demo}
configs="$(dirname "$0")/../bundles/haxby_fmri_diffusion/configs"
grid=(--spatial_size "[12,14,6]")
spacing=(--spacing "[16.67,16.0,26.67]")
small=(--network_def::unet::channels "[8,16]" --network_def::unet::attention_levels "[False,True]"
    --network_def::unet::head_dim 8 --network_def::unet::norm_num_groups 4)
folders=(--dataset_dir "$out/data" --ckpt_dir "$out/models" --output_dir "$out/eval")
run() { (set -x; python -W ignore -m monai.bundle run "$@"); }

python "$(dirname "$0")/phantom.py" haxby "$out/raw"
run --config_file "$configs/preprocess.json" --raw_dir "$out/raw" --dataset_dir "$out/data" "${grid[@]}" "${spacing[@]}"
run --config_file "$configs/train.json" "${folders[@]}" "${grid[@]}" "${small[@]}" --epochs 10
run --config_file "['$configs/train.json','$configs/evaluate.json']" "${folders[@]}" "${grid[@]}" "${small[@]}" --num_steps 20 --per_class 2
for config in "'$configs/decode.json'" "'$configs/decode.json','$configs/detect_anomalies.json'"; do
    run --config_file "[$config]" --dataset_dir "$out/raw" --ckpt_path "$out/models/model.pt" --output_dir "$out/decoded" \
        "${grid[@]}" "${spacing[@]}" "${small[@]}"
done & # on the second core
decoding=$!
run --config_file "['$configs/train.json','$configs/explain.json']" "${folders[@]}" "${grid[@]}" "${small[@]}"
run --config_file "['$configs/inference.json','$configs/generate.json']" --dataset_dir "$out/data" --ckpt_path "$out/models/model.pt" \
    --output_dir "$out/generated" "${grid[@]}" "${small[@]}" --classes "['face','house']" --num_steps 20
wait "$decoding"
echo "The report: $out/eval/report.html"
