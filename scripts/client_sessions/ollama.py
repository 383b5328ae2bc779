"""ollama: a chat and its stream, one of a schema, generate, and what it says of models."""

import json
import sys

import ollama

client = ollama.Client(sys.argv[1])
asked = [{"role": "user", "content": "add two numbers"}]
whole = client.chat(model="kept", messages=asked, options={"num_predict": 8})
parts = list(client.chat(model="kept", messages=asked, options={"num_predict": 8}, stream=True))
assert "".join(part.message.content or "" for part in parts) == whole.message.content
assert parts[-1].eval_count == 8
assert client.generate(model="kept", prompt="a = ", raw=True, options={"num_predict": 4}).response
schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
schema["additionalProperties"] = False  # a small model would go on with others beyond 80 tokens
more = {"options": {"num_predict": 80}, "think": False}  # which would be free of the schema
formed = client.chat(model="kept", messages=asked, format=schema, **more)
assert isinstance(json.loads(formed.message.content or "")["n"], bool)
assert client.list().models[0].model == "kept"
assert client.show("kept").modelinfo
print(whole.message.content)
