"""Hostile artefacts: what was changed after registration, what signs with the wrong key, and what attacks whoever opens it."""

import json
import os
import pickle
import zipfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from mlops_nb import guard, model
from mlops_nb.core.errors import MlopsError
from mlops_nb.model import manifest, mlflow_registry

X = pd.DataFrame({"temp": np.arange(60.0)})


@pytest.fixture
def signed(project, model_cache):
    "delay@1 and delay@2, signed; returns the folders of their files"
    guard.adopt_key(project)
    for c in (1.0, 0.1):
        model.log(LogisticRegression(C=c).fit(X, X.temp > 30), "delay", example=X, wait=True)
    return [mlflow_registry.fetch(project, model.resolve(f"delay@{n}").source) for n in (1, 2)]


class Thief:
    "A key that nobody pinned"

    def __init__(self):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.key = Ed25519PrivateKey.generate()
        self.public, self.sign = self.key.public_key().public_bytes_raw(), self.key.sign


def flip(at: Path):
    data = bytearray(at.read_bytes())
    data[len(data) // 2] ^= 1
    at.write_bytes(data)


def rehash(at: Path, key=None):
    "What an attacker who can write files would do"
    about = json.loads((at / "manifest.json").read_bytes())["about"]
    manifest.write(at, {"about": about})
    if key is not None:
        manifest.sign(at, key)


def replaced(one: Path, two: Path):
    "All files of version 1 in the place of version 2"
    for f in two.iterdir():
        f.unlink() if f.is_file() else None
    for f in one.iterdir():
        if f.is_file():
            (two / f.name).write_bytes(f.read_bytes())


def linked(at: Path):
    (at / "model.onnx").rename(at.parent / "elsewhere.onnx")
    (at / "model.onnx").symlink_to(at.parent / "elsewhere.onnx")


CHANGED = {  # what happens to the files of delay@2 (and delay@1) after registration -> what is said
    "unsigned": (lambda one, two: (two / manifest.ENVELOPE).unlink(), "is not signed"),
    "a bit of the model": (lambda one, two: flip(two / "model.onnx"), "changed after"),
    "a bit of the lock": (lambda one, two: flip(two / "requirements.lock"), "changed after"),
    "a file more": (lambda one, two: (two / "sitecustomize.py").write_text("import os"), "not in the manifest"),
    "a file less": (lambda one, two: (two / "example.parquet").unlink(), "is missing"),
    "a link": (lambda one, two: linked(two), "is a link"),
    "a folder as a link": (lambda one, two: (two / "more").symlink_to(two.parent), "is a link"),
    "changed and hashed again": (lambda one, two: (flip(two / "model.onnx"), rehash(two)), "was registered"),
    "changed and signed by a thief": (
        lambda one, two: (flip(two / "model.onnx"), rehash(two, Thief())),
        "no key that mlops.toml pins",
    ),
    "signature of another version": (
        lambda one, two: (two / manifest.ENVELOPE).write_bytes((one / manifest.ENVELOPE).read_bytes()),
        "belongs to another manifest",
    ),
    "all of another version": (replaced, "was registered"),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_version_that_was_changed_is_refused(how, signed, cli, project):
    do, said = CHANGED[how]
    assert cli("model", "verify", "delay@2").exit == 0
    do(*signed)
    answer = cli("model", "verify", "delay@2", "--json")
    assert answer.exit == 1
    assert any(said in p["message"] for p in answer.json["problems"]), answer.json["problems"]
    with (project.root / "mlops.toml").open("a") as f:
        f.write("\n[model]\nrequire_signature = true\n")
    with pytest.raises(MlopsError):
        model.load("delay@2")
    assert model.load("delay@1").predict(X).shape == (60,)


def test_an_expired_key_signs_nothing_any_more(signed, cli, project):
    key = manifest.key_id(guard.signer(project).public)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    with (project.root / "mlops.toml").open("a") as f:
        f.write(f'\n[model]\nkeys_until = "{key}={yesterday}"\n')
    answer = cli("model", "verify", "delay@2", "--json")
    assert answer.exit == 1
    assert "expired on" in answer.json["error"]["message"]


class Shell:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def graph(nodes, init=(), domain=""):
    g = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        list(init),
    )
    sets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(g, opset_imports=sets, ir_version=10).SerializeToString()


def external(location: str) -> bytes:
    t = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    t.ClearField("float_data")
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value=location)
    return graph([helper.make_node("Add", ["X", "w"], ["Y"])], [t])


def loop() -> bytes:
    "Its condition never becomes false, and there is no number of rounds"
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    return graph([helper.make_node("Loop", ["", "true", "X"], ["Y"], body=body)], [true])


