"""Descriptions of clusters: the example works, bad ones are refused in words, layers land where Ray puts them."""

import json

import pytest

from distfa.costs.arithmetic import Effort, Product
from distfa.errors import PlanError
from distfa.plan.calibration import Calibration, Speed
from distfa.plan.cluster import EXAMPLE, load_cluster, parse_cluster, place


def test_the_example_file_loads_as_it_is_printed(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(EXAMPLE)
    cluster = load_cluster(path)
    assert len(cluster.each) == 4
    assert cluster.each[0].nic_bits_per_second == 10e9
    assert cluster.network.latency_seconds == 50e-6


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"nodes": 0}, "nodes.0.count is 0"),
        ({"nodes": []}, r"nodes is \[\]"),
        ({"nodes": {"cores": 0}}, "nodes.0.cores is 0"),
        ({"nodes": {"flops_per_second": "fast"}}, "flops_per_second.* is 'fast'"),
        ({"nodes": 1, "network": {"latency_seconds": -1}}, "network.latency_seconds is -1"),
        ({"nodes": 1, "latency": 0}, "unknown key 'latency'; 'distfa plan --example'"),
        ({"nodes": [{"site": "a"}, {"site": "b"}]}, r"2 sites \(a, b\) but network.between_sites is missing"),
    ],
)
def test_a_wrong_description_is_refused_in_words(raw, message):
    with pytest.raises(PlanError, match=message):
        parse_cluster(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read the cluster"), ("- 1", "holds no keys"), ("a: [", "is not valid YAML")],
)
def test_a_file_that_is_no_description_is_refused(tmp_path, text, message):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match=message):
        load_cluster(path)


@pytest.mark.parametrize(
    ("placement", "cpus", "expected"),
    [
        ("pack", None, (0, 0, 1, 1, 2)),
        ("pack", 0.5, (0, 0, 0, 0, 1)),
        ("spread", None, (0, 1, 2, 0, 1)),
        ("strict_pack", 0.25, (0, 0, 0, 0, 0)),
    ],
)
def test_layers_land_where_ray_puts_them(placement, cpus, expected):
    assert place(parse_cluster({"nodes": {"count": 3, "cores": 2}}), 5, placement, cpus) == expected


@pytest.mark.parametrize(("placement", "cpus"), [("strict_spread", None), ("strict_pack", 1), ("pack", 2)])
def test_layers_that_do_not_fit_are_refused(placement, cpus):
    with pytest.raises(PlanError, match="5 layers do not fit on"):
        place(parse_cluster({"nodes": {"count": 3, "cores": 2}}), 5, placement, cpus)


def test_a_calibration_is_kept_whole_and_a_wrong_one_refused(tmp_path):
    path, found = tmp_path / "c.json", Calibration(products=((2, 3, 4, 0.5),), machine={"cores": 2})
    found.save(path)
    assert Calibration.load(path) == found
    path.write_text(json.dumps({"speed": 3}))
    with pytest.raises(PlanError, match=r"is not a calibration: unknown key 'speed'; make one with"):
        Calibration.load(path)
    with pytest.raises(PlanError, match="cannot read the calibration"):
        Calibration.load(tmp_path / "absent")


def test_products_take_what_was_measured_or_what_is_like_it_or_the_nodes_own_rates():
    measured = Calibration(products=((10, 10, 10, 1.0), (100, 100, 100, 10.0)), call_seconds=0.0)
    node = parse_cluster({"nodes": 1}).each[0]
    speed = Speed(calibration=measured, node=node, number_bytes=4)
    assert speed.seconds(Effort(products=(Product(10, 10, 10),))) == 1.0
    assert speed.seconds(Effort(products=(Product(11, 10, 10),))) == pytest.approx(1.1)
    assert speed.seconds(Effort(products=(Product(100, 100, 50),))) == pytest.approx(5.0)
    own = parse_cluster({"nodes": {"flops_per_second": 2e3, "memory_bytes_per_second": 4e3}}).each[0]
    speed = Speed(calibration=measured, node=own, number_bytes=4)
    assert speed.seconds(Effort(products=(Product(10, 10, 10),))) == 1.0  # 2000 FLOP, against 1200 bytes
    assert speed.seconds(Effort(products=(Product(1, 100, 100),))) == pytest.approx(4 * 10_200 / 4e3)  # memory-bound
    assert speed.seconds(Effort(passed_bytes=400, updated_bytes=400)) == pytest.approx(0.2)
