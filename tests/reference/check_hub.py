"""Holds Mashbill's use of the Hub's cache against Python's `huggingface_hub`, both talking to a small Hub on this
machine: what one of them fetched, the other reads without a network, byte for byte.

    python tests/reference/check_hub.py MASHBILL
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path.read_bytes() for path in sorted((FIXTURES / "llama").iterdir())}
TABLES = {f"data/train-0000{n}-of-00002.parquet": (FIXTURES / "tables/many.parquet").read_bytes() for n in range(2)}
REPOSITORIES = {"models/org/tiny": FILES, "datasets/org/rows": TABLES}


def is_large(name):
    return name.endswith((".safetensors", ".parquet"))


def digest(name, content):
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0].lstrip("/")
        if path.startswith("api/"):
            kind, *_ = path.removeprefix("api/").partition("/tree/" if "/tree/" in path else "/revision/")
            if kind not in REPOSITORIES:
                return self.send(404, b"", body, {})
            files = REPOSITORIES[kind]
            if "/tree/" in path:
                tree = []
                for name, content in files.items():
                    entry = {"type": "file", "path": name, "size": len(content), "oid": digest(name, content)}
                    if is_large(name):
                        entry["lfs"] = {"oid": digest(name, content), "size": len(content), "pointerSize": 130}
                    tree.append(entry)
                return self.send(200, json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
            siblings = []
            for name, content in files.items():
                sibling = {"rfilename": name}
                if "blobs=" in self.path:
                    sibling |= {"size": len(content), "blobId": digest(name, content)}
                    if is_large(name):
                        sibling["lfs"] = {"sha256": digest(name, content), "size": len(content), "pointerSize": 130}
                siblings.append(sibling)
            text = json.dumps({"id": kind.split("/", 1)[1], "sha": COMMIT, "siblings": siblings}).encode()
            return self.send(200, text, body, {"Content-Type": "application/json"})
        repository, name = path.split(f"/resolve/{COMMIT}/") if COMMIT in path else path.split("/resolve/main/")
        repository = repository if repository.startswith("datasets/") else f"models/{repository}"
        content = REPOSITORIES[repository].get(name)
        if content is None:
            return self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{digest(name, content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            start, end = wanted.removeprefix("bytes=").split("-")
            start, end = int(start), min(int(end or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self.send(206, content[start : end + 1], body, headers)
        self.send(200, content, body, headers)

    def send(self, status, content, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def run(program, folder, home, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **variables}
    result = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


PIPELINE = """name: p
nodes:
  base: { stage: import, with: { path: 'hf:org/tiny' } }
  rows: { stage: load, with: { path: 'hf:datasets/org/rows:train' } }
"""
PYTHON = """
import sys
from pathlib import Path
from huggingface_hub import snapshot_download
for repository, kind in [("org/tiny", "model"), ("org/rows", "dataset")]:
    print(snapshot_download(repository, repo_type=kind, local_files_only=sys.argv[1] == "offline"))
"""


def same_files(folders):
    for folder, files in zip(folders.split(), [FILES, TABLES]):
        for name in set(files) & NEEDED:
            assert (Path(folder) / name).read_bytes() == files[name], name


NEEDED = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", *TABLES}


def main():
    mashbill = Path(sys.argv[1]).resolve()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory() as temporary:
        ours, theirs = Path(temporary) / "ours", Path(temporary) / "theirs"
        results = []
        for home, first in [(theirs, "python"), (ours, "mashbill")]:
            project = Path(temporary) / first
            project.mkdir()
            (project / "p.yaml").write_text(PIPELINE)
            python = [sys.executable, "-c", PYTHON]
            if first == "python":
                run([*python, "online"], project, home, HF_ENDPOINT=endpoint)
                run([mashbill, "run", "p.yaml"], project, home, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
                print("Python fetched, Mashbill read it without a network")
            else:
                run([mashbill, "run", "p.yaml"], project, home, HF_ENDPOINT=endpoint)
                same_files(run([*python, "offline"], project, home, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"))
                print("Mashbill fetched, Python read it without a network")
            found = (path for path in (home / "hub").rglob("*") if path.is_symlink() or path.parent.name in ("blobs", "refs"))
            results.append(sorted(str(path.relative_to(home / "hub")) for path in found))
        # Python fetches all of the folder, Mashbill what a model is read from.
        others = [name for name in FILES if name not in NEEDED]
        others += [digest(name, FILES[name]) for name in others]
        needed = [path for path in results[0] if not any(path.endswith(name) for name in others)]
        assert needed == results[1], (needed, results[1])
        print("both caches have the same files, links and refs")


main()