def alloc(n: int = 200_000) -> bytes:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [n, n])
    return graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["s"], keepdims=0),
            helper.make_node("Add", ["X", "s"], ["Y"]),
        ],
        [shape],
    )


def hidden_alloc() -> bytes:
    "The shape is computed, so that only running it shows"
    three = helper.make_tensor("n", TensorProto.INT64, [2], [50_000, 50_000])
    return graph(
        [
            helper.make_node("Add", ["n", "n"], ["m"]),
            helper.make_node("ConstantOfShape", ["m"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["s"], keepdims=0),
            helper.make_node("Add", ["X", "s"], ["Y"]),
        ],
        [three],
    )


def lying() -> bytes:
    t = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    t.dims[0] = 1 << 40
    return graph([helper.make_node("Add", ["X", "w"], ["Y"])], [t])


def zipped(path: Path, entries: dict[str, bytes], link: str = ""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if name == link:
                info.external_attr = 0o120777 << 16
            z.writestr(info, data)


def link_to_data(p: Path):
    (p.parent / "m.bin").symlink_to("/etc/hostname")
    p.write_bytes(external("m.bin"))


HOSTILE = {  # name of the file -> (what makes it, kind of the finding)
    "model.pkl": (lambda p: p.write_bytes(pickle.dumps(Shell())), "pickle"),
    "protocol0.pkl": (lambda p: p.write_bytes(pickle.dumps(Shell(), 0)), "pickle"),
    "renamed.onnx": (lambda p: p.write_bytes(pickle.dumps(Shell())), "pickle"),
    "compressed.joblib": (lambda p: p.write_bytes(zlib.compress(pickle.dumps(Shell()))), "pickle"),
    "weights.pt": (lambda p: zipped(p, {"archive/data.pkl": pickle.dumps(Shell())}), "pickle"),
    "objects.npy": (lambda p: np.save(p, np.array([Shell()], dtype=object), allow_pickle=True), "pickle"),
    "in_a_zip.skops": (lambda p: zipped(p, {"weights": pickle.dumps(Shell())}), "pickle"),
    "outside.onnx": (lambda p: p.write_bytes(external("../../secret")), "external"),
    "absolute.onnx": (lambda p: p.write_bytes(external("/etc/passwd")), "external"),
    "through_a_link.onnx": (link_to_data, "external"),
    "library.onnx": (
        lambda p: p.write_bytes(graph([helper.make_node("Run", ["X"], ["Y"], domain="evil")], domain="evil")),
        "operator",
    ),
    "endless.onnx": (lambda p: p.write_bytes(loop()), "loop"),
    "alloc.onnx": (lambda p: p.write_bytes(alloc()), "bomb"),
    "hidden_alloc.onnx": (lambda p: p.write_bytes(hidden_alloc()), "bomb"),
    "lying.onnx": (lambda p: p.write_bytes(lying()), "bomb"),
    "zeros.skops": (lambda p: zipped(p, {"zeros": bytes(60_000_000)}), "bomb"),
    "leads_out.zip": (lambda p: zipped(p, {"../../evil": b"x"}), "path"),
    "holds_a_link.zip": (lambda p: zipped(p, {"link": b"/etc/passwd"}, link="link"), "link"),
    "linked.onnx": (lambda p: p.symlink_to("/etc/hostname"), "link"),
    "cut.onnx": (lambda p: p.write_bytes(alloc(3)[:20]), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_found_without_being_opened(name, project, cli, tmp_path):
    make, kind = HOSTILE[name]
    folder = tmp_path / "download"
    folder.mkdir()
    make(folder / name)
    answer = cli("model", "scan", folder / name, "--json")
    assert answer.exit == 1
    assert answer.json["findings"][0]["kind"] == kind, answer.json["findings"]
    assert answer.json["error"]["kind"] == "finding"
    X.to_parquet("rows.parquet")
    refused = cli("model", "log", folder / name, "evil", "--example", "rows.parquet")
    assert refused.exit in (2, 4)
    assert refused.err.count("\n") == 1
    assert not Path("pwned").exists()


def test_there_are_at_least_25():
    assert len(CHANGED) + 1 + len(HOSTILE) >= 25


def test_an_honest_model_passes(signed, cli, tmp_path):
    answer = cli("model", "scan", signed[0], "--json")
    assert (answer.exit, answer.json["findings"]) == (0, [])
    by_name = cli("model", "scan", "delay@1", "--json")
    assert cli("model", "scan", "delay@1").out.endswith("next: mlops model verify delay@1\n")
    assert (by_name.exit, by_name.json["files"], by_name.json["findings"]) == (0, answer.json["files"], [])
    small = onnx.load(signed[0] / "model.onnx")
    onnx.save(small, tmp_path / "small.onnx")
    assert cli("model", "scan", tmp_path / "small.onnx").exit == 0
