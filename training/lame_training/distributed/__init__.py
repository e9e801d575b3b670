"""Several processes of one training run: collectives, and parameters sharded with FSDP2.

processes   rank, world size, and the collectives that training needs
sharding    shards a model with FSDP2, and collects sharded tensors again
"""
