"""Parameters are counted from headers: of every precision, of directories and of hub models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from criticflow.models.weights import Weights, model_weights

CONFIG = LlamaConfig(
    vocab_size=100,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)


def fill(folder: Path, dtype: torch.dtype, files: int = 1) -> Path:
    """A model directory with an embedding of 100 x 16 and a vector of 16, in one file or two."""
    folder.mkdir(parents=True)
    CONFIG.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"embed": torch.zeros(100, 16, dtype=dtype), "norm": torch.zeros(16, dtype=dtype)}
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = {name: f"model-{number}.safetensors" for number, name in enumerate(tensors)}
    for name, tensor in tensors.items():
        save_file({name: tensor}, folder / names[name])
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def asked(cache: Path, endpoint: str = "") -> str:
    """What a process of its own finds of owner/name, or its error; without a hub it is offline."""
    hub = {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    code = (
        "from criticflow.models.weights import model_weights; print(*model_weights('owner/name'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | hub | {"HF_HUB_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.splitlines()[-1]


def cached(cache: Path) -> Path:
    """A model in the hub's cache."""
    model = cache / "models--owner--name"
    folder = fill(model / "snapshots" / "abc", torch.bfloat16)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("files", [1, 2])
def test_precision_and_number_of_files_change_nothing(tmp_path, dtype, files):
    folder = fill(tmp_path / "model", dtype, files)
    assert model_weights(str(folder)) == Weights(parameters=1616, largest=1600)


def test_a_hub_model_is_counted_in_the_cache(tmp_path):
    cached(tmp_path)
    assert asked(tmp_path) == "1616 1600"


def test_a_hub_model_without_weights_here_is_counted_by_its_configuration(tmp_path):
    (cached(tmp_path) / "model.safetensors").unlink()
    attention, mlp, norms = 4 * 16 * 16, 3 * 16 * 32, 3 * 16
    assert asked(tmp_path) == f"{1600 + attention + mlp + norms} 1600"


class Hub(BaseHTTPRequestHandler):
    """Serves one file as the hub does: its beginning, to who asks for the header alone."""

    weights = b""
    sent = 0

    def do_HEAD(self) -> None:
        found = self.path == "/owner/name/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "abc")
        self.send_header("Content-Length", str(len(self.weights)))
        self.end_headers()

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.weights[first : last + 1]
        Hub.sent += len(part)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        return


def test_of_a_model_on_the_hub_headers_alone_are_fetched(tmp_path):
    big = {"embed": torch.zeros(1000, 1000, dtype=torch.bfloat16), "norm": torch.zeros(16)}
    save_file(big, tmp_path / "model.safetensors")
    Hub.weights = (tmp_path / "model.safetensors").read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert asked(tmp_path / "cache", address) == "1000016 1000000"
        server.shutdown()
    assert 0 < Hub.sent < len(Hub.weights) / 10


def test_a_hub_model_that_cannot_be_had_is_an_error(tmp_path):
    assert "owner/name is neither in the hub's cache nor to be had" in asked(tmp_path)
