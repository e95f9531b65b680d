"""The completion engine: prompt, model, decoding and what is done to the text. Knows nothing of editors."""

__version__ = "0.1.0"
