"""Plans: what a run would cost on a cluster that is only described: time, bytes, memory, bottleneck.

cluster.py      the description: nodes, network, sites; which layer lies on which node
calibration.py  what products, passes and messages cost on a machine, and the file that keeps it
effort.py       what a layer computes for one micro-batch, in products and passes over memory
memory.py       what a layer holds
stream.py       the order of its operations
wires.py        processors, network cards and links as queues
parts.py        what is simulated: stages and channels
build.py        a run on a cluster as stages and channels
simulate.py     the layers at work on them: a discrete-event simulation
peer.py         a backpropagation pipeline, for comparison
bottleneck.py   what keeps a run from being faster, in words
predict.py      all of it put together
setup.py        from a run spec to what is predicted
measure.py      the short real run that a calibration comes from
check.py        a prediction held against a real run on this machine
"""
