"""Measures how fast this project trains, compared with other libraries and with the limit of the machine.

`python -m benchmarks.run` runs all of it but benchmarks.browser, and writes benchmarks/RESULTS.md.
"""
