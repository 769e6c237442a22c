"""Measures how fast this project trains, beside other libraries and the limit of the machine: benchmarks/run.py."""
