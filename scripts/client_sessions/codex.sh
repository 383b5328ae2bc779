#!/usr/bin/env bash
# Codex, as `kept connect codex` says to set it up: a turn without a terminal over /v1/responses, and
# one that calls a tool and reads what it gave.
set -euo pipefail
export CODEX_HOME=$PWD/codex KEPT_API_KEY=none
mkdir -p "$CODEX_HOME" repository
"$KEPT_PYTHON" -m kept connect codex --url "$1" >"$CODEX_HOME/config.toml"
cat >>"$CODEX_HOME/config.toml" <<TOML

request_max_retries = 0
stream_max_retries = 0
TOML
ask() {
    "$2/node_modules/.bin/codex" exec --skip-git-repo-check --sandbox "$3" -C repository \
        --output-last-message answer "$4" </dev/null
}
ask "$@" read-only 'Say hello.'
grep -Fx 'Hello from kept.' answer
printf %s "$FOUND" >repository/found.txt
ask "$@" danger-full-access 'What does found.txt say?'
grep -F "It says: $FOUND" answer
