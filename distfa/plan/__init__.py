"""Plans: what a run would cost on a described cluster: time, bytes, memory, bottleneck.

cluster.py         the description: nodes, network, sites; which layer is on which node
calibration.py     what products, passes and messages cost on a machine, and the file that keeps it
queues.py          processors, network cards and links as queues
stages.py          what is simulated: stages and channels
build.py           a run on a cluster as stages and channels; torch's pipeline of it, for comparison
simulate.py        the layers at work on them: a discrete-event simulation
bottleneck.py      what keeps a run from being faster, in words
predict.py         all of it put together
setup.py           from a run spec to what is predicted
measure.py         the parts of a run, timed on this machine
background.py      layers at work during these measurements
short_run.py       a short real run, to compare a plan with
calibrate.py       a calibration from both

``costs`` says what a layer computes and holds.
"""
