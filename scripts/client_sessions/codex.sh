#!/usr/bin/env bash
# Codex: one prompt without a terminal, over /v1/responses.
set -euo pipefail
export CODEX_HOME=$PWD/codex
mkdir -p "$CODEX_HOME" repository
cat >"$CODEX_HOME/config.toml" <<TOML
model = "kept"
model_provider = "kept"
[model_providers.kept]
name = "kept"
base_url = "$1/v1"
wire_api = "responses"
requires_openai_auth = false
request_max_retries = 0
stream_max_retries = 0
TOML
"$2/node_modules/.bin/codex" exec --skip-git-repo-check --sandbox read-only -C repository \
    --output-last-message answer 'Say hello.' </dev/null
test -s answer
