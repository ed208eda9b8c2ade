"""Many runs: a spec names them, a searcher chooses them, an executor makes them, each in a folder of its own."""
