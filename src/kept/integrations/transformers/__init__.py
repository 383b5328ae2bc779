"""kept's caches as transformers' `past_key_values`, and its attention as `attn_implementation`.

    from kept.integrations.transformers import KeptCache

    cache = KeptCache.from_config(model.config, kv_dtype="int8")
    model.generate(**inputs, past_key_values=cache)

Importing this registers `attn_implementation="kept"`. transformers from 4.57 on, 5 included.
"""

from kept.integrations.transformers.versions import check_installed

check_installed()

from kept.integrations.transformers.attention import register  # noqa: E402  after the check
from kept.integrations.transformers.cache import KeptCache  # noqa: E402
from kept.integrations.transformers.encoder_decoder import KeptEncoderDecoderCache  # noqa: E402

register()

__all__ = ["KeptCache", "KeptEncoderDecoderCache"]
