"""The arrows of the loop, joined: what each verb of the command line calls."""
