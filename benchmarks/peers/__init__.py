"""The same models in other libraries.

A module here imports its library, NumPy and benchmarks.turns, and nothing else of this project.
"""
