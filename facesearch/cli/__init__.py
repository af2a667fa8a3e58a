"""The command line: parse, call the engine, print. stdout is data, stderr is talk."""
