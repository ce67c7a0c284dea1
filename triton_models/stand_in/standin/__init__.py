"""The stand-in guard: a toy checkpoint in the format of Qwen3Guard-Gen, and how it is made.

Modules: ``labels`` (the words of the answer), ``rows`` (labelled conversations and how they
are sampled), ``synthetic`` (rows made from phrase lists), ``tokenizer``, ``network`` (the model
and its training pass), ``training`` (the loop) and ``measure`` (what the model card reports).
"""
