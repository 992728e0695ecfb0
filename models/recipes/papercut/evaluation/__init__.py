"""Judging a package by the renderer's own truth: a module for each kind of figure, see evaluate.py."""
