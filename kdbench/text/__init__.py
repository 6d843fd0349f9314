"""The domain of texts: nets that read sequences, data sets, batches. Nothing outside this folder knows of words.

`datasets` registers the data sets and nets; `transformers` is imported when a net is built, not before.
"""
