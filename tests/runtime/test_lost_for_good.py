"""A node that is lost for good, and none to take its place: the run ends, and goes on with fewer workers."""

import re

import pytest
from ray.cluster_utils import Cluster
from runs import assert_same_bits

from distfa.data import load
from distfa.errors import ClusterError
from distfa.intake.subject import subject_for
from distfa.run.run import run
from distfa.settings import amend, parse_spec


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_whose_node_is_gone_goes_on_with_fewer_workers_as_if_nothing_had_been(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    spec = parse_spec(
        {
            "epochs": 3,
            "model": {"hidden": [8]},
            "checkpoint": {"every": 5, "seconds": 0.0},
            "ray": {"address": cluster.address, "placement": "strict_spread", "startup_seconds": 30},
            "run_dir": str(tmp_path / "run"),
        }
    )
    dataset = load("digits", limit=320)
    network = subject_for(spec, dataset).network

    def lose(progress):
        if progress.tally.steps == 12:
            cluster.remove_node(second, allow_graceful=False)

    try:
        with pytest.raises(ClusterError, match=r"resume with --set ray\.workers=1, which changes no result") as ended:
            run(spec, network, dataset, observer=lose)
        said = r"its last checkpoint is from step (10|15|20|25); to resume from there: distfa train --resume"
        assert re.search(said, str(ended.value))
        fewer = amend(spec, {"ray.workers": 1, "ray.placement": "pack"})
        _, weights = run(fewer, network, dataset, resume=tmp_path / "run")
    finally:
        cluster.shutdown()
    whole = amend(spec, {"engine": "serial", "run_dir": str(tmp_path / "whole")})
    assert_same_bits(weights, run(whole, network, dataset)[1])
