"""`ctrt-runtime`: the verbs of the OCI runtime, as engines call them, on bundles.

`options` reads the words, `verbs` does what they ask for, `main` tells how it went. What is needed
to show something to a person is imported only then: most calls come from programs, and wait.
"""
