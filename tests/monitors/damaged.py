"""Makes run folders that are damaged, or made to break a reader: a real small run, changed at random.

python -m tests.monitors.damaged 2000 7 > table.txt      # so many folders of seed 7: what each got, for a person
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from layerpace.monitors.folder import MonitorFolder
from layerpace.monitors.run import LayerInfo

Draw = random.Random
Change = Callable[[Draw, Path], str]
NAMES = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link",
    "two\nlines\r\nof it",
    "\u202egnp.exe\u2066",
    "\u200b\ufeff\x00\x9b2J",
    "\ud800half",
    "",
    " ",
    "x" * 20_000,
    "</script><img src=x onerror=alert(1)>",
    "[bold red]markup[/]",
    "$x^{$ \\frac",
    "{0} %s $name",
    "../../etc/passwd",
    "重み.weight",
    "e\u0301" * 50,
    "a" + "\u0300" * 500,
    "-1",
    "nan",
)
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e999, -1e999, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, 10**400,
    1763708400.123, 1e11, 1e12, True,
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, "", "text", "1", [], {}, [None], [[]], [[[1]]], {"a": None}, {"a": {"b": [1]}}, ["a", 1],
    [1] * 1000, {str(k): k for k in range(300)}, "y" * 100_000,
)  # fmt: skip


def deep(levels: int, kind: str) -> str:
    """JSON that is nested so many levels deep."""
    return "[" * levels + "]" * levels if kind == "[" else '{"a":' * levels + "1" + "}" * levels


def small_run(path: Path, records: int = 12) -> Path:
    """A run of four layers with records, scalars, initial weights and a finished state, as a monitor writes it."""
    layers = [
        LayerInfo("embed.weight", (17, 8)),
        LayerInfo("block.0.bias", (8,), excluded=True),
        LayerInfo("block.1.weight[0]", (4, 8)),
        LayerInfo("head.weight", (10, 8), trained=False),
    ]
    settings = {
        "model": "Net",
        "optimizers": [{"class": "LAMB", "groups": [{"lr": 0.01, "betas": [0.9, 0.999]}]}],
        "record_every": 10,
        "torch": "2.13",
    }
    folder = MonitorFolder(path, settings, layers)
    quantities = ("relative_update_l1", "weight_norm", "grad_norm", "update_norm", "learning_rate")
    ratios = ("trust_ratio", "trust_ratio_unclipped")
    for k in range(records):
        step = 1 + 10 * k
        values = [0.1 / (1 + k + place) for place in range(len(quantities) * 3)]
        keys = [f"{quantity}/{layer.name}" for quantity in quantities for layer in layers[:3]]
        folder.records.log_many(keys, [step], [1.7e9 + k], torch.tensor([values], dtype=torch.float64))
        if k % 3 == 0:
            more = [f"{quantity}/{layer.name}" for quantity in (*ratios, "cosine_distance") for layer in layers[:2]]
            row = torch.tensor([[0.2 + 0.1 * k] * len(more)], dtype=torch.float64)
            folder.records.log_many(more, [step], [1.7e9 + k], row)
        folder.records.log({"loss": 2.0 / (1 + k), "accuracy": k / records}, step, 1.7e9 + k)
    folder.save_initial({layer.name: torch.ones(layer.shape) for layer in layers if "[" not in layer.name})
    folder.finish()
    return path


def results_of(path: Path) -> dict[str, Any]:
    """A results.json as `layerpace compare` writes it, of which the run is the only one."""
    row = {
        "label": "LAMB", "lr": 0.01, "score_mean": 0.9, "score_sd": 0.01, "diverged": [], "seeds": 1,
        "steps_to_target": [100], "steps_to_target_mean": 100.0, "step_ms": 1.5, "optimizer_ms": 0.5,
        "unevenness": 0.3, "folders": [path.name], "tried": [],
    }  # fmt: skip
    config = {"kind": "layerpace compare", "task": "digits", "steps": 300, "seeds": 1}
    return {"config": config, "metric": "accuracy", "target": 0.95, "methods": [row]}


# Changes. Each takes a source of random numbers and a folder, and says what it did.


def flip_bytes(draw: Draw, path: Path) -> str:
    file = path / draw.choice(["run.json", "records.jsonl", "records.jsonl", "initial.pt"])
    data = bytearray(file.read_bytes())
    count = draw.choice([1, 1, 2, 10, 100])
    for _ in range(count):
        data[draw.randrange(len(data))] = draw.randrange(256)
    file.write_bytes(data)
    return f"{count} bytes of {file.name} changed"


def cut_file(draw: Draw, path: Path) -> str:
    file = path / draw.choice(["run.json", "records.jsonl", "records.jsonl", "initial.pt"])
    data = file.read_bytes()
    start, end = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
    kind = draw.choice(["end", "start", "middle", "twice", "zeros"])
    file.write_bytes({
        "end": data[:end], "start": data[start:], "middle": data[:start] + data[end:], "twice": data + data,
        "zeros": data[:start] + bytes(end - start) + data[end:],
    }[kind])  # fmt: skip
    return f"{file.name} cut: {kind}"


def other_content(draw: Draw, path: Path) -> str:
    file = path / draw.choice(["run.json", "records.jsonl", "results.json", "DONE"])
    whole = file.read_bytes() if file.exists() else b"{}"
    kind, data = draw.choice([
        ("empty", b""), ("a line end", b"\n"), ("null", b"null\n"), ("a list", b"[]\n"), ("a number", b"1e999\n"),
        ("UTF-16", whole.decode("utf-8", "replace").encode("utf-16")), ("a mark in front", b"\xef\xbb\xbf" + whole),
        ("Latin-1", '{"name": "Größe"}'.encode("latin-1")), ("CRLF", whole.replace(b"\n", b"\r\n")),
        ("NaN", b'{"a": NaN}'), ("random bytes", draw.randbytes(2000)), ("zeros", bytes(5000)),
        ("nested lists", deep(draw.choice([60, 70, 1000, 100_000]), "[").encode()),
        ("nested objects", deep(draw.choice([60, 70, 1000, 100_000]), "{").encode()),
        ("many digits", b'{"kind": ' + b"9" * 10_000 + b"}"), ("compressed", zlib.compress(whole)),
        ("one long line", whole.replace(b"\n", b" ")), ("base64", base64.b64encode(whole)),
    ])  # fmt: skip
    file.write_bytes(data)
    return f"{file.name}: {kind}"


def other_file(draw: Draw, path: Path) -> str:
    file = path / draw.choice(["run.json", "records.jsonl", "initial.pt", "results.json", "DONE"])
    kind = draw.choice(["missing", "a folder", "a link to nothing", "a link to itself", "a pipe", "/dev/zero", "moved"])
    other = path / "elsewhere"
    if file.exists():
        file.rename(other)
    {
        "missing": lambda: None,
        "a folder": file.mkdir,
        "a link to nothing": lambda: file.symlink_to(path / "nowhere"),
        "a link to itself": lambda: file.symlink_to(file),
        "a pipe": lambda: os.mkfifo(file),
        "/dev/zero": lambda: file.symlink_to("/dev/zero"),
        "moved": lambda: file.symlink_to(other),
    }[kind]()
    return f"{file.name} is {kind}"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the fields of a JSON value are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


def wrong_value(draw: Draw) -> tuple[Any, str]:
    kind = draw.choice(["odd", "number", "name", "deep"])
    if kind == "deep":
        levels = draw.choice([40, 70, 900])
        value: Any = 1
        for _ in range(levels):
            value = [value] if draw.random() < 0.5 else {"a": value}
        return value, f"{levels} levels"
    value = draw.choice({"odd": ODD, "number": NUMBERS, "name": NAMES}[kind])
    return value, ascii(value)[:30]


def change_field(draw: Draw, value: Any) -> tuple[Any, str]:
    """A JSON value with one field changed, doubled, added or gone."""
    place = draw.choice(places(value))
    new, what = wrong_value(draw)
    if not place:
        return new, f"all of it {what}"
    at = value
    for key in place[:-1]:
        at = at[key]
    name = ".".join(map(str, place))
    kind = draw.choice(["value", "value", "value", "gone", "twice", "key"])
    if kind == "gone":
        del at[place[-1]]
    elif kind == "twice" and isinstance(at, list):
        at.append(at[place[-1]])
    elif kind == "key" and isinstance(at, dict):
        at[draw.choice(NAMES)] = at.pop(place[-1])
    else:
        kind = f"is {what}"
        at[place[-1]] = new
    return value, f"{name} {kind}"


def written(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def change_settings(draw: Draw, path: Path) -> str:
    content: Any = json.loads((path / "run.json").read_text())
    said = []
    for _ in range(draw.choice([1, 1, 2, 5])):
        if isinstance(content, (dict, list)) and content:
            content, what = change_field(draw, content)
            said.append(what)
    written(path / "run.json", content)
    return f"run.json: {'; '.join(said)}"


def change_layer(draw: Draw, path: Path) -> str:
    """The fields of a layer that are read: what fits the schema but is strange, and what does not."""
    content = json.loads((path / "run.json").read_text())
    layer = draw.choice(content["layers"])
    shape = [[], [0], [0, 4], [4, 0], [-1], [2**53], [2**40, 2**40], [1] * 70, "8x8", [[8]], [8.5], None, 8, {"0": 8}]
    layer["name"], layer["shape"] = draw.choice([*NAMES, layer["name"], "embed.weight"]), draw.choice(shape)
    written(path / "run.json", content)
    return f"run.json: layer {ascii(layer['name'])[:30]} of shape {str(layer['shape'])[:30]}"


def change_line(draw: Draw, path: Path) -> str:
    """Of a line of records: its fields, as JSON."""
    lines = (path / "records.jsonl").read_text().splitlines()
    said = []
    for _ in range(draw.choice([1, 1, 3, 20])):
        at = draw.randrange(len(lines))
        try:
            content, what = change_field(draw, json.loads(lines[at]))
        except ValueError:
            continue
        lines[at] = json.dumps(content)
        said.append(f"line {at + 1}: {what}")
    (path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"records.jsonl, {'; '.join(said[:2])}"


def change_records(draw: Draw, path: Path) -> str:
    """All values, steps, times or keys of the records, kept in a form that passes for records."""
    lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    kind = draw.choice(["values", "one value", "steps", "times", "keys", "order", "sets", "scalars", "nothing"])
    numbers = [x for x in NUMBERS if type(x) in (int, float)]
    for line in lines:
        if kind == "keys" and "keys" in line:
            line["keys"] = [f"{key.partition('/')[0]}/{draw.choice(NAMES)}" for key in line["keys"]]
        if kind == "scalars" and "loss" in line.get("keys", ()):
            line["keys"] = draw.choices(NAMES, k=2)
        if "values" not in line:
            continue
        if kind == "values":
            line["values"] = [draw.choice([*numbers, None]) for _ in line["values"]]
        elif kind == "one value":
            line["values"][draw.randrange(len(line["values"]))] = draw.choice([*numbers, None])
        elif kind == "steps":
            line["step"] = draw.choice([0, -5, 1, 7, 2**31, 2**53, 2**63, 10**30])
        elif kind == "times":
            line["time"] = draw.choice([0.0, -5.0, 1.7e9, 1e11, 9e10, 1e12, 10.0**25, -1e11])
        elif kind == "nothing":
            line["values"] = [None for _ in line["values"]]
        elif kind == "sets":
            line["set"] = draw.choice([0, 1, 2, 99, 2**70])
    if kind == "order":
        draw.shuffle(lines)
    text = "\n".join(
        json.dumps(line).replace("Infinity", "1e999").replace("NaN", "null") if "values" not in line else
        f'{{"set": {line["set"]}, "step": {line["step"]}, "time": {line["time"]:.3f}, "values": '
        + json.dumps(line["values"]).replace("Infinity", "1e999").replace("NaN", "null") + "}"
        for line in lines
    )  # fmt: skip
    (path / "records.jsonl").write_text(text + "\n", encoding="utf-8")
    return f"records.jsonl: all {kind}"


def change_results(draw: Draw, path: Path) -> str:
    content, what = change_field(draw, results_of(path))
    written(path / "results.json", content)
    return f"results.json: {what}"


def odd_name(draw: Draw, path: Path) -> str:
    """The folder itself, and the run."""
    name = draw.choice([x for x in NAMES if x.strip() and not {"/", "\0"} & set(x) and len(x) < 200])
    content = json.loads((path / "run.json").read_text())
    content["name"] = draw.choice(NAMES)
    written(path / "run.json", content)
    path.rename(path / ".." / name.encode("utf-8", "replace").decode())
    return f"folder {ascii(name)[:30]}, run {ascii(content['name'])[:30]}"


CHANGES: tuple[Change, ...] = (
    flip_bytes, cut_file, other_content, other_file, change_settings, change_layer, change_line, change_records,
    change_results, odd_name,
)  # fmt: skip


def many_lines(path: Path, lines: int) -> str:
    """A run of two layers with so many records."""
    run = small_run(path, 1)
    content = json.loads((run / "run.json").read_text())
    content["layers"] = content["layers"][:2]
    written(run / "run.json", content)
    keys = [f"{quantity}/{layer['name']}" for quantity in ("weight_norm", "grad_norm") for layer in content["layers"]]
    head = json.dumps({"set": 0, "keys": keys}) + "\n"
    line = b'{"set": 0, "step": %d, "time": %d.5, "values": [1.5,1.5,0.1,0.2]}\n'
    body = b"".join(line % (step, 1_700_000_000 + step) for step in range(1, lines + 1))
    (run / "records.jsonl").write_bytes(head.encode() + body)
    return f"{lines} lines"


def make(template: Path, path: Path, seed: int) -> str:
    """A damaged folder at ``path``, with a folder of one run in it; what is wrong with it."""
    draw = random.Random(seed)
    path.mkdir()
    run = path / "run"
    shutil.copytree(template, run)
    changes = [CHANGES[seed % len(CHANGES)]]
    while draw.random() < 0.2:
        changes.append(draw.choice(CHANGES))
    said = []
    # A pipe in the place of a file must come last: to read it would never end.
    for change in sorted(changes, key=lambda change: (change is odd_name, change is other_file)):
        try:
            said.append(change(draw, run))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError):
            said.append(f"{change.__name__} had nothing left to change")
    return "; ".join(said)
