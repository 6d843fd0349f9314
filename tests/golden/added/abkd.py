"""ABKD on the golden arrays, from the paper's formula (arXiv:2505.04560): python -m kdbench.golden, this file."""

import numpy as np


def abkd(s_logits, t_logits, alpha=0.8, beta=0.3, temperature=4.0):
    """mean_b sum_k [a/(a+b) p_k^(a+b) + b/(a+b) q_k^(a+b) - p_k^a q_k^b] / (a b)

    p, q: softmaxes of t_logits/T and s_logits/T; a: alpha, b: beta. No T^2.
    """
    p, q = _softmax(t_logits / temperature), _softmax(s_logits / temperature)
    both = alpha + beta
    inner = alpha / both * p**both + beta / both * q**both - p**alpha * q**beta
    return inner.sum(1).mean() / (alpha * beta)


def _softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
