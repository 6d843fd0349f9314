"""From a suite file to cells: everything that can be wrong is told before anything starts."""
