"""What edgerad is measured against, written as teams usually write it; run by `benchmarks.serving` as processes.

`reference`: the reference pattern's service: for every image the model is loaded anew, `predict` is called, the session
cleared and garbage collected. `fastapi`: one endpoint, PIL decodes, `model.predict` on a model loaded once. The network
is edgerad's own, so that only the way differs.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, UploadFile


def main() -> None:
    """Run one of them."""
    os.environ["TF_USE_LEGACY_KERAS"] = "0"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save(path)
        if sys.argv[1] == "reference":
            reference(path)
        else:
            serve(path, int(sys.argv[2]))


def save(path: Path) -> None:
    """Write the shipped network as a Keras file."""
    from serve.bundle import bundled_keys, bundled_model, load_bundle
    from serve.runtimes import load_keras

    load_keras(load_bundle(bundled_model(), bundled_keys())).save(path)


def pixels_of(data: bytes) -> npt.NDArray[np.float32]:
    """Decode as most do: PIL, grey, resized, one batch of one."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("L").resize((160, 160))
    return np.asarray(image, np.float32)[np.newaxis, :, :, np.newaxis]


def reference(path: Path) -> None:
    """Serve turns until the input ends: a line `{"files": [path, …]}` in, a line with seconds out."""
    import keras

    def assess(data: bytes) -> float:
        model = keras.models.load_model(path)
        logit = float(model.predict(pixels_of(data), verbose=0)[0, 0])
        keras.backend.clear_session()
        del model
        gc.collect()
        return logit

    for line in sys.stdin:
        files = [Path(name).read_bytes() for name in json.loads(line)["files"]]
        started = time.perf_counter()
        for data in files:
            assess(data)
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started}) + "\n")
        sys.stdout.flush()


def application(path: Path) -> FastAPI:
    """Return the plain service."""
    import keras

    model = keras.models.load_model(path)
    app = FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile) -> dict[str, Any]:
        logit = float(model.predict(pixels_of(file.file.read()), verbose=0)[0, 0])
        return {"probability": 1 / (1 + float(np.exp(-logit)))}

    return app


def serve(path: Path, port: int) -> None:
    """Listen on 127.0.0.1 until the process is ended."""
    import uvicorn

    uvicorn.run(application(path), host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
