"""HTML pages and model cards, built from the files of finished and running stages: manifests, metrics and scores."""
