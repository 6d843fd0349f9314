"""The domain of pictures: nets, data sets, batches. Nothing outside this folder knows of pixels.

`datasets` registers the data sets, `nets` builds timm models and the literature's CIFAR nets.
"""
