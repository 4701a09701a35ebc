"""Networks in fewer steps: the same results from the wheels' own models, and from every shape of a rule."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ship import ocr
from ship.graphs import simplified

CHANNELS = 8
X = np.random.default_rng(3).uniform(-4, 4, (1, CHANNELS, 5, 7)).astype(np.float32)


def run(model: bytes | Path, x: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def operators(model: bytes | Path) -> Counter[str]:
    loaded = onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model)
    return Counter(node.op_type for node in loaded.graph.node)


def a_model(path: Path, nodes: list[NodeProto], results: tuple[str, ...], constants: Mapping[str, Any]) -> Path:
    """A network of x, with its constants partly as initialisers and partly as nodes, as the two exports have them."""
    tensors = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    as_nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
        for name, value in tensors.items()
        if value.size == 1
    ]
    graph = helper.make_graph(
        [*as_nodes, *nodes],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, CHANNELS, None, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in results],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if value.size > 1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def conv(x: str, y: str, weights: str, *, pad: int = 0, bias: str = "") -> NodeProto:
    return helper.make_node("Conv", [x, weights, *([bias] if bias else [])], [y], pads=[pad] * 4)


def add(first: str, second: str, y: str) -> NodeProto:
    return helper.make_node("Add", [first, second], [y])


def scale(x: str, y: str) -> list[NodeProto]:
    """As the export writes it: the constant first, then last."""
    return [helper.make_node("Mul", ["a", x], [y + "m"]), add(y + "m", "b", y)]


def hard_swish(x: str, y: str) -> list[NodeProto]:
    return [
        add(x, "three", y + "s"),
        helper.make_node("Clip", [y + "s", "zero", "six"], [y + "c"]),
        helper.make_node("Mul", [x, y + "c"], [y + "p"]),
        helper.make_node("Div", [y + "p", "six"], [y]),
    ]


def changed(nodes: list[NodeProto], at: int, **inputs: str) -> list[NodeProto]:
    """The nodes with inputs of one of them renamed, by position: i0, i1, i2."""
    for position, name in inputs.items():
        nodes[at].input[int(position[1:])] = name
    return nodes


CONSTANTS = {
    "a": 0.7,
    "b": -1.3,
    "zero": 0.0,
    "three": 3.0,
    "six": 6.0,
    "k": np.random.default_rng(4).normal(size=(CHANNELS, CHANNELS, 1, 1)),
    "w": np.random.default_rng(5).normal(size=(CHANNELS, CHANNELS, 3, 3)),
    "c": np.random.default_rng(6).normal(size=CHANNELS),
}


@pytest.mark.parametrize("generation", ocr._GENERATIONS, ids=lambda generation: generation.name)
@pytest.mark.parametrize("part", ["detector", "recogniser"])
def test_a_network_of_the_wheels_gives_what_it_gave(generation: Any, part: str) -> None:
    spec = importlib.util.find_spec(generation.package)
    assert spec is not None
    path = Path(str(spec.origin)).parent / "models" / getattr(generation, part)
    shape = (1, 3, 96, 160) if part == "detector" else (1, 3, 48, 320)
    x = np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)
    model = simplified(path)
    np.testing.assert_allclose(run(model, x), run(path, x), atol=2e-5)
    if generation.name == "v4":
        before, after = operators(path), operators(model)
        assert before["Clip"] >= 24
        assert after["Clip"] == 0
        assert before["Div"] - after["Div"] == before["Clip"]
        assert after["Add"] + after["Mul"] < 0.45 * (before["Add"] + before["Mul"])


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (hard_swish("x", "y"), {"HardSigmoid": 1, "Mul": 1}),
        (changed(hard_swish("x", "y"), 2, i0="yc", i1="x"), {"HardSigmoid": 1, "Mul": 1}),
        ([conv("x", "u", "k"), *scale("u", "y")], {"Conv": 1}),
        ([conv("x", "u", "k"), *scale("u", "v"), add("u", "v", "y")], {"Conv": 1, "Add": 1, "BatchNormalization": 1}),
        ([conv("x", "u", "k", bias="c"), *scale("u", "y")], {"Conv": 1}),
        (
            [conv("x", "u", "w", pad=1), *scale("u", "v"), *hard_swish("v", "y")],
            {"Conv": 1, "HardSigmoid": 1, "Mul": 1},
        ),
        ([*scale("x", "u"), conv("u", "y", "k")], {"Conv": 1}),
        (
            [*scale("x", "u"), conv("u", "v", "k", bias="c"), conv("u", "t", "k"), add("v", "t", "y")],
            {"Conv": 2, "Add": 1},
        ),
        (
            [conv("x", "u", "k"), *hard_swish("u", "v"), *scale("v", "s"), conv("s", "y", "w", pad=1)],
            {"Conv": 2, "HardSigmoid": 1, "Mul": 1, "BatchNormalization": 1},
        ),
    ],
    ids=[
        "hard-swish", "gate-first", "scaled", "taken-unscaled-too", "scaled-with-bias", "all", "taken", "taken-by-two",
        "before-padding",
    ],
)  # fmt: skip
def test_fewer_steps_give_the_same(nodes: list[NodeProto], expected: dict[str, int], tmp_path: Path) -> None:
    path = a_model(tmp_path / "model.onnx", nodes, ("y",), CONSTANTS)
    model = simplified(path)
    assert operators(model) == expected
    np.testing.assert_allclose(run(model, X), run(path, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "results"),
    [
        (changed(hard_swish("x", "y"), 0, i1="six"), ("y",)),
        (changed(hard_swish("x", "y"), 1, i2="three"), ("y",)),
        (changed(hard_swish("x", "y"), 3, i1="three"), ("y",)),
        (changed(hard_swish("x", "y"), 3, i0="six", i1="yp"), ("y",)),
        (changed([helper.make_node("Relu", ["x"], ["r"]), *hard_swish("x", "y")], 3, i0="r"), ("y",)),
        (hard_swish("x", "y"), ("y", "yc")),
        (hard_swish("x", "y"), ("y", "ys")),
        ([helper.make_node("Relu", ["x"], ["r"]), *scale("r", "y")], ("y",)),
        ([conv("x", "u", "k"), *scale("u", "y")], ("y", "ym")),
        ([*scale("x", "u"), conv("u", "y", "w", pad=1)], ("y",)),
        ([*scale("x", "u"), conv("u", "y", "k")], ("y", "u")),
    ],
    ids=[
        "other-shift", "other-bound", "other-divisor", "divided-by-it", "other-value", "gate-is-a-result",
        "shift-is-a-result", "no-convolution", "product-is-a-result", "padded", "sum-is-a-result",
    ],
)  # fmt: skip
def test_what_only_looks_alike_stays(nodes: list[NodeProto], results: tuple[str, ...], tmp_path: Path) -> None:
    path = a_model(tmp_path / "model.onnx", nodes, results, CONSTANTS)
    model = simplified(path)
    before = operators(path)
    del before["Constant"]
    assert operators(model) == before
    np.testing.assert_allclose(run(model, X), run(path, X), rtol=1e-4, atol=1e-4)
