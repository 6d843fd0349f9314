"""From records to leaderboards: one `Board`, computed once; every rendering is a function of it."""
