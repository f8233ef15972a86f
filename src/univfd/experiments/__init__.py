"""The paper's experiments: one file each, reached by name; `PLUGIN` is a `univfd.study.experiment.Experiment`."""
