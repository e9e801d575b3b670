"""The ablation: LaME on digits with one part changed or left out, at equal time and equal steps.

An *arm* is the reference recipe or a variation of it in one respect. Each arm is trained with
several seeds, for the time that the reference takes and, for most arms, for its number of steps.

arms              the reference recipe and its variations
trial             one training run of an arm, in memory
calibration       how long a step of each arm takes, and how many steps fit into a time
ablation_runner   plans the trials and runs those that are missing
ablation_report   finished trials as a Markdown table and a plot
"""
