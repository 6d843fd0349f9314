"""What `cosine.py` must give, worked out by itself: python -m kdbench.golden examples/cosine_golden.py"""

import numpy as np


def cosine_p2(s_embed, t_embed, srd_w, srd_b, p=2.0):
    """mean_b (1 - <unit(W s_b + c), unit(t_b)>)^p, unit(v) = v / ||v||_2; W, c = srd_w, srd_b"""
    projected = s_embed @ srd_w.T + srd_b
    dots = (projected * t_embed).sum(1)
    norms = np.sqrt((projected**2).sum(1) * (t_embed**2).sum(1))
    return ((1 - dots / norms) ** p).mean()
