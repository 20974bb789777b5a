"""The command line: `ctrt VERB`. What the verbs do is the engine's; here they are printed."""
