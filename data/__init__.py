"""Episodes on disk and in batches: the contract, LeRobotDataset v3 files, statistics, checks, windows.

    contract  what every array means        writer / encode / video   recording, one durable episode at a time
    reader    Dataset(root)                 check / repair            findings; the longest verified prefix
    stats     exact statistics              normalize                 checked scaling that lives in checkpoints
    cache     decoded frames in memory maps windows                   samples, windows, sampler, background loader

Imports nothing of ours. Everything a user can get wrong raises DataError with one line.
"""
