"""Settings, command line, files, devices, plots: what everything else stands on."""
