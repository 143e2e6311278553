"""What every room stands on: errors, configuration, artefacts, devices and progress. Imports nothing of NeoLM."""
