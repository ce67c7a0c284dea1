"""The stand-in guard: a toy checkpoint in the format of Qwen3Guard-Gen, and how it is made.

Modules: ``labels`` (the words of the answer), ``row`` and ``rows`` (labelled conversations and how
they are sampled), ``synthetic`` and ``english`` (rows made from phrase lists and from a
``grammar``), ``escapes`` (template escapes around a text), ``tokenizer``, ``encoding``, ``network``
(the model and its training pass), ``training`` (the loop), ``baseline`` (the n-gram regression),
``teacher`` (soft targets from it) and ``measure`` (what the model card reports).

The stream stand-in has modules of its own beside these: ``stream_exchange`` (an exchange with its
labels), ``stream_made`` (made ones), ``stream_prefixes`` (where a read answer is flagged first),
``stream_rows`` (how they are sampled), ``stream_encoding``, ``stream_network``, ``stream_training``
and ``stream_measure``.
"""
