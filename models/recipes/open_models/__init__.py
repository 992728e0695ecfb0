"""Exports diffusers pipelines as Latentflow packages: python -m open_models.cli SOURCE OUT_DIR"""
