"""One network on two nodes: every layer goes where there is room, spread over both.

python examples/two_nodes.py                # two Ray nodes, started on this machine for the time of the example
python examples/two_nodes.py HOST:6379      # your own cluster: docs/clusters.md
"""

import contextlib
import sys

from torch import manual_seed, nn

import distfa


@contextlib.contextmanager
def two_nodes_here():
    """Address of a cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        yield cluster.address
    finally:
        cluster.shutdown()


def main(address=None):
    """Train on both."""
    with two_nodes_here() if address is None else contextlib.nullcontext(address) as cluster:
        manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
        trainer = distfa.Trainer(model, rule="dfa", epochs=4, ray={"address": cluster, "placement": "spread"})
        result = trainer.fit("digits")
    for layer in result.facts["layers"]:
        print(f"layer {layer['layer']} was at {layer['node']}, Ray's node {layer['ray_node'][:8]}")
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
