"""All that a method file imports: `contract`, `register`, `functional`, `stages`, `adapters`."""
