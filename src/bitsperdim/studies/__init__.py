"""Studies: experiments beside the models, each with a stage, a section of ``params.yaml`` and a part of the report."""
