#!/usr/bin/env python3
"""Writes one layered DAG for every engine: python3 dag.py FOLDER NODES.

Ten nodes a layer, two inputs each, taken by a fixed rule from the layer above; the first layer reads one file. Every
node copies what it reads into its output, so that what is measured is the engine. Seeds and names keep the facts of all
nodes apart: equal ones would be made once.
"""

import pathlib
import sys

WIDTH = 10


def nodes(count):
    """Name and inputs of every node; no inputs means the source file."""
    for at in range(count):
        layer, column = divmod(at, WIDTH)
        if layer == 0:
            yield f"n{at}", []
        else:
            above = (layer - 1) * WIDTH
            yield f"n{at}", [f"n{above + column}", f"n{above + (column * 3 + 1) % WIDTH}"]


def main():
    folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.jsonl").write_text('{"n": 1}\n')
    dag = [(name, list(dict.fromkeys(inputs))) for name, inputs in nodes(count)]

    lines = ["name: bench", "nodes:"]
    for name, inputs in dag:
        if inputs:
            lines.append(f"  {name}: {{ stage: merge, inputs: {{ rows: [{', '.join(inputs)}] }}, with: {{ total: 2 }}, seed: {name[1:]} }}")
        else:
            lines.append(f"  {name}: {{ stage: load, with: {{ path: source.jsonl }}, seed: {name[1:]} }}")
    (folder / "mashbill.yaml").write_text("\n".join(lines) + "\n")

    # The same with a program a node, as the other engines have it.
    lines = ["name: bench_command", "nodes:"]
    for name, inputs in dag:
        ports = ", ".join(f"i{at}: {one}" for at, one in enumerate(inputs))
        reads = " ".join(f"$INPUT_i{at}/out" for at in range(len(inputs)))
        if inputs:
            head = f"inputs: {{ {ports} }}, with: {{ sh: \"cat {reads} > $OUTPUT/out; echo {name} >> $OUTPUT/out\" }}"
        else:
            head = f"with: {{ sh: \"cat source.jsonl > $OUTPUT/out; echo {name} >> $OUTPUT/out\", files: [source.jsonl] }}"
        lines.append(f"  {name}: {{ stage: command, {head} }}")
    (folder / "command.yaml").write_text("\n".join(lines) + "\n")

    lines = ["rule copy", "  command = head -c 1000 $in > $out"]
    for name, inputs in dag:
        reads = " ".join(f"out/{one}" for one in inputs) or "source.jsonl"
        lines.append(f"build out/{name}: copy {reads}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")

    lines = ["rule all:", "    input: " + ", ".join(f'"out/{name}"' for name, _ in dag)]
    for name, inputs in dag:
        reads = ", ".join(f'"out/{one}"' for one in inputs) or '"source.jsonl"'
        lines += [f"rule {name}:", f"    input: {reads}", f'    output: "out/{name}"', '    shell: "head -c 1000 {input} > {output}"']
    (folder / "Snakefile").write_text("\n".join(lines) + "\n")

    lines = ["stages:"]
    for name, inputs in dag:
        reads = [f"out/{one}" for one in inputs] or ["source.jsonl"]
        lines += [f"  {name}:", f"    cmd: head -c 1000 {' '.join(reads)} > out/{name}", "    deps:"]
        lines += [f"    - {one}" for one in reads] + ["    outs:", f"    - out/{name}"]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")


main()
