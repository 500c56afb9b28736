"""A sweep with Ray Tune: rules and rates, several runs at a time, each layer of each run an actor on the same cluster.

pip install "distfa[tune]"
python examples/sweep.py [serial]
"""

import sys
import tempfile

import ray
from ray import tune
from torch import manual_seed, nn

import distfa


class Report(distfa.Callback):
    """Tells Tune of every epoch, so that it can stop runs that fall behind."""

    def on_epoch(self, at):
        """The figures so far."""
        tune.report({"epoch": at.epoch, "accuracy": at.figures["test_accuracy"]})


def trial(config):
    """One run. Its layers ask for little, so that several runs find room on one machine."""
    manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    distfa.Trainer(
        model,
        rule=config["rule"],
        optimizer={"lr": config["lr"]},
        epochs=4,
        engine=config["engine"],
        ray={"resources": {"cpus": 0.25}},
        callbacks=Report(),
    ).fit("digits")


def main(engine="ray"):
    """Try them; returns the best result."""
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.25}),
        param_space={
            "engine": engine,
            "rule": tune.grid_search(["dfa", "fa"]),
            "lr": tune.grid_search([1e-4, 3e-3]),
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            max_concurrent_trials=2,
            scheduler=tune.schedulers.ASHAScheduler(time_attr="epoch", grace_period=2),
        ),
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=1),
    )
    best = tuner.fit().get_best_result()
    print(f"best: {best.config['rule']} with lr {best.config['lr']}, accuracy {best.metrics['accuracy']:.2%}")
    return best


if __name__ == "__main__":
    main(*sys.argv[1:])
