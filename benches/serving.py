"""Tokens a second of `mashbill serve`, by the clock and by the processor, of several binaries in turn: what a change costs.

    python3 benches/serving.py target/release/mashbill /elsewhere/mashbill

Concurrent clients ask the tiny model of tests/fixtures/llama, of which a step takes so little that what the server adds
to it shows. Each round starts every binary once; ratios are the median of those to the first binary in the same round. On
a machine that others use, the tokens a second of processor time are the ones to compare: one thread decodes, so that none
waits busily for another. Standard library only.
"""

import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, CLIENTS, REQUESTS, TOKENS = 21, 16, 3, 400
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


def rates(binary, folder, stream):
    """Tokens a second, from the first request to the last answer; and tokens a second of the server's processor time."""
    command = [binary, "serve", "m", "--port", "0", "--quiet"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    server = subprocess.Popen(command, cwd=folder, env={**os.environ, "RAYON_NUM_THREADS": "1"}, **pipes)
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
        seconds = time.monotonic() - began
    finally:
        server.kill()
        _, server.returncode, usage = os.wait4(server.pid, 0)
    return sum(tokens) / seconds, sum(tokens) / (usage.ru_utime + usage.ru_stime)


def main(binaries):
    binaries = [str(pathlib.Path(binary).resolve()) for binary in binaries]
    with tempfile.TemporaryDirectory() as folder:
        model(pathlib.Path(folder) / "m")
        for stream in [False, True]:
            found = [[] for _ in binaries]
            for turn in range(ROUNDS):
                # In turn first and last: a machine that warms up favours nobody.
                for i in range(len(binaries)) if turn % 2 == 0 else reversed(range(len(binaries))):
                    found[i].append(rates(binaries[i], folder, stream))
            for binary, rounds in zip(binaries, found):
                clock, processor = (statistics.median(values) for values in zip(*rounds))
                ratios = [[one / first for one, first in zip(*pair)] for pair in zip(rounds, found[0])]
                ratios = " and ".join(f"{statistics.median(values):.3f}" for values in zip(*ratios))
                best = max(one for _, one in rounds) / max(one for _, one in found[0])
                print(f"{'streamed' if stream else 'whole'} {binary}: {clock:.0f} tokens/s, {processor:.0f} a second of "
                      f"processor time, ratios {ratios}, of the best rounds {best:.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
