"""langchain-openai: a chat, its stream with usage, and Responses."""

import sys

from langchain_openai import ChatOpenAI

more = {"model": "kept", "api_key": "none", "base_url": f"{sys.argv[1]}/v1"}
chat = ChatOpenAI(**more, max_tokens=8)
whole = chat.invoke("add two numbers")
assert whole.usage_metadata
assert whole.usage_metadata["output_tokens"] == 8
parts = list(chat.stream("add two numbers", stream_usage=True))
assert "".join(part.content for part in parts) == whole.content
usages = [part.usage_metadata for part in parts if part.usage_metadata]
assert len(usages) == 1
assert usages[0]["input_token_details"]["cache_read"] > 0
text = ChatOpenAI(**more, max_tokens=16, use_responses_api=True).invoke("add two numbers").text
print(text if isinstance(text, str) else text())
