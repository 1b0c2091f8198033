"""The picture of a plan: well-formed, complete, the same every time, and readable whatever the size."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import text

import onnx_invert
from onnx_invert.report.drawing.boxes import MOST, arrange
from onnx_invert.report.drawing.moves import Kind, moves, subject
from onnx_invert.report.drawing.picture import picture

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ROOT / "tests" / "data" / "flows"
SVG = "{http://www.w3.org/2000/svg}"

CASES = {
    "path": (ROOT / "models/bijective.onnx", {}),
    "joined": (ROOT / "models/widening.onnx", {}),
    "coupling": (FLOWS / "freia_all_in_one_conv.dynamo.onnx", {"recover": ["x"]}),
    "triangular": (FLOWS / "nflows_maf_context.dynamo.onnx", {"recover": ["x"]}),
    "contraction": (FLOWS / "freia_iresnet.dynamo.onnx", {}),
    "torn": (FLOWS / "normflows_radial.legacy.onnx", {}),
    "masked": (FLOWS / "keras_masked.keras.onnx", {}),
    "newton": (ROOT / "models/mnist_relu.onnx", {}),
    "large block": (ROOT / "models/mnist_residual.onnx", {}),
    "decoder": (ROOT / "models/mnist_mlp.onnx", {"prior": ROOT / "tests/data/newton/decoder_mlp.onnx"}),
    "ends": (
        text(
            "g (float[N,6] x) => (float[N,3] y) { z = Relu(x) a, b = Split<axis=1>(z) c = Mul(a, b) y = Softmax(c) }"
        ),
        {},
    ),
    "nothing": (text("g (float[N,6] x) => (float[N,6] y) { y = Identity(x) }"), {}),
}


def couplings(layers, *, alike=True):
    """y = coupling after coupling, eleven nodes each; networks of random depth unless they are to be alike."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "x"

    def weight(name, *shape):
        weights.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        return name

    halves = numpy_helper.from_array(np.array([2, 2]), "halves")
    for k in range(layers):
        nodes.append(helper.make_node("Split", [tensor, "halves"], [f"a{k}", f"b{k}"], axis=1))
        h = f"a{k}"
        for depth in range(2 if alike else int(rng.integers(1, 5))):
            activation = "Relu" if alike else str(rng.choice(["Relu", "Tanh", "Sigmoid", "Elu"]))
            nodes.append(helper.make_node("MatMul", [h, weight(f"w{k}_{depth}", 2, 2)], [f"m{k}_{depth}"]))
            nodes.append(helper.make_node(activation, [f"m{k}_{depth}"], [h := f"h{k}_{depth}"]))
        nodes += [
            helper.make_node("MatMul", [h, weight(f"s{k}", 2, 2)], [f"ls{k}"]),
            helper.make_node("MatMul", [h, weight(f"t{k}", 2, 2)], [f"sh{k}"]),
            helper.make_node("Exp", [f"ls{k}"], [f"sc{k}"]),
            helper.make_node("Mul", [f"b{k}", f"sc{k}"], [f"p{k}"]),
            helper.make_node("Add", [f"p{k}", f"sh{k}"], [f"o{k}"]),
            helper.make_node("Concat", [f"o{k}", f"a{k}"], [tensor := f"y{k}"], axis=1),
        ]
    nodes[-1].output[0] = "y"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "couplings", ports[:1], ports[1:], [halves, *weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def plans():
    """The plans of all cases, each made once."""
    made = {}

    def plan(case):
        if case not in made:
            model, options = CASES[case]
            made[case] = onnx_invert.explain(model, **options)
        return made[case]

    return plan


@pytest.mark.parametrize("case", CASES)
def test_every_step_and_every_node_is_there(case, plans):
    plan = plans(case)
    root = ET.fromstring(onnx_invert.draw(plan, case))
    network, inverse = root.findall(f"{SVG}g")
    numbers = {n for place in inverse.iter(f"{SVG}g") for n in place.get("data-steps", "").split()}
    found = moves(plan)
    assert numbers == {str(number) for number in range(1, len(found) + 1)}
    told = "\n".join(title.text for title in network.iter(f"{SVG}title")).splitlines()
    nodes = {node for move in found for node in move.nodes}
    assert sorted(told) == sorted(f"{node.name} ({node.op_type})" for node in nodes)


@pytest.mark.parametrize("case", CASES)
def test_nothing_overlaps(case, plans):
    root = ET.fromstring(onnx_invert.draw(plans(case), case))
    width, height = float(root.get("width")), float(root.get("height"))
    columns = []
    for column in root.findall(f"{SVG}g"):
        x, y = map(float, column.get("transform").removeprefix("translate(").rstrip(")").split(","))
        boxes = []
        for place in column.findall(f"{SVG}g"):
            rect = place.find(f"{SVG}rect")
            left, top, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            boxes.append((x + left, y + top, x + left + w, y + top + h))
            for line in place.findall(f"{SVG}text"):
                assert left <= float(line.get("x")) <= left + w
                assert top < float(line.get("y")) < top + h
                assert 5.5 * len(line.text) <= w + 5
        for index, (left, top, right, low) in enumerate(boxes):
            assert left >= 0 and top >= 0 and right <= width and low <= height
            for other in boxes[:index]:
                assert left >= other[2] or right <= other[0] or top >= other[3] or low <= other[1]
        columns.append(boxes)
    assert max(b[2] for b in columns[0]) < min(b[0] for b in columns[1])


def test_a_coupling_says_what_runs_and_what_comes_back():
    plan = onnx_invert.explain(couplings(1))
    shown = picture(plan, "coupling")
    by_name = {place.forward.lines[0]: index for index, place in enumerate(shown.places)}
    ways = {(arrow.source, arrow.target): (arrow.comes_back, arrow.goes) for arrow in shown.arrows}
    back, onward = (True, False), (False, True)
    assert ways[by_name["x"], by_name["Split"]] == back
    assert ways[by_name["Split"], by_name["Mul"]] == back
    assert ways[by_name["Exp"], by_name["Mul"]] == onward
    assert ways[by_name["Mul"], by_name["Add"]] == back
    assert ways[by_name["Concat"], by_name["y"]] == back
    looks = {place.forward.lines[0]: place.look for place in shown.places}
    assert looks["Exp"] == looks["Relu"] == "run"
    assert looks["Mul"] == looks["Add"] == "undone"
    assert looks["Split"] == looks["Concat"] == "placed"
    assert (looks["x"], looks["y"]) == ("found", "known")
    steps = {place.forward.lines[0]: place.numbers for place in shown.places}
    assert max(steps["Exp"]) < min(steps["Mul"])
    assert max(steps["Add"]) < min(steps["Mul"]) < max(steps["Split"])


def test_what_is_given_and_what_is_not_used(plans):
    shown = picture(plans("triangular"), "flow")
    ports = {place.forward.lines[0]: place for place in shown.places if not place.numbers}
    assert ports["context"].inverse.lines[-1] == "given"
    assert ports["x"].inverse.lines[-1] == "recovered"
    assert sorted(place.inverse.lines[-1] for place in ports.values()) == [
        "given",
        "known first",
        "not used",
        "recovered",
    ]
    assert any(note.startswith("The inverse does not take ") for note in shown.notes)


def test_a_block_names_its_strategy(plans):
    assert any(
        "triangular: at most 5" in " ".join(lines) for lines in picture(plans("triangular"), "").frames.values()
    )
    assert any("a contraction" in " ".join(lines) for lines in picture(plans("contraction"), "").frames.values())
    (lines,) = picture(plans("newton"), "").frames.values()
    assert " ".join(lines) == "step 1: Gauss–Newton: 10 equations for 784 unknowns"


def test_what_comes_again_is_drawn_twice():
    shown = picture(onnx_invert.explain(couplings(40)), "forty")
    (again,) = (place for place in shown.places if place.look == "again")
    assert again.forward.lines == ("⋮  the same 37 times more", "407 nodes")
    assert any("drawn twice" in note for note in shown.notes)
    assert len(shown.places) <= MOST + 2


def test_layers_that_differ_share_boxes():
    plan = onnx_invert.explain(couplings(60, alike=False))
    shown = picture(plan, "sixty")
    assert len(shown.places) <= MOST + 2
    assert f" {len(moves(plan))} steps " in shown.subtitle
    count = len({node for move in moves(plan) for node in move.nodes})
    assert shown.notes[0].startswith(f"{count} nodes in ")


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 13, 21, 34])
@pytest.mark.parametrize("case", ["coupling", "triangular", "masked", "contraction", "decoder"])
def test_boxes_hold_every_node_once_and_make_no_cycle(case, most, plans):
    plan = plans(case)
    found = moves(plan)
    boxes = arrange(subject(plan).graph, found, most)
    home = {}
    for index, box in enumerate(boxes):
        for node in box.nodes:
            assert node not in home
            home[node] = index
    assert set(home) == {node for move in found for node in move.nodes}
    for node, index in home.items():
        makers = [value.producer() for value in node.inputs if value is not None]
        assert all(home[maker] <= index for maker in makers if maker in home)
    assert len(boxes) <= max(most, 20)


