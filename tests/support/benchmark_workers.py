"""A measurement for benchmark workers; imports little, since each worker repeats it."""

import os

import torch


def prepare_noting(file, name):
    """Measures the number of threads and the process's id; notes start and rounds in a file."""

    def note(text):
        with file.open("a") as stream:
            stream.write(text)

    def measure():
        note(name)
        return {name: float(torch.get_num_threads()), f"pid of {name}": float(os.getpid())}

    note(name.lower())
    return measure
