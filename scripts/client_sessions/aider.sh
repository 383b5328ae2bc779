#!/usr/bin/env bash
# aider: one message over one file, which it may not understand the answer to.
set -euo pipefail
mkdir -p repository && cd repository
git init -q . && echo 'print("hello")' >hello.py
export OPENAI_API_BASE=$1/v1 OPENAI_API_KEY=none AIDER_ANALYTICS_DISABLE=1
"$2/bin/aider" --model openai/kept --no-show-model-warnings --no-check-update --yes-always \
    --no-gitignore --no-auto-commits --edit-format ask --map-tokens 0 --exit \
    --message 'What does this print?' hello.py | tee answer
grep -q 'Tokens: .* sent, .* received' answer
