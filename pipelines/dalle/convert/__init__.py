"""Public checkpoints of the DALL·E path, turned once into folders that `Dalle` loads.

`python -m pipelines.convert SOURCE DEST` does it. Every key of a download is accounted for, and no
code in a pickle is run.
"""
