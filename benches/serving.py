"""Tokens a second of `mashbill serve`, of several binaries in turn: what a change of the server costs.

    python3 benches/serving.py target/release/mashbill /elsewhere/mashbill

Concurrent clients ask the tiny model of tests/fixtures/llama, of which a step takes so little that what the server adds
to it shows. Each round starts every binary once; the medians are compared with the first binary's. Standard library only.
"""

import http.client
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, CLIENTS, REQUESTS, TOKENS = 7, 16, 6, 400
FIXTURE = pathlib.Path(__file__).parent.parent / "tests/fixtures/llama"


def model(folder):
    shutil.copytree(FIXTURE, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 1024
    (folder / "config.json").write_text(json.dumps(config))


def client(address, index, stream, tokens):
    connection = http.client.HTTPConnection(address)
    for request in range(REQUESTS):
        body = {
            "model": "m", "prompt": "12+7=", "max_tokens": TOKENS, "seed": 1000 * index + request, "stream": stream,
            "logit_bias": {"1": -100},
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        tokens.append(TOKENS)


def rate(binary, folder, stream):
    """Tokens a second, from the first request to the last answer."""
    command = [binary, "serve", "m", "--port", "0", "--quiet"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = server.stdout.readline().strip().removeprefix("http://").removesuffix("/v1")
        client(address, 99, stream, [])
        tokens = []
        threads = [threading.Thread(target=client, args=(address, i, stream, tokens)) for i in range(CLIENTS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tokens) == CLIENTS * REQUESTS
        return sum(tokens) / (time.monotonic() - began)
    finally:
        server.kill()
        server.wait()


def main(binaries):
    binaries = [str(pathlib.Path(binary).resolve()) for binary in binaries]
    with tempfile.TemporaryDirectory() as folder:
        model(pathlib.Path(folder) / "m")
        for stream in [False, True]:
            found = [[] for _ in binaries]
            for turn in range(ROUNDS):
                # In turn first and last: a machine that warms up favours nobody.
                for i in range(len(binaries)) if turn % 2 == 0 else reversed(range(len(binaries))):
                    found[i].append(rate(binaries[i], folder, stream))
            medians = [statistics.median(rates) for rates in found]
            for binary, rates, median in zip(binaries, found, medians):
                spread = f"{min(rates):.0f} to {max(rates):.0f}"
                kind = "streamed" if stream else "whole"
                print(f"{kind} {binary}: {median:.0f} tokens/s ({spread}), ratio {median / medians[0]:.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
