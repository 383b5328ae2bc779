#!/usr/bin/env bash
# aider, as `kept connect aider` says to set it up: a question about a file, and an edit of it.
set -euo pipefail
unset KEPT_API_KEY
export AIDER_ANALYTICS_DISABLE=1
mkdir -p repository && cd repository
git init -q . && echo 'print("hello")' >hello.py
"$KEPT_PYTHON" -m kept connect aider --url "$1" | sed "s|^aider |\"$2/bin/aider\" \"\$@\" |" >../aider
ask() {
    bash -eu ../aider --no-show-model-warnings --no-check-update --yes-always --no-gitignore \
        --chat-language English --no-auto-commits --map-tokens 0 --exit "$@" | tee answer
    grep -q 'Tokens: .* sent, .* received' answer
}
ask --edit-format ask --message 'Say hello.' hello.py
grep -F 'Hello from kept.' answer
ask --message 'Have hello.py say goodbye.' hello.py
grep -Fx 'print("goodbye")' hello.py
