"""OpenAI's Responses: items in, items out, and those of before by the id of their answer."""
