"""Results judged: what is claimed, what the saved weights give, what an epoch that is trained again ends with."""
