"""What lies in the results folder, and in MLflow."""
