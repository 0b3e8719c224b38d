"""The command line: one file for each command, and how processes are launched."""
