#!/usr/bin/env bash
# export.sh FOLDER: the checkpoints under FOLDER/models in the formats of the peers that are there.
# What is there already is not made again.
set -euo pipefail
folder=${1:?usage: export.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
cd "$folder/models"
export HF_HUB_OFFLINE=1

openvino() { # MODEL FORMAT OUT
  [ -e "$3" ] || ../openvino/bin/optimum-cli export openvino -m "$1" \
    --task text-generation-with-past --weight-format "$2" "$3"
}

if [ -x ../openvino/bin/optimum-cli ]; then
  for model in gpt2 qwen05; do
    openvino "$model" fp16 "ov-$model"
    openvino "$model" int8 "ov8-$model"
  done
  openvino qwen05 int4 ov4-qwen05
  [ -e ct2-qwen05 ] || ../openvino/bin/ct2-transformers-converter \
    --model qwen05 --output_dir ct2-qwen05 --copy_files tokenizer.json
fi
if [ -x ../llamacpp/bin/python ]; then
  for model in gpt2 qwen05 qwen3moe; do
    for format in bf16 q8_0 q4_0; do
      [ -e "$model-$format.gguf" ] ||
        ../llamacpp/bin/python "$here/to_gguf.py" "$model" "$model-$format.gguf" "$format"
    done
  done
fi
