"""Jobs: their data, their life, the store that keeps them and the runner that drives them."""
