"""The configuration: what a file may say, how it is read and checked, where files live."""
