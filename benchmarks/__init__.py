"""Measures how fast this project trains, compared with other libraries and with the limit of the machine.

`python -m benchmarks.run` writes benchmarks/RESULTS.md. Only benchmarks.scripts is run by hand.
"""
