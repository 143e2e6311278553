"""Other programs as clients: lm-evaluation-harness, and schemathesis with thousands of requests."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

PAIRS = [("the sea", " is water"), ("It was a bright", " cold day in April"), ("def", " main():"), ("the ", "day")]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm-evaluation-harness (pip install lm-eval[api])"
)
def test_lm_evaluation_harness(
    server: Any, directory: Path, model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """In a separate process, because its packages emit warnings."""
    script = tmp_path / "ask.py"
    script.write_text(
        "import json, sys\n"
        "from lm_eval.api.instance import Instance\n"
        "from lm_eval.api.registry import get_model\n"
        "url, tokenizer, pairs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])\n"
        "lm = get_model('local-completions')(model='tiny', base_url=url, tokenizer=tokenizer, batch_size=2,\n"
        "                                    tokenized_requests=True, max_length=96, max_gen_toks=8)\n"
        "asked = [Instance('loglikelihood', {}, tuple(pair), n) for n, pair in enumerate(pairs)]\n"
        "scores = lm.loglikelihood(asked, disable_tqdm=True)\n"
        "until = [Instance('generate_until', {}, (context, {'until': ['q'], 'max_gen_toks': 8}), n)\n"
        "         for n, (context, _) in enumerate(pairs)]\n"
        "print(json.dumps([[list(map(float, one)) for one in scores], lm.generate_until(until, disable_tqdm=True)]))\n"
    )
    command = [sys.executable, script, f"{server.url}/v1/completions", directory, json.dumps(PAIRS)]
    environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    scores, texts = json.loads(done.stdout.splitlines()[-1])
    for (context, continuation), (score, greedy) in zip(PAIRS, scores, strict=True):
        before = tokenizer.encode(context.rstrip())
        ids = tokenizer.encode(context + continuation)
        assert ids[: len(before)] == before
        with torch.inference_mode():
            rows = model(torch.tensor([ids]))[0, :, : tokenizer.size].log_softmax(-1)
        own = range(len(before), len(ids))
        assert score == pytest.approx(sum(float(rows[place - 1, ids[place]]) for place in own), abs=1e-3)
        assert bool(greedy) == all(int(rows[place - 1].argmax()) == ids[place] for place in own)
    assert all(isinstance(text, str) and "q" not in text for text in texts)


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--max-examples", "40"]
    # A schema cannot express rules between fields, such as that stream_options needs stream.
    options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--workers", "2", "--seed", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.client.get("/health").status_code == 200
