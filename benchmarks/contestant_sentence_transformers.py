"""Embedding with sentence-transformers on one of its backends: torch, ONNX Runtime or OpenVINO.

The exported and rounded models are written once to a directory that is kept. int8 with ONNX Runtime is the dynamic
quantisation of sentence-transformers for AVX512-VNNI; with OpenVINO it is NNCF's quantisation after training. It is
calibrated on texts of the benchmark; sentence-transformers does it with texts from a hub.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from embedding import serve
from protocol import Channel
from sentence_transformers import SentenceTransformer

CALIBRATION_TEXTS = 128


def main() -> None:
    channel = Channel()
    job = channel.job
    model = {"torch": load_torch, "onnx": load_onnx, "openvino": load_openvino}[job["backend"]](job)
    serve(channel, lambda texts, size: model.encode(texts, batch_size=size, show_progress_bar=False))


def load_torch(job: dict[str, Any]) -> SentenceTransformer:
    return SentenceTransformer(job["model"], device="cpu", model_kwargs={"dtype": job["dtype"]})


def load_onnx(job: dict[str, Any]) -> SentenceTransformer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    common = {"provider": "CPUExecutionProvider", "session_options": options}
    directory = exported(job)
    file = "model.onnx"
    if job["quantize"]:
        file = "model_qint8_avx512_vnni.onnx"
        if not (directory / "onnx" / file).is_file():
            from sentence_transformers import export_dynamic_quantized_onnx_model

            plain = SentenceTransformer(str(directory), device="cpu", backend="onnx", model_kwargs=common)
            export_dynamic_quantized_onnx_model(plain, "avx512_vnni", str(directory))
    settings = {**common, "file_name": f"onnx/{file}"}
    return SentenceTransformer(str(directory), device="cpu", backend="onnx", model_kwargs=settings)


def load_openvino(job: dict[str, Any]) -> SentenceTransformer:
    directory = exported(job)
    precision = {"bfloat16": "bf16", "float32": "f32"}[job["dtype"]]
    settings = {"ov_config": {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": job["threads"]}}
    if job["quantize"]:
        settings["file_name"] = "openvino/openvino_model_int8.xml"
        if not (directory / settings["file_name"]).is_file():
            write_int8(directory, job)
    return SentenceTransformer(str(directory), device="cpu", backend="openvino", model_kwargs=settings)


def write_int8(directory: Path, job: dict[str, Any]) -> None:
    """Round the weights and activations of the exported model with NNCF."""
    import nncf
    import openvino
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = openvino.Core().read_model(directory / "openvino" / "openvino_model.xml")
    workloads = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    names = {name for port in model.inputs for name in port.get_names()}

    def inputs(text: str) -> dict[str, Any]:
        encoded = tokenizer(text, truncation=True, max_length=job["max_length"], return_tensors="np")
        return {name: array for name, array in encoded.items() if name in names}

    dataset = nncf.Dataset(workloads["calibration"][:CALIBRATION_TEXTS], inputs)
    rounded = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS)
    openvino.save_model(rounded, directory / "openvino" / "openvino_model_int8.xml")


def exported(job: dict[str, Any]) -> Path:
    """Return the directory of the model in the backend's format. It is written if it does not exist."""
    directory = Path(job["exported"]) / f"{job['backend']}"
    if not directory.is_dir():
        partial = directory.with_name(f"{directory.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        SentenceTransformer(job["model"], device="cpu", backend=job["backend"]).save_pretrained(str(partial))
        partial.rename(directory)
    return directory


if __name__ == "__main__":
    main()
