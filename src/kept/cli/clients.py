"""What each client has to be told of a server, in its own words.

Keys are named by the environment variable that holds them. Names stand in double quotes as JSON
has them, which TOML, YAML and Python read alike, or quoted for the shell.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Server:
    """url: without a path. model: its name there. key: the variable that holds the API key."""

    url: str
    model: str
    key: str

    @property
    def v1(self) -> str:
        """Where OpenAI's routes begin."""
        return f"{self.url}/v1"

    @property
    def key_in_shell(self) -> str:
        """The key as a shell reads it; clients want some key, also of a server that wants none."""
        return f'"${{{self.key}:-none}}"'


def _text(value: str) -> str:
    return json.dumps(value)


def _codex(server: Server) -> str:
    return f"""# ~/.codex/config.toml
# Codex wants a value in {server.key}, any where the server has no keys
model = {_text(server.model)}
model_provider = "kept"

[model_providers.kept]
name = "kept"
base_url = {_text(server.v1)}
wire_api = "responses"
env_key = {_text(server.key)}"""


def _claude(server: Server) -> str:
    name = shlex.quote(server.model)
    return f"""# in the shell that starts claude
export ANTHROPIC_BASE_URL={shlex.quote(server.url)}
export ANTHROPIC_AUTH_TOKEN={server.key_in_shell}
export ANTHROPIC_MODEL={name}
export ANTHROPIC_SMALL_FAST_MODEL={name}
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
claude"""


def _open_webui(server: Server) -> str:
    return f"""# in the shell that starts open-webui
export OPENAI_API_BASE_URL={shlex.quote(server.v1)}
export OPENAI_API_KEY={server.key_in_shell}
export ENABLE_OLLAMA_API=false
open-webui serve"""


def _llm(server: Server) -> str:
    return f"""# extra-openai-models.yaml in the folder of `dirname "$(llm logs path)"`,
# and once: llm keys set kept --value {server.key_in_shell}
- model_id: {_text(f"kept/{server.model}")}
  model_name: {_text(server.model)}
  api_base: {_text(server.v1)}
  api_key_name: kept"""


def _aider(server: Server) -> str:
    return f"""# in the shell that starts aider
export OPENAI_API_BASE={shlex.quote(server.v1)}
export OPENAI_API_KEY={server.key_in_shell}
aider --model {shlex.quote(f"openai/{server.model}")}"""


def _continue(server: Server) -> str:
    return f"""# ~/.continue/config.yaml, with {server.key} in ~/.continue/.env
name: kept
version: 0.0.1
schema: v1
models:
  - name: {_text(server.model)}
    provider: openai
    model: {_text(server.model)}
    apiBase: {_text(server.v1)}
    apiKey: ${{{{ secrets.{server.key} }}}}
    roles: [chat, edit, apply]"""


def _cline(server: Server) -> str:
    return f"""# in a shell; or in its settings, as the provider "OpenAI Compatible"
cline auth --provider openai --apikey {server.key_in_shell} \\
  --modelid {shlex.quote(server.model)} --baseurl {shlex.quote(server.v1)}"""


def _langchain(server: Server) -> str:
    return f"""# Python; pip install langchain-openai
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model={_text(server.model)},
    base_url={_text(server.v1)},
    api_key=os.environ.get({_text(server.key)}, "none"),
    stream_usage=True,
)
print(model.invoke("Hello").content)"""


def _litellm(server: Server) -> str:
    return f"""# config.yaml of `litellm --config config.yaml`
model_list:
  - model_name: {_text(server.model)}
    litellm_params:
      model: {_text(f"openai/{server.model}")}
      api_base: {_text(server.v1)}
      api_key: {_text(f"os.environ/{server.key}")}"""


def _openai(server: Server) -> str:
    return f"""# Python; pip install openai
import os

from openai import OpenAI

client = OpenAI(
    base_url={_text(server.v1)},
    api_key=os.environ.get({_text(server.key)}, "none"),
)
answer = client.chat.completions.create(
    model={_text(server.model)},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""


def _anthropic(server: Server) -> str:
    return f"""# Python; pip install anthropic
import os

from anthropic import Anthropic

client = Anthropic(
    base_url={_text(server.url)},
    api_key=os.environ.get({_text(server.key)}, "none"),
)
answer = client.messages.create(
    model={_text(server.model)},
    max_tokens=256,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.content[0].text)"""


def _ollama(server: Server) -> str:
    return f"""# Python; pip install ollama
import os

from ollama import Client

client = Client(
    host={_text(server.url)},
    headers={{"Authorization": "Bearer " + os.environ.get({_text(server.key)}, "none")}},
)
answer = client.chat(
    model={_text(server.model)},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.message.content)"""


CLIENTS: Final[Mapping[str, Callable[[Server], str]]] = {
    "codex": _codex,
    "claude": _claude,
    "open-webui": _open_webui,
    "llm": _llm,
    "aider": _aider,
    "continue": _continue,
    "cline": _cline,
    "langchain": _langchain,
    "litellm": _litellm,
    "openai": _openai,
    "anthropic": _anthropic,
    "ollama": _ollama,
}
