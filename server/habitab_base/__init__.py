"""The shared base model as package data: int8 weights, tokenizer and model card."""

from __future__ import annotations

BASE_ID = "habitab-base-1"
LICENCE = "Apache-2.0"
