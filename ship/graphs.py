"""The text engines' networks as the same functions in fewer steps.

PP-OCRv4 was exported with hard-swish (Howard et al., ICCV 2019) in four elementwise steps and with a learned scale and
shift around it. ONNX Runtime takes those one by one, and leaves its blocked layout for each. Here they become what it
fuses or keeps in that layout; results differ by rounding only (ADR 19).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

Values = npt.NDArray[np.float32]


def simplified(path: Path) -> bytes:
    """Return the ONNX model at `path`, serialised, with every hard-swish, scale and shift in as few steps as can be."""
    model = onnx.load(path)
    graph = _Graph(model.graph)
    while graph.join_hard_swish() or graph.absorb_scale():
        graph.index()
    graph.write(model.graph)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes in topological order, the constants they take, and who makes and who takes each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.results = [value.name for value in graph.output]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.index()

    def index(self) -> None:
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.takers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.takers[name].append(node)

    def write(self, graph: onnx.GraphProto) -> None:
        """Put the nodes and the constants they take in place of those of `graph`."""
        taken = {name for node in self.nodes for name in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in taken
        )

    def join_hard_swish(self) -> bool:
        """Make one x · min(max(x + 3, 0), 6) / 6 an x · HardSigmoid(x); False when there is none."""
        for divide in self.nodes:
            if (divided := self._with_scalar(divide, "Div")) is None or divided[1] != 6:
                continue
            if (product := self._sole_maker(divided[0], "Mul")) is None:
                continue
            for x, gate in (product.input, product.input[::-1]):
                clip = self._sole_maker(gate, "Clip")
                if clip is None or [self._scalar(name) for name in clip.input[1:]] != [0, 6]:
                    continue
                shift = self._sole_maker(clip.input[0], "Add")
                if shift is None or self._with_scalar(shift, "Add") != (x, 3):
                    continue
                hard = helper.make_node("HardSigmoid", [x], [gate], alpha=1 / 6, beta=0.5)
                self._replace(shift, hard)
                self._replace(divide, helper.make_node("Mul", [x, gate], [divide.output[0]]))
                self._remove(clip, product)
                return True
        return False

    def absorb_scale(self) -> bool:
        """Take one a · x + b into the convolution that makes x, or those that take the sum, or make it one step."""
        for add in self.nodes:
            if (shifted := self._with_scalar(add, "Add")) is None:
                continue
            multiply = self._sole_maker(shifted[0], "Mul")
            if multiply is None or (scaled := self._with_scalar(multiply, "Mul")) is None:
                continue
            (x, scale), shift, total = scaled, shifted[1], add.output[0]
            if (source := self._sole_maker(x, "Conv")) is not None:
                weights, bias = self._kernel(source)
                self._give(source, source.input[0], weights * scale, bias * scale + shift)
                source.output[0] = total
                self._remove(multiply, add)
            elif total not in self.results and all(_is_pointwise(taker) for taker in self.takers[total]):
                for taker in self.takers[total]:
                    weights, bias = self._kernel(taker)
                    self._give(taker, x, weights * scale, bias + weights.sum(axis=(1, 2, 3)) * shift)
                self._remove(multiply, add)
            elif channels := self._channels(x):
                self._replace(add, self._normalisation(x, total, scale, shift, channels))
                self._remove(multiply)
            else:
                continue
            return True
        return False

    def _scalar(self, name: str) -> float | None:
        value = self.constants.get(name)
        return float(value.item()) if value is not None and value.size == 1 else None

    def _with_scalar(self, node: NodeProto, operator: str) -> tuple[str, float] | None:
        """The variable and the constant that a node of that operator takes, if it takes one of each."""
        if node.op_type != operator:
            return None
        first, second = node.input
        if (value := self._scalar(second)) is not None:
            return first, value
        if operator != "Div" and (value := self._scalar(first)) is not None:
            return second, value
        return None

    def _sole_maker(self, name: str, operator: str) -> NodeProto | None:
        """The node that makes a value which one node only takes, if it is of that operator."""
        node = self.maker.get(name)
        alone = len(self.takers[name]) == 1 and name not in self.results
        return node if alone and node is not None and node.op_type == operator else None

    def _kernel(self, convolution: NodeProto) -> tuple[Values, Values]:
        weights = self.constants[convolution.input[1]]
        none = np.zeros(weights.shape[0], np.float32)
        return weights, self.constants[convolution.input[2]] if len(convolution.input) > 2 else none

    def _give(self, node: NodeProto, x: str, *constants: Values) -> None:
        """Let a node take x and constants of its own."""
        del node.input[:]
        node.input.append(x)
        for value in constants:
            name = f"simplified.{len(self.constants)}"
            self.constants[name] = np.asarray(value, np.float32)
            node.input.append(name)

    def _normalisation(self, x: str, total: str, scale: float, shift: float, channels: int) -> NodeProto:
        """A scale and a shift for each channel: for that, ONNX Runtime has an operator in its blocked layout."""
        node = helper.make_node("BatchNormalization", [], [total], epsilon=0.0)
        one = np.ones(channels, np.float32)
        self._give(node, x, scale * one, shift * one, 0 * one, one)
        return node

    def _channels(self, name: str) -> int:
        """Of a value that a gate made of a convolution's result; 0 for any other."""
        while (node := self.maker.get(name)) is not None and node.op_type == "Mul":
            name = node.input[0]
        return self._kernel(node)[0].shape[0] if node is not None and node.op_type == "Conv" else 0

    def _replace(self, old: NodeProto, new: NodeProto) -> None:
        self.nodes[self.nodes.index(old)] = new

    def _remove(self, *nodes: NodeProto) -> None:
        for node in nodes:
            self.nodes.remove(node)


def _is_pointwise(node: NodeProto) -> bool:
    """Whether a node is a convolution without padding, beyond whose edges a shift would have to be known."""
    pads = [attribute.ints for attribute in node.attribute if attribute.name == "pads"]
    return node.op_type == "Conv" and not any(map(any, pads))
