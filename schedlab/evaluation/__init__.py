"""The lab, and `evaluate`: the only place where plans are run."""