def test_what_runs_is_not_merged_with_what_is_undone():
    plan = onnx_invert.explain(couplings(12, alike=False))
    boxes = arrange(subject(plan).graph, moves(plan), most=30)
    assert len(boxes) <= 30
    assert {box.kind for box in boxes} <= {Kind.RUN, Kind.UNDONE, Kind.PLACED}


def test_names_that_xml_has_no_words_for():
    node = helper.make_node("Tanh", ["x"], ["y"], name='a"b\\N\\\n<&amp;>\x01{|}')
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]), ir_version=8)
    model.opset_import[0].version = 17
    root = ET.fromstring(onnx_invert.draw(onnx_invert.explain(model), "t\x02]]>&itle"))
    assert any('a"b\\N\\ <&amp;>�{|}' in (part.text or "") for part in root.iter(f"{SVG}text"))
    assert any("t�]]>&itle" in (part.text or "") for part in root.iter(f"{SVG}text"))


def test_the_same_plan_gives_the_same_bytes(tmp_path):
    onnx.save(couplings(2), tmp_path / "c.onnx")
    command = [sys.executable, "-m", "onnx_invert", "explain", "c.onnx", "--graph"]
    for seed in ("1", "2"):
        call = [*command, f"{seed}.svg"]
        subprocess.run(call, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True)
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
