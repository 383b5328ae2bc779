"""Requests for who interrupts them anywhere."""

from __future__ import annotations

from dataclasses import replace

from laws.serving import Ask, Setting


def interruptible() -> tuple[Setting, list[Ask]]:
    """Some that share prefixes and make room, and of each kind one."""
    setting = Setting(
        "llama", "bf16", None, "int8", slots=5, threads=1, spare=0, chunk=40, max_step_time=None,
        context=None, hop=None, forgotten=None, fails=None, seconds=(1e-3,), drafts=True,
    )  # fmt: skip
    plain = Ask(
        0, text=0, length=70, changed=None, follows=None, cut=0, tail=(), options={},
        tenant="", priority=0, salt="", interactive=False, cancelled=None, deadline=None,
        unspellable=None,
    )  # fmt: skip
    return setting, [
        replace(plain, options={"max_new_tokens": 9, "seed": 0}),
        replace(
            plain,
            changed=66,
            options={
                "max_new_tokens": 60,
                "do_sample": True,
                "temperature": 0.5,
                "seed": 1,
                "prompt_lookup_num_tokens": 48,
            },
        ),
        replace(plain, length=20, options={"max_new_tokens": 6, "num_beams": 2, "seed": 0}),
        replace(plain, text=1, options={"max_new_tokens": 65, "logprobs": 2, "seed": 0}),
    ]
