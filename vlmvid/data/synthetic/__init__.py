"""The synthetic world: procedurally drawn clips with captions, questions and known attributes.

`world` decides what a scene contains, `draw` turns it into frames, `language` and `questions`
into text, `dataset` into files and manifest rows.
"""
