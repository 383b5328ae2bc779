#!/usr/bin/env bash
# llm: a prompt and its continuation, by a model of extra-openai-models.yaml.
set -euo pipefail
export LLM_USER_PATH=$PWD/llm
mkdir -p "$LLM_USER_PATH"
cat >"$LLM_USER_PATH/extra-openai-models.yaml" <<YAML
- model_id: kept
  model_name: kept
  api_base: "$1/v1"
  api_key_name: kept
YAML
"$2/bin/llm" keys set kept --value none
"$2/bin/llm" -m kept -o max_tokens 8 'add two numbers'
"$2/bin/llm" -m kept -o max_tokens 8 -c --no-stream 'and three'
"$2/bin/llm" logs -n 1 --usage | grep -q 'Token usage'
