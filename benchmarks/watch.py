"""Runs a command and measures it: python -m benchmarks.watch COMMAND ...

The last line on standard error is JSON: the seconds that the command took, and the peak memory in bytes of its largest
process. For the command, the environment variable STARTED has the time at which it was started.

The peak memory of a process starts from that of its parent, so a large process cannot measure a small one. This one is
small.
"""

import json
import os
import resource
import subprocess
import sys
import time


def main() -> int:
    """Runs the command and returns its exit code."""
    started = time.time()
    environment = os.environ | {"STARTED": repr(started)}
    exit_code = subprocess.run(sys.argv[1:], env=environment).returncode
    seconds = time.time() - started
    print(json.dumps({"seconds": seconds, "peak_memory": peak_memory_of_children()}), file=sys.stderr)
    return exit_code


def peak_memory_of_children() -> int:
    """Returns the peak memory in bytes of the largest child process that has ended."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if sys.platform == "darwin":
        return peak  # macOS counts bytes
    return peak * 1024  # Linux counts KiB


if __name__ == "__main__":
    sys.exit(main())
