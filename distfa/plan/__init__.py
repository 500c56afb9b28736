"""Plans: what a run would cost on a cluster that is only described: time, bytes, memory, bottleneck.

cluster.py         the description: nodes, network, sites; which layer lies on which node
calibration.py     what products, passes and messages cost on a machine, and the file that keeps it
layer_schedule.py  the order of a layer's operations
queues.py          processors, network cards and links as queues
stages.py          what is simulated: stages and channels
build.py           a run on a cluster as stages and channels
simulate.py        the layers at work on them: a discrete-event simulation
pipeline.py        torch's pipeline of backpropagation as stages and channels, for comparison
bottleneck.py      what keeps a run from being faster, in words
predict.py         all of it put together
setup.py           from a run spec to what is predicted
measure.py         what a run is made of, timed on this machine
background.py      layers at work meanwhile
short_run.py       a short real run: what a plan is compared with
calibrate.py       a calibration from both

What a layer computes and holds is said by ``bench.arithmetic`` and ``bench.layer_memory``.
"""
