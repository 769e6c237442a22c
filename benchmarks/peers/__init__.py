"""The same models in other libraries. A module here imports benchmarks.turns and its own library, nothing else."""
