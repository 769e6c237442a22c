"""Runs a command and measures it: python -m benchmarks.watch COMMAND ...

The last line on standard error is JSON: the seconds that the command took, and the peak memory in bytes of its largest
process. The command finds the time at which it was started in the environment variable STARTED.

The peak memory of a process starts from that of its parent, so a large process cannot measure a small one. This process
is small.
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
        return peak
    # The unit is bytes on macOS, and KiB on Linux.
    return peak * 1024


if __name__ == "__main__":
    sys.exit(main())
