"""LiteLLM: a chat of OpenAI's and one of Anthropic's, with cached tokens in usage."""

import sys

import litellm

asked = [{"role": "user", "content": "add two numbers"}]
openai = {"model": "openai/kept", "api_base": f"{sys.argv[1]}/v1"}
anthropic = {"model": "anthropic/kept", "api_base": sys.argv[1]}
texts = []
for kind in (openai, anthropic):
    more = {**kind, "api_key": "none", "messages": asked, "max_tokens": 8}
    whole = litellm.completion(**more)
    again = litellm.completion(**more, stream=True, stream_options={"include_usage": True})
    parts = list(again)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    usage = litellm.completion(**more).usage
    assert usage.prompt_tokens_details.cached_tokens > 0
    assert usage.completion_tokens == 8
    texts.append(text)
assert texts[0] == texts[1]
print(texts[0])
