"""The paper's study on any data: who trains and who is tested, what the methods say, how it is told.

What is studied lies in `univfd.experiments`, one file an experiment; here is what experiments share. Figures come from
`univfd.metrics` by way of `univfd.benchmark`, as those of a benchmark do.
"""
