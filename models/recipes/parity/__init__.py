"""Tiny random instances of the open models' families, and diffusers' own numbers for them."""
