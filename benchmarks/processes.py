"""Scripts in processes of their own, so that no figure depends on what was measured before it.

Each part of the benchmarks is a script that prints one JSON document as its last line: rows of the table, or a number.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(HERE.parent / "src"),
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

Row = tuple[str, str, str]
"""What was measured, the limit that the project sets itself or nothing, and what came out."""


def answer(script: str, *arguments: str, python: str = sys.executable, backend: str = "tensorflow") -> Any:
    """What one of the scripts prints, run by this interpreter with Keras on this backend."""
    command = [python, str(HERE / script), *arguments]
    environment = ENVIRONMENT | {"KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tell(document: Any) -> None:
    """Print what `answer` reads."""
    print(json.dumps(document))
