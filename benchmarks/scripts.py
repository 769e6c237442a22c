"""Times evaluate.py, and how long the page of explore.py takes to decode a picture, for a trained model.

python -m benchmarks.scripts FLAGS, with the flags of the two scripts. It needs Chromium, and requirements-dev.txt.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks import chromium
from benchmarks.rounds import ROOT

# The mean of many pictures, because the browser's clock has steps of 0.1 ms. The first ones warm up.
MEASURE = """() => {
    const decodeMany = () => {
        for (let i = 0; i < 500; i++) decode(Float64Array.from({ length: numLatents }, randomNormal));
    };
    decodeMany();
    const started = performance.now();
    decodeMany();
    return (performance.now() - started) / 500;
}"""


def main() -> None:
    flags = sys.argv[1:]
    started = time.perf_counter()
    subprocess.run([sys.executable, "evaluate.py", *flags], cwd=ROOT, check=True)
    print(f"evaluate.py takes {time.perf_counter() - started:.0f} s")

    explore = [sys.executable, "explore.py", *flags]
    done = subprocess.run(explore, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    page_path = Path(ROOT, done.stdout.splitlines()[-1])
    browser_path = chromium.find()
    if browser_path is None:
        sys.exit(chromium.HOW_TO_INSTALL)
    with chromium.launch(browser_path) as browser:
        milliseconds = chromium.open_page(browser.new_context(), page_path).evaluate(MEASURE)
        print(f"the page decodes a picture in {milliseconds:.2f} ms (Chromium {browser.version})")


if __name__ == "__main__":
    main()
