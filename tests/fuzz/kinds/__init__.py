"""The kinds: what they generate and call. One module per idea, one class per kind.

    runtime group      inputs media bundles contracts certificates tokenizers graphs flips
                       files rows arguments large
    training group     adapters checkpoints training-rows mixtures training-arguments

A worker opens all kinds of one group, because those of a group load the same libraries.
"""
